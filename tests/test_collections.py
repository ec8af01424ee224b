import gzip
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.documents import FileDocuments, read_queries
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.load import load_collection
from ranklens.data.records import Document, Query

DOCS = [
    {"_id": "d1", "title": "Cats", "text": "Cats purr."},
    {"_id": "d2", "title": "", "text": "Dogs bark.\u2028Loudly."},
    {"_id": "d3", "title": "Fish", "text": "Fish swim."},
]
QUERIES = [{"_id": "q1", "text": " what purrs "}, {"_id": "q2", "text": "who barks"}]
HEADER = "query-id\tcorpus-id\tscore\n"

Beir = Callable[..., Path]


def jsonl(records: list[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.fixture
def beir(tmp_path: Path) -> Beir:
    """Return a function that writes a BEIR folder with these splits of qrels."""

    def make(packed: bool = False, **splits: str) -> Path:
        folder, end = tmp_path / "tiny", ".gz" if packed else ""
        put(folder / f"corpus.jsonl{end}", jsonl([dict(d) for d in DOCS]))
        put(folder / f"queries.jsonl{end}", jsonl([dict(q) for q in QUERIES]))
        for split, rows in splits.items():
            put(folder / "qrels" / f"{split}.tsv{end}", HEADER + rows)
        return folder

    return make


BOTH = "q1\td1\t2\nq2\td2\t1\n"


@pytest.mark.parametrize("packed", [False, True])
def test_a_beir_folder(beir: Beir, packed: bool) -> None:
    collection = load_collection(str(beir(packed, test=BOTH)))
    assert collection.name == "tiny/test"
    assert list(collection.documents) == [
        Document("d1", "Cats purr.", "Cats"),
        Document("d2", "Dogs bark.\u2028Loudly."),
        Document("d3", "Fish swim.", "Fish"),
    ]
    assert collection.queries == [Query("q1", "what purrs"), Query("q2", "who barks")]
    assert {q: dict(g) for q, g in collection.qrels.items()} == {"q1": {"d1": 2}, "q2": {"d2": 1}}
    assert collection.relevance_level == 1
    assert collection.notes == ()
    assert collection.documents.get_many(["d3", "absent", "d1"]).keys() == {"d1", "d3"}


def test_the_split_is_test_then_dev_then_train(beir: Beir) -> None:
    folder = beir(train="q1\td1\t1\n", dev="q2\td2\t1\n", test=BOTH)
    for split, queries in (("test", 2), ("dev", 1), ("train", 1)):
        collection = load_collection(str(folder))
        assert collection.name == f"tiny/{split}"
        assert len(collection.queries) == len(collection.qrels) == queries
        (folder / "qrels" / f"{split}.tsv").unlink()
    with pytest.raises(MissingResourceError, match=r"qrels: no test\.tsv, dev\.tsv or train\.tsv"):
        load_collection(str(folder))


def test_queries_without_judgements_and_judgements_without_queries_are_noted(beir: Beir) -> None:
    collection = load_collection(str(beir(test="q1\td1\t1\nq9\td2\t1\n")))
    assert [query.id for query in collection.queries] == list(collection.qrels) == ["q1"]
    assert collection.notes == (
        "1 queries without judgements are left out",
        "1 judged queries have no text (first: 'q9') and are left out",
    )


def test_queries_and_qrels_with_no_id_in_common_are_refused(beir: Beir) -> None:
    with pytest.raises(InvalidInputError, match=r"no query id of the qrels \(first: 'Q1'\).*'q1'"):
        load_collection(str(beir(test="Q1\td1\t1\n")))


def test_a_fingerprint_changes_with_each_file_and_only_then(beir: Beir) -> None:
    folder = beir(test=BOTH)
    before = load_collection(str(folder)).fingerprint()
    assert load_collection(str(folder)).fingerprint() == before
    for part, file in (
        ("documents", "corpus.jsonl"),
        ("queries", "queries.jsonl"),
        ("qrels", "qrels/test.tsv"),
    ):
        old = (folder / file).read_bytes()
        (folder / file).write_bytes(old + b"\n")
        after = load_collection(str(folder)).fingerprint()
        assert {key for key in before if before[key] != after[key]} == {part}
        (folder / file).write_bytes(old)


TOML = 'docs = "d.tsv"\nqueries = "q.tsv"\nqrels = "qrels.txt"\n'


@pytest.fixture
def described(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a folder with this collection.toml and TSV files."""

    def make(toml: str) -> Path:
        folder = tmp_path / "mine"
        put(folder / "collection.toml", toml)
        put(folder / "d.tsv", "d1\tCats\tpurr.\nd2\tDogs bark.\n")
        put(folder / "q.tsv", "1\twhat purrs\n2\twho barks\n")
        put(folder / "qrels.txt", "1 0 d1 3\n2 0 d2 1\n")
        put(folder / "bm25.run", "1 Q0 d2 1 2.0 t\n1 Q0 d1 2 1.0 t\n")
        return folder

    return make


def test_a_described_folder(described: Callable[[str], Path]) -> None:
    more = 'name = "pets"\nsplit = "dev"\nrelevance_level = 2\n[candidates]\nbm25 = "bm25.run"\n'
    collection = load_collection(str(described(TOML + more)))
    assert collection.name == "pets/dev"
    assert collection.relevance_level == 2
    assert list(collection.documents) == [
        Document("d1", "Cats\tpurr."),
        Document("d2", "Dogs bark."),
    ]
    assert collection.queries == [Query("1", "what purrs"), Query("2", "who barks")]
    assert [doc.doc_id for doc in collection.candidates("bm25")["1"]] == ["d2", "d1"]
    with pytest.raises(MissingResourceError, match=r"no candidates named 'splade' .*has: bm25"):
        collection.candidates("splade")


def test_a_described_folder_is_named_after_the_folder(described: Callable[[str], Path]) -> None:
    collection = load_collection(str(described(TOML)))
    assert (collection.name, collection.relevance_level) == ("mine", 1)
    with pytest.raises(MissingResourceError, match=r"\(it has: none\)"):
        collection.candidates("bm25")


@pytest.mark.parametrize(
    ("toml", "error", "message"),
    [
        (TOML + "docz = 1\n", InvalidInputError, r"unknown key 'docz'; the keys are candidates, d"),
        (
            'docs = "d.tsv"\nqrels = "qrels.txt"\n',
            InvalidInputError,
            "the key 'queries' is missing",
        ),
        (TOML + "name = 3\n", InvalidInputError, "'name' must be a string, got 3"),
        (TOML + 'relevance_level = "2"\n', InvalidInputError, "'relevance_level' must be an int"),
        (TOML + "relevance_level = true\n", InvalidInputError, "must be an integer, got True"),
        (TOML + "relevance_level = 0\n", InvalidInputError, "must be at least 1, got 0"),
        (TOML + 'candidates = "bm25.run"\n', InvalidInputError, "'candidates' must be a table"),
        (TOML + "[candidates]\nbm25 = 1\n", InvalidInputError, "'bm25' must be a string, got 1"),
        ("docs = d.tsv\n", InvalidInputError, r"collection\.toml: not valid TOML \(.*line 1"),
        ("docs = " + "[" * 9999, InvalidInputError, r"\.toml: not valid TOML \(it is nested too"),
        (f"relevance_level = {'1' * 5000}\n", InvalidInputError, r"not valid TOML \(Exceeds the l"),
        (TOML.replace("d.tsv", "x.tsv"), MissingResourceError, r"no such file: .*x\.tsv"),
        (TOML.replace("q.tsv", "x.tsv"), MissingResourceError, r"no such file: .*x\.tsv"),
        (TOML.replace("qrels.txt", "x"), MissingResourceError, r"no such file: .*x"),
    ],
)
def test_a_wrong_description_names_file_and_key(
    described: Callable[[str], Path], toml: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_collection(str(described(toml)))


def test_a_description_may_begin_with_a_byte_order_mark(
    described: Callable[[str], Path],
) -> None:
    # As editors on Windows write it.
    assert load_collection(str(described("\ufeff" + TOML))).name == "mine"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no/such/folder", "no collection 'no/such/folder': expected a folder"),
        ("idrs:beir/scifact", r"no collection 'idrs:beir/scifact': expected .*irds:ID"),
        ("sample:news", "no sample 'news'; there is sample:pydocs"),
    ],
)
def test_an_unknown_collection_names_the_forms(spec: str, message: str) -> None:
    with pytest.raises(MissingResourceError, match=message):
        load_collection(spec)


def test_a_folder_without_a_collection_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match=r"neither collection\.toml nor corpus\.jsonl"):
        load_collection(str(tmp_path))


@pytest.mark.parametrize("key", ["id", "_id", "docid", "doc_id"])
@pytest.mark.parametrize("text", ["text", "contents"])
def test_documents_answer_to_the_usual_names_and_integer_ids(
    tmp_path: Path, key: str, text: str
) -> None:
    path = put(tmp_path / "d.jsonl.gz", jsonl([{key: 7, text: "x", "title": 1984}]))
    assert list(FileDocuments(path)) == [Document("7", "x", "1984")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "d.jsonl",
            jsonl([{"id": "a", "text": ""}, {"id": "b", "text": ""}, {"id": "a", "text": "x"}]),
            r"d\.jsonl:3: document id 'a' occurs twice \(first on line 1\)",
        ),
        ("d.tsv", "a\tx\nb\ty\n\na\tz\n", r"d\.tsv:4: document id 'a' occurs twice .*line 1"),
        (
            "d.jsonl",
            jsonl([{"id": "a", "body": "x"}]),
            r"1: no field 'text' or 'contents'; found \['body', 'id'\]",
        ),
        ("d.jsonl", jsonl([{"text": "x"}]), r"1: no field '_id' or 'id' or 'docid'"),
        ("d.jsonl", jsonl([{"id": "d", "text": None}]), r"'contents'; found \['id'\]"),
        ("d.jsonl", jsonl([{"_id": "", "text": "x"}]), r"1: the field '_id' is empty"),
        ("d.jsonl", jsonl([{"id": " ", "text": "x"}]), r"1: the field 'id' is empty"),
        ("d.jsonl", jsonl([{"docid": "", "text": "x"}]), r"1: the field 'docid' is empty"),
        ("d.jsonl", jsonl([{"id": 1.5, "text": "x"}]), r"1: the field 'id' must be text, got 1\.5"),
        ("d.jsonl", jsonl([{"id": True, "text": "x"}]), r"1: the field 'id' must be text, got T"),
        ("d.jsonl", jsonl([{"id": "a", "text": ["x"]}]), r"1: the field 'text' must be text"),
        ("d.tsv", "a\tx\nno tab\n", r"d\.tsv:2: expected id<TAB>text, got 'no tab'"),
        ("d.tsv", "\ttext\n", r"d\.tsv:1: expected id<TAB>text"),
    ],
)
def test_a_bad_document_names_its_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        list(FileDocuments(put(tmp_path / name, content)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.tsv", "1\twhat\n2\t  \n", r"q\.tsv:2: query '2' has no text"),
        ("q.jsonl", '{"_id": "1", "text": ""}\n', r"q\.jsonl:1: query '1' has no text"),
        ("q.jsonl", '{"qid": 1, "query": "a"}\n' * 2, r"2: query id '1' occurs twice .*line 1"),
    ],
)
def test_a_bad_query_names_its_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_queries(put(tmp_path / name, content))


def test_scifact_loads(shared_collection: Callable[[str], Path]) -> None:
    collection = load_collection(str(shared_collection("scifact")))
    assert sum(1 for _ in collection.documents) == 5183
    assert len(collection.queries) == len(collection.qrels) == 300
    assert collection.notes == ("809 queries without judgements are left out",)


def test_trec_dl_2019_loads(shared_collection: Callable[[str], Path]) -> None:
    collection = load_collection(str(shared_collection("trec-dl-2019")))
    assert len(collection.queries) == len(collection.qrels) == 43
    assert sum(map(len, collection.qrels.values())) == 9260
    assert sorted(collection.candidate_runs) == [
        "ada2", "bm25", "bm25-rm3", "repllama", "splade", "tas-b",
    ]  # fmt: skip
    assert collection.relevance_level == 2
    assert {len(docs) for docs in collection.candidates("bm25").values()} == {100}


def test_irds_is_checked_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from ranklens.data.errors import MissingPrerequisiteError

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ir_datasets" else found(name)
    )
    with pytest.raises(
        MissingPrerequisiteError, match=r"ir_datasets is not installed: pip install 'ranklens\[irds"
    ):
        load_collection("irds:beir/scifact/test")
