"""The program with dense and hybrid first stages: kept indexes, kills, and wrong calls."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.runs import read_run

pytest_plugins = ["cli_fixtures", "dense_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_kept_index_is_used_again(
    call: Call, collection: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    dense = ["retrieve", collection, "--retriever", f"dense:{tiny_encoder}"]
    first = call(*dense, "--index", "kept", "-o", "a.run")
    assert first.returncode == 0, first.stderr
    assert "encoding: 12 docs in " in first.stderr
    assert "index kept: 12 documents, built\n" in first.stderr
    second = call(*dense, "--index", "kept", "--faiss", "hnsw", "-o", "b.run")
    assert "index kept: 12 documents, used again\n" in second.stderr
    assert "encoding" not in second.stderr
    assert (
        "hnsw: recall@10 1.000 against flat, asked for the first 10 words of 12 documents"
        in second.stderr
    )
    alone = call(*dense, "-o", "c.run")
    assert alone.returncode == 0
    runs = [(tmp_path / name).read_text() for name in ("a.run", "b.run", "c.run")]
    assert runs[0] == runs[1] == runs[2]
    assert {len(docs) for docs in read_run(tmp_path / "a.run").values()} == {12}
    other = call(*dense, "--index", "kept", "--pooling", "cls", "-o", "d.run")
    assert other.returncode == 5
    assert 'pooling: null there, "cls" wanted' in other.stderr
    assert not (tmp_path / "d.run").exists()
    anew = call(*dense, "--index", "kept", "--pooling", "cls", "--overwrite", "-o", "d.run")
    assert (anew.returncode, (tmp_path / "d.run").read_text() == runs[0]) == (0, False)


def test_hybrid_fuses_what_the_parts_find(
    call: Call, collection: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    for retriever in ("bm25", f"dense:{tiny_encoder}"):
        name = retriever.partition(":")[0]
        assert call("retrieve", collection, "--retriever", retriever, "-o", name).returncode == 0
    done = call(
        "retrieve", collection, "--retriever", f"hybrid:{tiny_encoder}", "-k", 3,
        "--index", "kept", "-o", "hybrid",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fused = read_run(tmp_path / "hybrid")
    parts = [read_run(tmp_path / name) for name in ("bm25", "dense")]
    for query_id, docs in fused.items():
        expected: dict[str, float] = {}
        for part in parts:
            for rank, doc in enumerate(part[query_id], start=1):
                expected[doc.doc_id] = expected.get(doc.doc_id, 0) + 1 / (60 + rank)
        best = sorted(expected.values(), reverse=True)[:3]
        assert [doc.score for doc in docs] == pytest.approx(best, rel=1e-6)
        assert [expected[doc.doc_id] for doc in docs] == pytest.approx(best, rel=1e-6)
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "bm25", "dense", "manifest.json",
    ]  # fmt: skip
    weighed = call(
        "retrieve", collection, "--retriever", f"hybrid:{tiny_encoder}", "--index", "kept",
        "--fusion", "wsum(weights=1,0)", "-k", 1, "-o", "words",
    )  # fmt: skip
    assert "index kept: 12 documents, used again" in weighed.stderr
    words = {query_id: docs[0].doc_id for query_id, docs in read_run(tmp_path / "words").items()}
    assert words == {query_id: docs[0].doc_id for query_id, docs in parts[0].items()}


def test_passages_of_long_documents(call: Call, collection: Path, tmp_path: Path) -> None:
    """The longest passage that is asked for is shorter than a document here."""
    whole = call("retrieve", collection, "-o", "whole")
    split = call("retrieve", collection, "--passages", "max:3", "--index", "kept", "-o", "split")
    assert (whole.returncode, split.returncode) == (0, 0)
    assert "index kept: 12 documents, built" in split.stderr
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert manifest["facts"]["passages"] > 12
    one, two = read_run(tmp_path / "whole"), read_run(tmp_path / "split")
    assert two.tag == "bm25-max"
    for query_id, docs in one.items():
        assert {doc.doc_id for doc in docs} == {doc.doc_id for doc in two[query_id]}
    assert one["q1"][0].score != two["q1"][0].score


def test_a_pipeline_with_a_dense_first_stage(
    call: Call, collection: Path, tiny_encoder: Path, decoder: str, tmp_path: Path
) -> None:
    arguments = [
        "run", collection, "--retriever", f"dense:{tiny_encoder}", "--index", "kept",
        "--reranker", decoder, "--depth", 2, "--out", "runs",
    ]  # fmt: skip
    done = call(*arguments)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "manifest.json").read_text())
    assert manifest["first_stage"]["retriever"] == "dense"
    assert manifest["first_stage"]["encoder"]["model"] == tiny_encoder.name
    assert manifest["first_stage"]["faiss"] == "flat"
    assert "resuming" in call(*arguments).stderr
    assert (tmp_path / "kept" / "manifest.json").is_file()


def test_an_earlier_run_is_not_dropped_for_an_index_that_is_refused(
    call: Call, collection: Path, decoder: str, tmp_path: Path
) -> None:
    arguments = ["run", collection, "--index", "kept", "--reranker", decoder, "--out", "runs"]
    assert call(*arguments, "--depth", 2).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    with (collection / "docs.jsonl").open("a") as stream:
        stream.write('{"_id": "new", "text": "bread"}\n')
    other = call(*arguments, "--depth", 3, "--overwrite")
    assert other.returncode == 5
    assert "Give another folder, or `ranklens retrieve --overwrite` builds it anew" in other.stderr
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    anew = call("retrieve", collection, "--index", "kept", "--overwrite", "-o", "x.run")
    assert anew.returncode == 0
    assert call(*arguments, "--depth", 3, "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("retriever", "missing"),
    [("lucene", "pyserini"), ("hybrid", "ranx"), ("dense", "faiss"), ("hybrid", "faiss")],
)
def test_what_is_not_installed_is_named_before_the_work(
    call: Call, collection: Path, monkeypatch: pytest.MonkeyPatch, retriever: str, missing: str
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: (name != missing and real(name, *rest)) or None,
    )
    for arguments in (["run", collection, "--out", "r"], ["retrieve", collection, "-o", "x.run"]):
        done = call(*arguments, "--retriever", retriever)
        extra = {"pyserini": "lucene", "ranx": "hybrid", "faiss": "dense"}[missing]
        assert done.returncode == 3, done.stderr
        assert done.stderr.endswith(f"not installed: pip install 'ranklens[{extra}]'\n")
        assert missing in done.stderr
        assert "indexing" not in done.stderr


def test_killed_while_it_encodes_it_goes_on(
    program_environment: dict[str, str], run_program: Call, tiny_encoder: Path, tmp_path: Path
) -> None:
    """A real process, SIGKILL in the middle, then Ctrl-C, then to the end."""
    folder = tmp_path / "many"
    folder.mkdir()
    rows = [{"_id": f"d{i}", "text": f"sort bread {'warm ' * (i % 9)}"} for i in range(17_000)]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.tsv").write_text("q1\tsort bread\n")
    (folder / "collection.toml").write_text('docs = "docs.jsonl"\nqueries = "queries.tsv"\n')
    arguments = [
        "retrieve", str(folder), "--retriever", f"dense:{tiny_encoder}", "--index", "kept",
        "-k", "10", "-o", "out.run",
    ]  # fmt: skip
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from ranklens.cli.main import main; main()"
    )
    shards = tmp_path / ".kept.building"
    seen = 0
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 7)):
        with (tmp_path / "errors").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                cwd=tmp_path,
                env=program_environment,
                stderr=errors,
            )
        end = time.monotonic() + 240
        while len(list(shards.glob("vectors-*.npy"))) <= seen:
            assert process.poll() is None, (tmp_path / "errors").read_text()
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(number)
        assert process.wait(240) == status, (tmp_path / "errors").read_text()
        seen = len(list(shards.glob("vectors-*.npy")))
        assert 0 < seen < 5
        assert not (tmp_path / "kept").exists()
        assert not (tmp_path / "out.run").exists()
    assert (
        "what is encoded is kept, and the same command goes on (kept)"
        in (tmp_path / "errors").read_text()
    )
    done = run_program(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"{seen * 4096} of 17000 documents had been encoded before" in done.stderr
    assert len(read_run(tmp_path / "out.run")["q1"]) == 10
    assert not shards.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--retriever", "colbert"], 2, "unknown retriever 'colbert'; choose bm25, lucene, dense"),
        (["--retriever", "bm25:x"], 2, "unknown retriever 'bm25:x'"),
        (["--retriever", "dense:"], 2, "unknown retriever 'dense:'"),
        (["--retriever", "dense:nothing"], 4, "unknown model 'nothing'"),
        (["--retriever", "dense", "--k1", "1"], 2, "--k1 needs --retriever bm25 or lucene or hy"),
        (["--faiss", "hnsw"], 2, "--faiss needs --retriever dense or hybrid"),
        (["--no-normalize"], 2, "--no-normalize needs --retriever dense or hybrid"),
        (["--retriever", "dense", "--faiss", "lsh"], 2, "unknown Faiss index 'lsh'; choose flat"),
        (["--retriever", "dense", "--pooling", "max"], 2, "unknown pooling 'max'; choose mean"),
        (["--retriever", "dense", "--max-tokens", "0"], 2, "--max-tokens must be at least 1"),
        (["--retriever", "dense", "--fusion", "rrf"], 2, "--fusion needs --retriever hybrid"),
        (["--retriever", "hybrid", "--fusion", "mean"], 2, "unknown fusion 'mean'; choose rrf"),
        (["--passages", "mean"], 2, "--passages is 'mean'; expected max, sum or first"),
        (["--overwrite"], 2, "--overwrite is about the index; give --index too"),
        (
            ["--retriever", "lucene", "--prebuilt", "x", "--index", "i"],
            2,
            "--prebuilt is an index already",
        ),
        (["--index", "collection"], 5, "is not an index: it has no manifest.json"),
    ],
)
def test_wrong_calls(
    call: Call, collection: Path, arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = call("retrieve", collection, *arguments, "-o", "out.run")
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "out.run").exists()
