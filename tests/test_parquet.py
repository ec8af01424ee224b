import importlib.util
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.documents import FileDocuments, read_queries
from ranklens.data.errors import InvalidInputError, MissingPrerequisiteError
from ranklens.data.load import load_collection
from ranklens.data.qrels import read_qrels
from ranklens.data.records import Document, Query

DOCS = {"_id": [7, 8, 9], "title": ["Cats", None, ""], "text": ["purr", "bark", ""]}
QRELS = {"query-id": ["1", "2"], "corpus-id": [7, 8], "score": [2, 0]}


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """Return a function that writes columns as a Parquet file in row groups of two."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    from importlib import import_module

    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")

    def make(name: str, columns: dict[str, list[Any]]) -> Path:
        path = tmp_path / name
        parquet.write_table(arrow.table(columns), path, row_group_size=2)
        return path

    return make


def test_documents_queries_and_qrels(table: Any, tmp_path: Path) -> None:
    table("d.parquet", {**DOCS, "vector": [[0.5] * 4] * 3})
    table("q.parquet", {"qid": [1, 2], "query": [" what purrs", "who barks"]})
    table("r.parquet", QRELS)
    (tmp_path / "collection.toml").write_text(
        'docs = "d.parquet"\nqueries = "q.parquet"\nqrels = "r.parquet"\n'
    )
    collection = load_collection(str(tmp_path))
    assert list(collection.documents) == [
        Document("7", "purr", "Cats"),
        Document("8", "bark"),
        Document("9", ""),
    ]
    assert collection.queries == [Query("1", "what purrs"), Query("2", "who barks")]
    assert {q: dict(grades) for q, grades in collection.qrels.items()} == {
        "1": {"7": 2},
        "2": {"8": 0},
    }


def test_times_beside_the_texts_are_no_trouble(table: Any) -> None:
    from importlib import import_module

    arrow = import_module("pyarrow")
    # A year of six digits, which Python's dates do not have.
    far = arrow.array([2**55] * 3, arrow.timestamp("ms"))
    documents = list(FileDocuments(table("d.parquet", {**DOCS, "crawled": far})))
    assert [document.id for document in documents] == ["7", "8", "9"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_id": ["a", "b", "a"]}, r"d\.parquet: row 3: document id 'a' .*first on row 1"),
        ({"_id": ["a", None, "c"]}, r"d\.parquet: row 2: no field '_id' or 'id'"),
        ({"_id": [0.5, 1.5, 2.5]}, r"d\.parquet: row 1: the field '_id' must be text, got 0\.5"),
        (
            {"text": [b"a", b"b", b"c"]},
            r"d\.parquet: row 1: the field 'text' must be text, got b'a",
        ),
    ],
)
def test_a_bad_document_names_its_row(table: Any, change: Any, message: str) -> None:
    path = table("d.parquet", DOCS | change)
    with pytest.raises(InvalidInputError, match=message):
        list(FileDocuments(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": [1.0, 2.0]}, r"r\.parquet: row 1: the field 'score' must be text, got 1\.0"),
        ({"score": ["1", "high"]}, r"r\.parquet: row 2: the grade 'high' is not an integer"),
        ({"corpus-id": ["", "x"]}, r"r\.parquet: row 1: the field 'corpus-id' is empty"),
        (
            {"query-id": ["1", "1"], "corpus-id": ["x", "x"]},
            r"r\.parquet: row 2: document 'x' of query '1' is judged 0 here and 2 on row 1",
        ),
    ],
)
def test_a_bad_judgement_names_its_row(table: Any, change: Any, message: str) -> None:
    path = table("r.parquet", QRELS | change)
    with pytest.raises(InvalidInputError, match=message):
        read_qrels(path)


def test_an_empty_query_names_its_row(table: Any) -> None:
    path = table("q.parquet", {"id": ["1", "2", "3"], "text": ["a", "b", " "]})
    with pytest.raises(InvalidInputError, match=r"q\.parquet: row 3: query '3' has no text"):
        read_queries(path)


def test_a_file_that_is_no_parquet_or_is_cut_off_is_named(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    path.write_text('{"_id": "a", "text": "x"}\n')
    with pytest.raises(InvalidInputError, match=r"d\.parquet: row 1: not a sound Parquet file"):
        list(FileDocuments(path))
    content = bytearray(table("d.parquet", DOCS).read_bytes())
    # What is damaged is the data; the footer, which is read first, is sound.
    content[4:40] = bytes(36)
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"d\.parquet: row 1: not a sound Parquet file"):
        list(FileDocuments(path))


def test_the_extra_is_checked_before_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyarrow" else found(name)
    )
    path = tmp_path / "d.parquet"
    path.touch()
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[parquet\]'"):
        list(FileDocuments(path))
