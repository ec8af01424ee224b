"""Terms against Lucene's own analysers, and retrieval in Chinese and Japanese by both engines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ranklens.data.errors import UsageError
from ranklens.data.passages import count_words, split_passages
from ranklens.data.records import Document, Query
from ranklens.retrieval.analysis import CJKAnalyzer, LuceneAnalyzer, analyzer_of
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.lucene import LuceneRetriever

pytest_plugins = ["cli_fixtures"]

# A text, the terms of CJKAnalyzer, those of Anserini's DefaultEnglishAnalyzer; blanks between.
TERMS = [
    ("日本語のテキスト", "日本 本語 語の のテ テキ キス スト", "日 本 語 の テキスト"),
    ("中国。北京", "中国 北京", "中 国 北 京"),
    ("ABC中国123", "abc 中国 123", "abc 中 国 123"),
    ("ＡＢＣ１２３ ｶﾀｶﾅ ｶﾞｷﾞ", "abc123 カタ タカ カナ ガギ", "ａｂｃ１２３ ｶﾀｶﾅ ｶﾞｷﾞ"),
    ("１，０００．５ 円", "1,000.5 円", "１，０００．５ 円"),
    ("カタカナー語", "カタ タカ カナ ナー ー語", "カタカナー 語"),
    ("한국어 텍스트 한", "한국 국어 텍스 스트 한", "한국어 텍스트 한"),
    ("한국ABC 语 漢字가나", "한국abc 语 漢字 字가 가나", "한국abc 语 漢 字 가나"),
    ("中1国 中・国 人々の", "中 1 国 中 国 人 々 の", "中 1 国 中 国 人 々 の"),
    ("𠀀𠀁 豈更 〇〇", "𠀀𠀁 豈更 〇〇", "𠀀 𠀁 豈 更 〇 〇"),
    ("the 中国 is a www test s t", "中国 test", "中 国 www test s t"),
    ("an is of", "an", ""),
    ("fig.2 and 3,000.5 x 1,2,3", "fig 2 3,000.5 x 1,2,3", "fig 2 3,000.5 x 1,2,3"),
    ("U.S.A. example.com foo:bar a:1 1:2", "u.s.a example.com foo:bar 1 1 2", None),
    ("snake_case _x_ ___ a_1 x_1.2", "snake_case _x_ a_1 x_1.2", "snake_cas _x_ a_1 x_1.2"),
    ("don't ‘quoted’ rock’n’roll a''b", "don't quoted rock’n’roll b", "don't quot rock’n’rol b"),
    ("state-of-the-art 10:30 a·b 1;2", "state art 10 30 a·b 1;2", None),
    ("a1.b2 1a.2b 2.a 3,a 3'000 3.", "a1 b2 1a 2b 2 3 3'000 3", None),
    ("IL-6 TNF-α p=0.05 0x3F 1e-5", "il 6 tnf α p 0.05 0x3f 1e 5", None),
    ("हिन्दी العَرَبِيَّة cafe\u0301", "हिन्दी العَرَبِيَّة cafe\u0301", None),
    ("m² ½ x2 ⅷ", "m x2 ⅷ", None),
    ("ไทยภาษา Привет", "ไทยภาษา привет", None),
    ("technology biology possibly nobly", None, "technolog biologi possibl nobli"),
    ("us vs es responsibly probably", None, "us vs es respons probabl"),
]
_LUCENE = """
import json, os, sys
from importlib.util import find_spec
from pathlib import Path
from ranklens.retrieval.java import find_java

