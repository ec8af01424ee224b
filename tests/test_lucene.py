"""Lucene through its process: its figures, hostile text, and a process that dies."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.load import load_collection
from ranklens.data.records import Document, Query
from ranklens.eval.measures import evaluate
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.lucene import LuceneRetriever
from ranklens.retrieval.lucene_process import WorkerDiedError

pytest_plugins = ["cli_fixtures"]

DOCUMENTS = [
    Document("oven", "Bread is baked in an oven.", title="Baking"),
    Document('a "b" c', 'bread "and" butter\nagain'),
    Document("é/ü", "bread \ud800 with a broken character and a zero \x00"),
    Document("-1", ""),
    Document("tie-2", "guitar strings"),
    Document("tie-1", "guitar strings"),
    Document("baking", "Nothing of it here.", title="Bread, bread"),
]


@pytest.fixture(scope="module")
def indexed() -> Iterator[LuceneRetriever]:
    retriever = LuceneRetriever()
    retriever.index(DOCUMENTS)
    yield retriever
    retriever.close()


def found(retriever: LuceneRetriever | BM25Retriever, text: str, k: int = 10) -> dict[str, float]:
    return {doc.doc_id: doc.score for doc in retriever.search([Query("q", text)], k)["q"]}


def alive(pid: int) -> bool:
    """Say whether a process runs; one that is dead and not yet waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_it_scores_as_bm25s_does(indexed: LuceneRetriever) -> None:
    """Documents this short have exact lengths in Lucene's one-byte norms; none is no document."""
    ours = BM25Retriever()
    ours.index(document for document in DOCUMENTS if document.full_text)
    for text in ("bread", "baked bread butter", "guitar", "again baking nothing"):
        expected = found(ours, text)
        assert found(indexed, text) == pytest.approx(expected, abs=1e-4)
        assert list(found(indexed, text)) == list(expected)
        assert expected


@pytest.mark.parametrize(
    "text", ['bread AND (butter* c:d"', "+bread -oven ~2 ^9 [a TO z]", "bread \ud800", "bread\n\t"]
)
def test_a_query_is_text_and_no_syntax(text: str, indexed: LuceneRetriever) -> None:
    assert set(found(indexed, text)) >= {"oven", 'a "b" c', "é/ü", "baking"}


def test_queries_without_a_hit_and_several_at_once(indexed: LuceneRetriever) -> None:
    texts = ["", "the of", "bread", "zebra", "guitar"]
    run = indexed.search([Query(f"q {n}", text) for n, text in enumerate(texts)], 1)
    assert [len(run[f"q {n}"]) for n in range(5)] == [0, 0, 1, 0, 1]
    assert run.tag == "lucene"


def test_equal_scores_go_by_id_and_k_is_kept(indexed: LuceneRetriever) -> None:
    assert list(found(indexed, "guitar")) == ["tie-1", "tie-2"]
    assert len(found(indexed, "bread", 2)) == 2
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        found(indexed, "bread", 0)


def test_java_stays_out_of_this_process(indexed: LuceneRetriever) -> None:
    assert indexed.pid != os.getpid()
    assert not {"jnius", "pyserini"} & set(sys.modules)


def test_an_index_that_lucene_cannot_write_is_an_error(
    indexed: LuceneRetriever, tmp_path: Path
) -> None:
    """More documents than pipes hold: whoever sends them must not wait for whoever answers."""
    (tmp_path / "file").write_text("")
    many = [Document(f"d{number}", "bread " * 20) for number in range(20_000)]
    before = indexed.pid
    with pytest.raises(InvalidInputError, match=r"Lucene: .*file"):
        indexed.build(many, tmp_path / "file")
    assert set(found(indexed, "oven")) == {"oven"}
    assert indexed.pid == before


