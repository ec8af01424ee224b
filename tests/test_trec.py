import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.documents import FileDocuments, read_queries
from ranklens.data.errors import InvalidInputError
from ranklens.data.load import load_collection
from ranklens.data.records import Document, Query

DOCS = """\
<?xml version="1.0" encoding="UTF-8"?>
<DOC>
<DOCNO> FT911-3 </DOCNO>
<PROFILE>_AN-BEOA7AAIFT</PROFILE>
<HEADLINE>
FT  14 MAY 91 / International   Company News
</HEADLINE>
<TEXT>
CONTIGAS, the <b>German</b> gas group of Marks &amp; Co,
paid &lt;TEXT&gt; 3 < 4.
<P>
</TEXT>
<PUB>The Financial Times
</PUB>
</DOC>

<doc><docno>X-1</docno><text>One line.</text><text>Two texts.</text></doc>
<DOC>
<DOCNO>WTX-B01</DOCNO>
<DOCHDR>
http://example.org/ 19970101
</DOCHDR>
<html><title>Caf&eacute;</title><body>
Crawled <i>page</i>.
</body></html>
</DOC>
"""

TOPICS = """\
<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in it.

<narr> Narrative:
A relevant document must as a minimum identify
the organization.

</top>

<top>
<num> Number: 302
<title> Poliomyelitis and
Post-Polio
<desc> Description:
Is it under control?
<narr> Narrative:
Anything.
</top>
"""


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["d.trec", "D.SGML", "d.trectext.gz"])
def test_documents_have_id_title_and_text(tmp_path: Path, name: str) -> None:
    contigas, one_line, page = FileDocuments(put(tmp_path / name.lower(), DOCS))
    assert contigas == Document(
        "FT911-3",
        "CONTIGAS, the  German  gas group of Marks & Co,\npaid <TEXT> 3 < 4.",
        "FT 14 MAY 91 / International Company News",
    )
    assert one_line == Document("X-1", "One line.\nTwo texts.")
    assert page == Document("WTX-B01", page.text, "Café")
    assert page.text.split() == ["Crawled", "page", "."]


def test_documents_in_the_classic_layout_read_as_ir_datasets_reads_them(tmp_path: Path) -> None:
    pytest.importorskip("ir_datasets", reason="the extra irds is not installed")
    from ir_datasets.formats import TrecDocs
    from ir_datasets.util import LocalDownload

    classic = "".join(
        f"<DOC>\n<DOCNO> FT-{n} </DOCNO>\n<HEADLINE>\nNo {n}\n</HEADLINE>\n"
        f"<TEXT>\nLine {n}.\n\nAnother one: 3 < {n}, {n} > 2.\n</TEXT>\n<PUB>FT\n</PUB>\n</DOC>\n\n"
        for n in range(20)
    )
    path = put(tmp_path / "d.trec", classic)
    reader = TrecDocs(LocalDownload(path), content_tags=["TEXT"], parser="text")
    theirs = {doc.doc_id: doc.text.split() for doc in reader.docs_iter()}
    assert len(theirs) == 20
    assert {document.id: document.text.split() for document in FileDocuments(path)} == theirs


def test_topics_are_numbers_and_titles_as_ir_datasets_reads_them(tmp_path: Path) -> None:
    path = put(tmp_path / "topics.trec", TOPICS)
    assert read_queries(path) == [
        Query("301", "International Organized Crime"),
        Query("302", "Poliomyelitis and Post-Polio"),
    ]
    pytest.importorskip("ir_datasets", reason="the extra irds is not installed")
    from ir_datasets.formats import TrecQueries
    from ir_datasets.util import LocalDownload

    theirs = TrecQueries(LocalDownload(path)).queries_iter()
    assert read_queries(path) == [Query(t.query_id, " ".join(t.title.split())) for t in theirs]


def test_topics_of_the_first_years_and_closed_tags(tmp_path: Path) -> None:
    text = (
        "<top>\n<head> Tipster Topic Description\n<num> Number:  051\n<dom> Domain: Economics\n"
        "<title> Topic:  Airbus Subsidies\n<desc> Description:\nx\n</top>\n"
        "<TOP><NUM>52</NUM><TITLE>South &amp; Africa</TITLE></TOP>\n"
    )
    assert read_queries(put(tmp_path / "t.trec", text)) == [
        Query("051", "Airbus Subsidies"),
        Query("52", "South & Africa"),
    ]