java = find_java()
os.environ["JAVA_HOME"], os.environ["JVM_PATH"] = str(java.home), str(java.library)
(jar,) = Path(find_spec("pyserini").origin).parent.glob("resources/jars/anserini-*-fatjar.jar")
import jnius_config
jnius_config.add_classpath(str(jar))
jnius_config.add_options("-Xmx256m", "--enable-native-access=ALL-UNNAMED")
from jnius import autoclass
utils = autoclass("io.anserini.analysis.AnalyzerUtils")
analyzers = (
    autoclass("org.apache.lucene.analysis.cjk.CJKAnalyzer")(),
    autoclass("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance(),
)
print(json.dumps([[list(utils.analyze(a, t)) for a in analyzers] for t in json.load(sys.stdin)]))
"""


def skip_without_lucene() -> None:
    """Skip a test; what is asked is not imported, which would bring Java into this process."""
    if importlib.util.find_spec("pyserini") is None:
        pytest.skip("the extra lucene is not installed")


@pytest.mark.parametrize(("text", "cjk", "english"), TERMS)
def test_terms_are_those_written_down(text: str, cjk: str | None, english: str | None) -> None:
    if cjk is not None:
        assert CJKAnalyzer()(text) == cjk.split()
    if english is not None:
        assert LuceneAnalyzer()(text) == english.split()


def test_lucene_gives_the_same_terms() -> None:
    """Also of what is not written down: real words, for their stems."""
    skip_without_lucene()
    texts = [text for text, _, _ in TERMS] + [str(sys.modules[__name__].__doc__), _WORDS]
    done = subprocess.run(
        [sys.executable, "-c", _LUCENE], input=json.dumps(texts), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    english, cjk = LuceneAnalyzer(), CJKAnalyzer()
    for text, theirs in zip(texts, json.loads(done.stdout), strict=True):
        assert [cjk(text), english(text)] == theirs, text
    written = [(c, e) for _, c, e in TERMS]
    for (c, e), (lucene_c, lucene_e) in zip(written, json.loads(done.stdout), strict=False):
        assert c is None or c.split() == lucene_c
        assert e is None or e.split() == lucene_e


_WORDS = (
    "ably abilities geology ecologies terribly doubly syllable stably nobly apologies logistic "
    "analogously skies dying happily sensibilities conditional generalizations oscillators "
    "hopping falling feed agreed plastered sized filing controlling rolling relational radically "
    "digitizer conformably vietnamization predication operator feudalism decisiveness hopefulness "
    "callousness formality sensitivity triplicate formative formalize electricity electrical yy by "
    "say syzygy as is it's ox us gas bus this kiss classes wives leaves ties cries bly logy blis"
)


@pytest.mark.parametrize(
    "unit",
    [
        "_",
        "_a",
        "a:",
        "1,",
        "a'",
        "\u0301",
        "中",
        "カ",
        "ﾞ",
        "ー_",
        "a\u0301.",
        "²",
        "가",
        "가中",
        "。",
    ],
)
def test_hostile_repetition_takes_linear_time(unit: str) -> None:
    text = unit * 100_000
    began = time.perf_counter()
    for language in ("en", "cjk"):
        analyzer_of(language)(text)
    # A quadratic pass over so much takes minutes.
    assert time.perf_counter() - began < 10


CHINESE = [
    Document("beijing", "北京是中华人民共和国的首都。"),
    Document("tokyo-zh", "東京是日本的首都，在关东。"),
    Document("capital", "京都不是首都。"),
    Document("bread", "面包是用面粉烤的。", title="烤面包"),
]
JAPANESE = [
    Document("tokyo", "東京は日本の首都です。"),
    Document("kyoto", "京都は古い都です。"),
    Document("data", "データベースの設計とPython 3.11の使い方"),
    Document("half", "ﾃﾞｰﾀの分析"),
]


@pytest.fixture(scope="module")
def lucene() -> Iterator[LuceneRetriever]:
    skip_without_lucene()
    retriever = LuceneRetriever(language="zh")
    retriever.index([*CHINESE, *JAPANESE])
    yield retriever
    retriever.close()


@pytest.fixture
def bm25() -> BM25Retriever:
    retriever = BM25Retriever(language="ja")
    retriever.index([*CHINESE, *JAPANESE])
    return retriever


@pytest.mark.parametrize("engine", ["bm25", "lucene"])
def test_chinese_and_japanese_are_found(engine: str, request: pytest.FixtureRequest) -> None:
    retriever: Retriever = request.getfixturevalue(engine)
    queries = ["中华人民共和国", "东京", "東京", "京都", "データ", "ＰＹＴＨＯＮ", "面粉", "都"]
    run = retriever.search([Query(text, text) for text in queries], 10)
    found = {query: {doc.doc_id for doc in docs} for query, docs in run.items()}
    assert found == {
        "中华人民共和国": {"beijing"},
        "东京": set(),
        "東京": {"tokyo-zh", "tokyo"},
        "京都": {"capital", "kyoto"},
        "データ": {"data", "half"},
        "ＰＹＴＨＯＮ": {"data"},
        "面粉": {"bread"},
        "都": set(),
    }


def test_english_finds_single_characters() -> None:
    plain = BM25Retriever()
    plain.index([*CHINESE, *JAPANESE])
    found = plain.search([Query("q", "京都")], 10)["q"]
    assert {doc.doc_id for doc in found} == {"beijing", "tokyo-zh", "capital", "tokyo", "kyoto"}


def test_both_engines_score_alike_in_chinese(bm25: BM25Retriever, lucene: LuceneRetriever) -> None:
    queries = [Query(text, text) for text in ("首都", "日本的首都", "烤面包 Python")]
    runs = [retriever.search(queries, 10) for retriever in (bm25, lucene)]
    for query in queries:
        ours, theirs = ({d.doc_id: d.score for d in run[query.id]} for run in runs)
        assert ours
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_a_language_without_an_analyser() -> None:
    for make in (BM25Retriever, LuceneRetriever):
        with pytest.raises(UsageError, match="unknown language 'th'; choose en, cjk, zh, ja, ko"):
            make(language="th")


def test_characters_are_words_where_there_are_no_spaces() -> None:
    assert count_words("東京は the capital 한국어 カナ") == 3 + 2 + 1 + 2
    text = "東京は日本の首都です。" * 3
    assert [text[a:b] for a, b in split_passages(text, 22)] == [text[:22], text[22:]]


def chinese_folder(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"_id": d.id, "text": d.text, "title": d.title} for d in CHINESE]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "日本的首都"}))
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ttokyo-zh\t1\n")
    return folder


def test_the_command_line(
    tmp_path: Path, call: Callable[..., subprocess.CompletedProcess[str]], collection: Path
) -> None:
    folder, out = chinese_folder(tmp_path / "zh"), tmp_path / "zh.run"
    done = call("retrieve", folder, "-o", out)
    assert "4 of 4 documents have Chinese or Japanese in them" in done.stderr
    assert "`ranklens retrieve --language cjk`" in done.stderr
    documents = len(out.read_text().splitlines())
    for language in ("cjk", "ja", "en"):
        done = call("retrieve", folder, "-o", out, "--language", language)
        assert done.returncode == 0
        assert "warning" not in done.stderr
        assert (len(out.read_text().splitlines()) < documents) == (language != "en")
    done = call("retrieve", collection, "-o", out)
    assert "warning" not in done.stderr
    done = call("retrieve", folder, "-o", out, "--language", "th")
    assert done.returncode == 2
    assert "unknown language 'th'" in done.stderr


def test_a_retrieval_says_its_language() -> None:
    from ranklens.cli.retrievers import RetrieverSpec

    assert RetrieverSpec().describe()["language"] == "en"
    assert RetrieverSpec(language="ja").describe()["language"] == "cjk"
