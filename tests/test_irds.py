from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ranklens.cli.specs import find_candidates
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.load import load_collection
from ranklens.data.records import Document, Query
from ranklens.data.runs import read_run

pytest_plugins = ["cli_fixtures"]

# Importing ir_datasets makes folders in its home, so that has to be set before.
if find_spec("ir_datasets") is None:
    pytest.skip("the extra irds is not installed", allow_module_level=True)


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that registers a dataset of three local files under an id."""
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "home"))
    import ir_datasets

    added: list[str] = []

    def add(identifier: str, dataset: Any = None, **files: str) -> Any:
        if dataset is None:
            paths = {}
            for kind, text in files.items():
                # The document store is made beside the documents.
                paths[kind] = tmp_path / f"{kind}.txt"
                paths[kind].write_text(text, encoding="utf-8")
            dataset = ir_datasets.create_dataset(
                **{kind: str(path) for kind, path in paths.items()}
            )
        ir_datasets.registry.register(identifier, dataset)
        added.append(identifier)
        return dataset

    yield add
    for identifier in added:
        del ir_datasets.registry._registered[identifier]


FILES = {
    "docs_tsv": "d1\tCats purr.\nd2\tDogs bark.\nd3\tFish swim.\n",
    "queries_tsv": "1\t what purrs \n2\twho barks\n3\tunjudged\n",
    "qrels_trec": "1 0 d1 2\n1 0 d2 0\n2 0 d2 1\n",
}


def test_a_registered_dataset_is_a_collection(register: Any) -> None:
    register("ranklens-test/pets", **FILES)
    collection = load_collection("irds:ranklens-test/pets")
    assert collection.name == "ranklens-test/pets"
    assert list(collection.documents) == [
        Document("d1", "Cats purr."),
        Document("d2", "Dogs bark."),
        Document("d3", "Fish swim."),
    ]
    assert collection.queries == [Query("1", "what purrs"), Query("2", "who barks")]
    assert {q: dict(g) for q, g in collection.qrels.items()} == {
        "1": {"d1": 2, "d2": 0},
        "2": {"d2": 1},
    }
    assert collection.relevance_level == 1
    assert collection.notes == ("1 queries without judgements are left out",)
    assert collection.documents.get_many(["d3", "absent", "d1"]) == {
        "d1": Document("d1", "Cats purr."),
        "d3": Document("d3", "Fish swim."),
    }
    again = load_collection("irds:ranklens-test/pets")
    assert again.fingerprint() == collection.fingerprint()


def test_without_qrels_nothing_is_judged(register: Any) -> None:
    register("ranklens-test/beir/quora", **{k: FILES[k] for k in ("docs_tsv", "queries_tsv")})
    collection = load_collection("irds:ranklens-test/beir/quora")
    assert [query.id for query in collection.queries] == ["1", "2", "3"]
    assert len(collection.qrels) == 0
    # What the set's name says holds without judgements too.
    assert collection.remove_query
    assert [note.partition(":")[0] for note in collection.notes] == [
        "queries are documents of the corpus"
    ]
    assert set(collection.fingerprint()) == {"documents", "queries"}
    with pytest.raises(InvalidInputError, match=r"has no judgements.* a subset of ir_datasets"):
        collection.judgements("evaluation")


def test_a_set_without_qrels_is_searched_and_not_evaluated(
    register: Any, call: Any, tmp_path: Path
) -> None:
    register("ranklens-test/asked", **{k: FILES[k] for k in ("docs_tsv", "queries_tsv")})
    output = tmp_path / "bm25.run"
    done = call("retrieve", "irds:ranklens-test/asked", "-o", output)
    assert done.returncode == 0, done.stderr
    found = read_run(output)
    assert {query_id: found[query_id][0].doc_id for query_id in found} == {"1": "d1", "2": "d2"}
    done = call("data", "validate", "irds:ranklens-test/asked", output)
    assert done.returncode == 0, done.stdout
    assert "3 documents, 3 queries, 0 judgements; 0 kinds of errors" in done.stderr
    done = call("evaluate", "irds:ranklens-test/asked", output)
    assert done.returncode == 5
    assert "'ranklens-test/asked' has no judgements, which evaluation needs" in done.stderr


class TextQuery(NamedTuple):
    query_id: str
    text: str


class LinkQuery(NamedTuple):
    query_id: str
    url: str


class FakeQueries:
    """Queries of another record type, beside real documents and qrels."""

    def __init__(self, record: Any) -> None:
        self.record = record

    def queries_handler(self) -> "FakeQueries":
        return self

    def queries_iter(self) -> Iterator[Any]:
        yield self.record


def beside_real_documents(register: Any, identifier: str, queries: FakeQueries) -> None:
    from ir_datasets.datasets.base import Dataset

    rest = {kind: text for kind, text in FILES.items() if kind != "queries_tsv"}
    register(identifier, Dataset(queries, register(f"{identifier}/rest", **rest)))


def test_queries_that_are_but_a_text_are_read(register: Any) -> None:
    # As those of BRIGHT.
    beside_real_documents(register, "ranklens-test/plain", FakeQueries(TextQuery("1", " what ")))
    assert load_collection("irds:ranklens-test/plain").queries == [Query("1", "what")]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (LinkQuery("1", "http://x"), r"queries of 'ranklens-test/odd' are no texts \(LinkQuery\)"),
        (TextQuery("1", "half \ud83d"), "query '1' holds half of a surrogate pair"),
    ],
)
def test_queries_that_are_no_text_are_refused(register: Any, record: Any, message: str) -> None:
    beside_real_documents(register, "ranklens-test/odd", FakeQueries(record))
    with pytest.raises(InvalidInputError, match=message):
        load_collection("irds:ranklens-test/odd")


class TitledDoc(NamedTuple):
    doc_id: str
    text: str
    title: str

    def default_text(self) -> str:
        return f"{self.title} {self.text}"


class AbstractDoc(NamedTuple):
    doc_id: str
    title: str
    abstract: str

    def default_text(self) -> str:
        return f"{self.title} {self.abstract}"


class PageDoc(NamedTuple):
    doc_id: str
    url: str
    title: str
    headings: str
    body: str

    def default_text(self) -> str:
        return f"{self.title} {self.headings} {self.body}"


class NamedDoc(NamedTuple):
    doc_id: str
    text: str
    document_title: str

    def default_text(self) -> str:
        return f"{self.document_title} {self.text}"


class HeadedDoc(NamedTuple):
    doc_id: str
    headline: str
    body: str

    def default_text(self) -> str:
        return self.body


class ImageDoc(NamedTuple):
    doc_id: str
    png: bytes


class FakeStore:
    def __init__(self, records: list[Any]) -> None:
        self.records = {record.doc_id: record for record in records}

    def get_many(self, ids: list[str]) -> dict[str, Any]:
        return {doc_id: self.records[doc_id] for doc_id in ids if doc_id in self.records}


class FakeDocs:
    """Documents of another record type, beside real queries and qrels."""

    def __init__(self, records: list[Any], failure: Exception | None = None) -> None:
        self.records = records
        self.failure = failure

    def docs_handler(self) -> "FakeDocs":
        return self

    def docs_iter(self) -> Iterator[Any]:
        yield from self.records
        if self.failure:
            raise self.failure

    def docs_store(self) -> FakeStore:
        if self.failure:
            raise self.failure
        return FakeStore(self.records)


def beside_real_queries(register: Any, identifier: str, docs: FakeDocs) -> None:
    from ir_datasets.datasets.base import Dataset

    rest = {kind: text for kind, text in FILES.items() if kind != "docs_tsv"}
    register(identifier, Dataset(docs, register(f"{identifier}/rest", **rest)))


@pytest.mark.parametrize(
    ("record", "document"),
    [
        (TitledDoc("d1", "They purr.", "Cats"), Document("d1", "They purr.", "Cats")),
        (AbstractDoc("d1", "Cats", "They purr."), Document("d1", "They purr.", "Cats")),
        (PageDoc("d1", "http://x", "Cats", "They", "purr."), Document("d1", "They purr.", "Cats")),
        (NamedDoc("d1", "They purr.", "Cats"), Document("d1", "They purr.", "Cats")),
        # A text that does not begin with the title is left as it is: the title comes once.
        (HeadedDoc("d1", "CATS", "Cats They purr."), Document("d1", "Cats They purr.")),
    ],
)
def test_the_title_is_taken_once(register: Any, record: Any, document: Document) -> None:
    beside_real_queries(register, "ranklens-test/titled", FakeDocs([record]))
    documents = load_collection("irds:ranklens-test/titled").documents
    assert list(documents) == [document]
    assert documents.get_many(["d1"]) == {"d1": document}
    assert document.full_text == "Cats They purr."


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (ImageDoc("d1", b""), r"the documents of 'ranklens-test/odd' are no texts \(ImageDoc\)"),
        (TitledDoc("d7", "half \ud83d", ""), "document 'd7' holds half of a surrogate pair"),
        (TitledDoc("d7", "whole", "\udc00"), "document 'd7' holds half of a surrogate pair"),
    ],
)
def test_documents_that_are_no_text_are_refused(register: Any, record: Any, message: str) -> None:
    beside_real_queries(register, "ranklens-test/odd", FakeDocs([record]))
    documents = load_collection("irds:ranklens-test/odd").documents
    with pytest.raises(InvalidInputError, match=message):
        list(documents)
    with pytest.raises(InvalidInputError, match=message):
        documents.get_many([record.doc_id])


def with_scoreddocs(register: Any, tmp_path: Path, identifier: str, rows: str) -> None:
    from ir_datasets.datasets.base import Dataset
    from ir_datasets.formats import TrecScoredDocs
    from ir_datasets.util import LocalDownload

    path = tmp_path / "scored.txt"
    path.write_text(rows, encoding="utf-8")
    rest = register(f"{identifier}/rest", **FILES)
    register(identifier, Dataset(TrecScoredDocs(LocalDownload(path)), rest))


def test_scoreddocs_are_candidates(register: Any, tmp_path: Path) -> None:
    rows = "1 Q0 d3 9 1.5 x\n1 Q0 d1 1 2.5 x\n2 Q0 d2 1 0.5 x\n1 Q0 d2 1 1.5 x\n"
    with_scoreddocs(register, tmp_path, "ranklens-test/scored", rows)
    collection = load_collection("irds:ranklens-test/scored")
    assert list(collection.candidate_runs) == ["scoreddocs"]
    run = collection.candidates("scoreddocs")
    # Equal scores stay in the order of the file.
    assert [(doc.doc_id, doc.score) for doc in run["1"]] == [("d1", 2.5), ("d3", 1.5), ("d2", 1.5)]
    assert [doc.doc_id for doc in run["2"]] == ["d2"]
    with pytest.raises(MissingResourceError, match=r"named 'bm25' \(it has: scoreddocs\)"):
        collection.candidates("bm25")


def test_scoreddocs_without_an_order_are_warned_of(
    register: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The reranking sets of MS MARCO: query and document, no score.
    rows = "1\td3\n1\td1\n2\td2\n"
    with_scoreddocs(register, tmp_path, "ranklens-test/unordered", rows)
    collection = load_collection("irds:ranklens-test/unordered")
    run = find_candidates(collection, "scoreddocs", collection.queries)
    assert [doc.doc_id for doc in run["1"]] == ["d3", "d1"]
    # One document has no order to lack.
    assert "1 queries of the candidates 'scoreddocs' have one score" in capsys.readouterr().err


def test_bytes_that_are_not_utf_8_are_refused(register: Any, tmp_path: Path) -> None:
    register("ranklens-test/latin", **FILES)
    (tmp_path / "docs_tsv.txt").write_bytes(b"d1\tCaf\xe9\n")
    documents = load_collection("irds:ranklens-test/latin").documents
    message = "data of 'ranklens-test/latin' cannot be read: UnicodeDecodeError"
    with pytest.raises(InvalidInputError, match=message):
        list(documents)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1 Q0 d1 1 2 x\n1 Q0 d1 2 1 x\n", "the scoreddocs of 'ranklens-test/bad'.*'d1' occurs tw"),
        ("1 Q0 d1 1 nan x\n", "the scoreddocs of 'ranklens-test/bad'.*score nan"),
        ("1 Q0 d1 1 high x\n", "data of 'ranklens-test/bad' cannot be read: ValueError: could not"),
    ],
)
def test_scoreddocs_that_are_no_run_are_refused(
    register: Any, tmp_path: Path, rows: str, message: str
) -> None:
    with_scoreddocs(register, tmp_path, "ranklens-test/bad", rows)
    collection = load_collection("irds:ranklens-test/bad")
    with pytest.raises(InvalidInputError, match=message):
        collection.candidates("scoreddocs")


@pytest.mark.parametrize("failure", [ConnectionError("no route"), RuntimeError("all sources")])
def test_documents_that_cannot_be_fetched_are_missing(register: Any, failure: Exception) -> None:
    docs = FakeDocs([TitledDoc("d1", "text", "")], failure)
    beside_real_queries(register, "ranklens-test/broken", docs)
    documents = load_collection("irds:ranklens-test/broken").documents
    message = f"ir_datasets could not provide 'ranklens-test/broken': {failure}"
    with pytest.raises(MissingResourceError, match=message):
        list(documents)
    with pytest.raises(MissingResourceError, match=message):
        documents.get_many(["d1"])


@pytest.mark.parametrize(
    ("identifier", "level"),
    [
        ("ranklens-test/msmarco-passage/trec-dl-2019/judged", 2),
        ("ranklens-test/msmarco-document/trec-dl-2019", 1),
        ("ranklens-test/msmarco-passage/dev", 1),
    ],
)
def test_grade_1_is_not_relevant_in_the_passage_track_only(
    register: Any, identifier: str, level: int
) -> None:
    register(identifier, **FILES)
    assert load_collection(f"irds:{identifier}").relevance_level == level


def test_an_unknown_id_says_where_the_list_is(register: Any) -> None:
    with pytest.raises(MissingResourceError, match=r"no dataset 'no/such'; .*ir-datasets\.com"):
        load_collection("irds:no/such")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"docs_tsv": None}, "'ranklens-test/bad' has no docs; choose a subset"),
        ({"queries_tsv": None, "docs_tsv": None}, "has no docs and no queries; choose"),
        ({"qrels_trec": ""}, r"no query id of the qrels \(first: None\)"),
        ({"queries_tsv": "1\t \n2\twho barks\n"}, "query '1' has no text"),
        ({"queries_tsv": "1\ta\n1\tb\n"}, "query id '1' occurs twice"),
        ({"qrels_trec": "1 0 d1 1\n1 0 d1 2\n"}, "document 'd1' is judged twice, 1 and 2"),
        ({"qrels_trec": "1 0 d1 high\n"}, "data of 'ranklens-test/bad' cannot be read: ValueError"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_refused(
    register: Any, changes: dict[str, str | None], message: str
) -> None:
    files = {kind: text for kind, text in (FILES | changes).items() if text is not None}
    register("ranklens-test/bad", **files)
    with pytest.raises(InvalidInputError, match=message):
        load_collection("irds:ranklens-test/bad")