def test_what_was_interrupted_is_not_taken_for_what_comes_next(
    indexed: LuceneRetriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def __init__(self, stream: IO[bytes]) -> None:
            self.close = stream.close

        def readline(self) -> bytes:
            raise KeyboardInterrupt

    def broken() -> Iterator[Document]:
        yield from DOCUMENTS
        raise InvalidInputError("line 8: not JSON")

    process = indexed._started()._process
    assert process.stdout is not None
    monkeypatch.setattr(process, "stdout", Interrupted(process.stdout))
    with pytest.raises(KeyboardInterrupt):
        found(indexed, "guitar")
    assert indexed.pid is None
    assert set(found(indexed, "oven")) == {"oven"}
    with pytest.raises(InvalidInputError, match="line 8"):
        indexed.build(broken(), tmp_path)
    assert indexed.pid is None


def test_a_dead_process_is_started_again_once(
    indexed: LuceneRetriever, caplog: pytest.LogCaptureFixture
) -> None:
    expected, before = found(indexed, "bread"), indexed.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    with caplog.at_level(logging.WARNING, "ranklens"):
        assert found(indexed, "bread") == expected
    (said,) = caplog.messages
    assert "the Lucene process ended by signal 9; it last printed:\n  " in said
    assert said.endswith("starting it again")
    assert indexed.pid not in (None, before)


def test_one_that_cannot_start_says_why(caplog: pytest.LogCaptureFixture) -> None:
    retriever = LuceneRetriever(heap="1k")
    with caplog.at_level(logging.WARNING, "ranklens"), pytest.raises(WorkerDiedError) as caught:
        retriever.index(DOCUMENTS)
    assert "with exit code 1" in str(caught.value)
    assert "Too small maximum heap" in str(caught.value)
    assert len(caplog.messages) == 1
    # What can be read once only is not indexed in part.
    with pytest.raises(WorkerDiedError):
        retriever.index(iter(DOCUMENTS))
    with pytest.raises(UsageError, match="search before index"):
        found(retriever, "bread")


def test_the_process_ends_with_its_parent() -> None:
    code = (
        "import time; from ranklens.retrieval.lucene_process import LuceneProcess; "
        "p = LuceneProcess('1g'); print(p.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    deadline = time.monotonic() + 30
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def test_fields_expansion_and_what_is_not_there() -> None:
    retriever = LuceneRetriever(multifield=True)
    with pytest.raises(InvalidInputError, match="nothing to index: no documents"):
        retriever.index([])
    retriever.index(DOCUMENTS)
    # In its title alone a word counts as much as in a text.
    assert next(iter(found(retriever, "bread"))) == "baking"
    assert "oven" in found(retriever, "baking")
    retriever.rm3 = True
    expanded = retriever.search([Query("q", "butter")], 10)
    assert expanded.tag == "lucene-rm3"
    assert next(doc.doc_id for doc in expanded["q"]) == 'a "b" c'
    retriever.close()
    with pytest.raises(UsageError, match="nothing to index"):
        LuceneRetriever(prebuilt="x").index(DOCUMENTS)
    with pytest.raises(InvalidInputError, match="Pyserini has no index 'nonsense'"):
        found(LuceneRetriever(prebuilt="nonsense"), "bread")


@pytest.mark.parametrize("heap", ["", "2", "lots", "2g -version", "-1g"])
def test_a_heap_that_is_no_size(heap: str) -> None:
    if heap == "2":
        LuceneRetriever(heap=heap)
        return
    with pytest.raises(UsageError, match="expected a size such as 512m or 4g"):
        LuceneRetriever(heap=heap)


def test_scifact_has_the_published_figures(shared_collection: Callable[[str], Path]) -> None:
    """Pyserini's two-click reproductions: flat BM25 0.6789 and 0.9253."""
    collection = load_collection(str(shared_collection("scifact")))
    retriever = LuceneRetriever()
    retriever.index(collection.documents)
    run = retriever.search(collection.queries, 100)
    retriever.close()
    measured = evaluate(collection.qrels, run, ["nDCG@10", "R@100"]).measures
    assert round(measured["nDCG@10"].value, 4) == 0.6789
    assert round(measured["R@100"].value, 4) == 0.9253


def test_the_command_line(
    collection: Path, call: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out = tmp_path / "lucene.run"
    done = call("retrieve", collection, "--retriever", "lucene", "-k", 3, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 4
    lines = out.read_text().splitlines()
    assert {line.split()[-1] for line in lines} == {"lucene"}
    for wrong, said in (
        (["--rm3"], "--rm3 needs --retriever lucene"),
        (["--heap", "2g", "--prebuilt", "x"], "--prebuilt needs --retriever lucene"),
        (["--retriever", "lucene", "--heap", "many"], "the heap is 'many'"),
        (["--retriever", "luzene"], "unknown retriever 'luzene'; choose bm25, lucene, dense"),
        (["--k1", "-1"], "k1 must be a finite number"),
    ):
        done = call("retrieve", collection, *wrong, "-o", tmp_path / "x.run")
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
    assert not (tmp_path / "x.run").exists()


def test_documents_of_the_querys_own_id_are_left_out(
    tmp_path: Path, call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = tmp_path / "arguana"
    folder.mkdir()
    texts = ["bread is good", "bread is bad", "bread is bread", "no such thing"]
    rows = [json.dumps({"_id": f"a{n}", "text": text}) for n, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(rows))
    (folder / "queries.jsonl").write_text("\n".join(rows[:3]))
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\na0\ta1\t1\na1\ta0\t1\n")
    for extra, expected in (([], {"a0 a0", "a1 a1"}), (["--remove-query"], {"a0 a2", "a1 a2"})):
        out = tmp_path / f"{len(extra)}.run"
        done = call("retrieve", folder, "-k", 1, "-o", out, *extra)
        assert done.returncode == 0, done.stderr
        pairs = {" ".join(line.split()[::2][:2]) for line in out.read_text().splitlines()}
        assert {pair for pair in pairs if pair[:2] in ("a0", "a1")} == expected
