from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.collection import Collection
from ranklens.data.errors import InvalidInputError
from ranklens.data.load import load_collection
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query
from ranklens.data.sampling import sampled

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes 40 documents, in an order, and these judgements."""

    def make(qrels: str, order: list[int] | None = None) -> Path:
        path = tmp_path / "forty"
        path.mkdir(exist_ok=True)
        (path / "docs.jsonl").write_text(
            "".join(
                json.dumps({"id": f"d{n}", "text": f"word {n}"}) + "\n"
                for n in order or list(range(40))
            )
        )
        (path / "queries.tsv").write_text("q1\tword 1\nq2\tword 2\nq3\tword 3\n")
        (path / "qrels.txt").write_text(qrels)
        (path / "collection.toml").write_text(
            'docs = "docs.jsonl"\nqueries = "queries.tsv"\nqrels = "qrels.txt"\n'
        )
        return path

    return make


QRELS = (
    "q1 0 d1 1\nq1 0 d2 0\nq1 0 d99 1\n"
    "q2 0 d3 1\nq2 0 d4 2\nq2 0 d5 1\nq2 0 d1 1\n"
    "q3 0 d6 1\nq3 0 d7 -1\n"
)


def by_hash(ids: list[str]) -> list[str]:
    return sorted(ids, key=lambda one: hashlib.sha256(one.encode()).hexdigest())


def test_relevant_documents_come_first_then_the_smallest_hashes(
    folder: Callable[..., Path],
) -> None:
    whole = load_collection(str(folder(QRELS)))
    relevant = {"d1", "d3", "d4", "d5", "d6"}
    others = by_hash([f"d{n}" for n in range(40) if f"d{n}" not in relevant])
    sample = sampled(whole, 9)
    ids = [document.id for document in sample.documents]
    assert set(ids) == relevant | set(others[:4])
    assert ids == [document.id for document in whole.documents if document.id in set(ids)]
    assert [query.id for query in sample.queries] == ["q1", "q2", "q3"]
    # What is judged irrelevant and not in the sample is gone; what was never there stays.
    judged = {doc_id for grades in sample.qrels.values() for doc_id in grades}
    assert judged == relevant | {"d99"} | ({"d2", "d7"} & set(ids))
    assert sample.notes[-1] == (
        "a sample: 9 of 40 documents, 3 of 3 queries; figures cannot be compared with published "
        "ones"
    )
    assert sample.documents.get_many(["d1", others[-1]]).keys() == {"d1"}


def test_the_order_of_the_file_plays_no_part(folder: Callable[..., Path]) -> None:
    def chosen(order: list[int] | None) -> set[str]:
        sample = sampled(load_collection(str(folder(QRELS, order))), 12)
        return {document.id for document in sample.documents}

    assert chosen(None) == chosen(list(range(39, -1, -1)))


def test_queries_whose_relevant_documents_do_not_fit_are_left_out(
    folder: Callable[..., Path],
) -> None:
    whole = load_collection(str(folder(QRELS)))
    sample = sampled(whole, 3)
    assert [query.id for query in sample.queries] == list(sample.qrels) == ["q1", "q3"]
    assert {"d1", "d6"} < {document.id for document in sample.documents}
    assert "3 of 40 documents, 2 of 3 queries" in sample.notes[-1]
    large = "".join(f"{q} 0 d{n} 1\n" for q in ("q1", "q2", "q3") for n in range(5))
    with pytest.raises(InvalidInputError, match=r"sample of 4 documents is too small .* has 5"):
        sampled(load_collection(str(folder(large))), 4)


def test_queries_without_a_judgement_left_are_left_out(folder: Callable[..., Path]) -> None:
    first = by_hash([f"d{n}" for n in range(40)])
    outside, other, inside = first[-1], first[-2], first[0]
    path = folder(f"q1 0 {outside} 0\nq2 0 {inside} 0\nq3 0 {other} 1\n")
    sample = sampled(load_collection(str(path)), 5)
    assert [query.id for query in sample.queries] == list(sample.qrels) == ["q2", "q3"]
    assert "2 of 3 queries" in sample.notes[-1]
    with pytest.raises(InvalidInputError, match="sample of 5 documents has none that is judged"):
        sampled(load_collection(str(folder(f"q1 0 {outside} 0\n"))), 5)


def test_a_sample_of_what_is_not_judged_keeps_all_queries(folder: Callable[..., Path]) -> None:
    path = folder(QRELS)
    (path / "collection.toml").write_text('docs = "docs.jsonl"\nqueries = "queries.tsv"\n')
    sample = sampled(load_collection(str(path)), 5)
    assert [query.id for query in sample.queries] == ["q1", "q2", "q3"]
    assert [document.id for document in sample.documents] == sorted(
        by_hash([f"d{n}" for n in range(40)])[:5], key=lambda one: int(one[1:])
    )


def test_many_queries_take_linear_time() -> None:
    class Numbered:
        def __iter__(self) -> Iterator[Document]:
            return (Document(f"d{n}", "text") for n in range(60_001))

        def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
            return {}

        def fingerprint(self) -> str:
            return "numbered"

    whole = Collection(
        "many",
        Numbered(),
        [Query(f"q{n}", "text") for n in range(60_000)],
        Qrels(Judgement(f"q{n}", f"d{n}", 1) for n in range(60_000)),
    )
    began = time.perf_counter()
    assert len(sampled(whole, 30_000).queries) == 30_000
    # With all that is relevant copied for each query it takes a minute.
    assert time.perf_counter() - began < 15


def test_a_sample_has_a_fingerprint_of_its_own(folder: Callable[..., Path]) -> None:
    whole = load_collection(str(folder(QRELS)))
    prints = {size: sampled(whole, size).fingerprint()["documents"] for size in (10, 11, 40)}
    assert len(set(prints.values())) == 3
    assert prints[40] == whole.fingerprint()["documents"]
    assert sampled(whole, 10).fingerprint()["documents"] == prints[10]
    assert sampled(whole, 40) is whole


def test_retrieve_searches_the_sample(call: Call, folder: Callable[..., Path]) -> None:
    path = folder(QRELS)
    output = path / "bm25.run"
    done = call("retrieve", path, "--sample", "9", "-o", output)
    assert done.returncode == 0
    assert "warning: a sample: 9 of 40 documents, 3 of 3 queries" in done.stderr
    expected = {document.id for document in sampled(load_collection(str(path)), 9).documents}
    # Every document has the word of every query.
    assert {line.split()[2] for line in output.read_text().splitlines()} == expected


def test_an_index_of_a_sample_says_what_it_is_of(call: Call, folder: Callable[..., Path]) -> None:
    retrieve = ["retrieve", folder(QRELS), "--index", "kept", "-o", "bm25.run"]
    assert call(*retrieve, "--sample", "9").returncode == 0
    other = call(*retrieve, "--sample", "10")
    assert other.returncode == 5
    assert 'documents: "sample of 9, sha256:' in other.stderr
    assert ' there, "sample of 10, sha256:' in other.stderr
    assert ' there, "sha256:' in call(*retrieve).stderr


def test_run_reranks_the_sample_and_knows_it_from_the_whole(
    call: Call, collection: Path, decoder: str, tmp_path: Path
) -> None:
    command = ["run", collection, "--out", tmp_path / "out", "--reranker", decoder, "--depth", "4"]
    done = call(*command, "--sample", "10")
    assert done.returncode == 0, done.stderr
    assert "10 of 12 documents, 4 of 4 queries" in done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["collection"]["name"] == "tiny (sample of 10)"
    other = call(*command)
    assert other.returncode == 5
    assert "other settings" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "c", "--out", "o", "--candidates", "all", "--sample", "3"], "--candidates are of"),
        (["retrieve", "c", "-o", "x", "--sample", "0"], "--sample must be at least 1, got 0"),
        (
            [
                "retrieve",
                "c",
                "-o",
                "x",
                "--retriever",
                "lucene",
                "--prebuilt",
                "y",
                "--sample",
                "3",
            ],
            "--prebuilt has its own",
        ),
    ],
)
def test_a_sample_of_something_else_is_refused(
    call: Call, arguments: list[str], message: str
) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