OPEN = "<DOC>\n<DOCNO>a</DOCNO>\n<TEXT>x</TEXT>\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n<DOC>\n<TEXT>x</TEXT>\n</DOC>\n", r"d\.trec:2: .* has no <DOCNO>"),
        ("<DOC><DOCNO> </DOCNO></DOC>\n", r"d\.trec:1: .* has no <DOCNO>"),
        (OPEN, r"d\.trec:1: the <DOC> that begins here is never closed: the file ends"),
        (OPEN + OPEN + "</DOC>\n", r"d\.trec:1: .*never closed: another begins on line 4"),
        (OPEN + "</DOC>\n</DOC>\n", r"d\.trec:5: </DOC> without a <DOC> before it"),
        (
            OPEN + "</DOC>\n" + OPEN + "</DOC>\n",
            r"d\.trec:5: document id 'a' occurs twice .*ne 1\)",
        ),
        ("<DOC><DOCNO>a</DOCNO><DOCNO>b</DOCNO></DOC>\n", r"1: .*more than one <DOCNO>: 'a\\nb'"),
        ("d1\ttext\n", r"d\.trec: no <DOC> in the file; is it TREC text\?"),
    ],
)
def test_a_bad_document_names_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        list(FileDocuments(put(tmp_path / "d.trec", content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<top>\n<title> x\n</top>\n", r"q\.trec:1: .* has no <num>"),
        ("<top>\n<num> Number: 1\n<title>\n<desc> y\n</top>\n", r"q\.trec:1: .* has no <title>"),
        ("<top>\n<num> 1\n<title> x\n<top>\n", r"q\.trec:1: the <top> .*another begins on line 4"),
        (TOPICS * 2, r"q\.trec:24: query id '301' occurs twice \(first on line 1\)"),
        ("", r"q\.trec: no <top> in the file"),
    ],
)
def test_a_bad_topic_names_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_queries(put(tmp_path / "q.trec", content))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("a <b", "a <b"),
        ("if x<y and y>z", "if x z"),
        ("<script>alert(1)</script> &lt;/DOC&gt;", "alert(1)  </DOC>"),
        (
            "<title>not the title</title> x <docno>nor the id</docno>",
            "not the title  x  nor the id",
        ),
        ("a <!-- b --> c", "a   c"),
        ("&#" + "9" * 5000, "&#" + "9" * 5000),
        ("&nosuch; &#xD800;", "&nosuch; \ufffd"),
        ("\x00\u2028<\x01", "\x00\u2028<\x01"),
    ],
)
def test_hostile_text_stays_text(tmp_path: Path, body: str, text: str) -> None:
    content = f"<DOC><DOCNO>a</DOCNO><TEXT>{body}</TEXT></DOC>\n"
    assert list(FileDocuments(put(tmp_path / "d.trec", content))) == [Document("a", text)]


FOLDER = 'docs = "disk"\ndocs_format = "trec"\nqueries = "topics.301-302"\nqrels = "qrels.txt"\n'


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a folder of TREC files without suffixes."""

    def make(toml: str) -> Path:
        first, rest = DOCS.split("<doc>")
        put(tmp_path / "disk" / "ft" / "ft911_1.gz", first)
        put(tmp_path / "disk" / "wt" / "b01", f"<doc>{rest}")
        put(tmp_path / "disk" / ".ds_store", "not a document")
        put(tmp_path / "topics.301-302", TOPICS)
        put(tmp_path / "qrels.txt", "301 0 X-1 1\n302 0 FT911-3 1\n")
        put(tmp_path / "collection.toml", toml)
        return tmp_path

    return make


def test_a_folder_of_files_is_one_corpus(disk: Callable[[str], Path]) -> None:
    folder = disk(FOLDER + 'queries_format = "trec"\n')
    collection = load_collection(str(folder))
    assert [document.id for document in collection.documents] == ["FT911-3", "X-1", "WTX-B01"]
    assert [query.id for query in collection.queries] == ["301", "302"]
    before = collection.fingerprint()
    (folder / "disk" / "wt" / "b01").rename(folder / "disk" / "wt" / "b02")
    after = load_collection(str(folder)).fingerprint()
    assert [part for part in before if before[part] != after[part]] == ["documents"]
    put(folder / "disk" / "wt" / "b03", "<DOC><DOCNO>X-1</DOCNO></DOC>")
    with pytest.raises(InvalidInputError, match=r"b03:1: document id 'X-1' .*first in .*b02:1\)"):
        list(FileDocuments(folder / "disk", "trec"))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            FOLDER,
            r"topics\.301-302: the suffix '\.301-302' does not say .*queries_format = \"trec\"",
        ),
        (
            FOLDER.replace('docs_format = "trec"\n', ""),
            r"ft911_1\.gz: a name without a suffix does",
        ),
        (
            FOLDER.replace('"trec"', '"sgml"'),
            r"'docs_format' is 'sgml'; choose jsonl, tsv, trec, p",
        ),
    ],
)
def test_a_name_that_tells_no_format_is_refused(
    disk: Callable[[str], Path], toml: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load_collection(str(disk(toml)))
