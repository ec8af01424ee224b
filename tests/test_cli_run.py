"""``ranklens run``: what it writes, how it resumes, and that its folder destroys nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = ["manifest.json", "candidates.run", "results.jsonl", "reranked.run", "metrics.json"]


@pytest.fixture
def run(call: Call, collection: Path, decoder: str) -> Call:
    """Return a function that runs the pipeline in a folder."""
    return lambda out, *more: call(
        "run", collection, "--reranker", decoder, "--depth", 3, "--out", out, *more
    )


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_a_run_leaves_everything_in_its_folder(run: Call, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "one"
    done = run(out, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    metrics = json.loads((out / "metrics.json").read_text())
    assert value == {"status": "ok", "collection": "tiny", **metrics}
    assert (metrics["queries"], metrics["depth"], metrics["first_stage"]) == (4, 3, "bm25")
    assert sorted(metrics["measures"]["nDCG@10"]) == ["ceiling", "first_stage", "reranked"]
    results = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [result["query_id"] for result in results] == ["q1", "q2", "q3", "q4"]
    assert sorted(results[0]["documents"][0]) == ["id", "score", "tokens_cut"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["reranker"]["revision"].startswith("sha256:")
    assert manifest["reranker"]["profile"]["name"] == "icr"
    assert sorted(path.name for path in out.iterdir() if path.name != ".lock") == sorted(FILES)

    table = run(out)
    assert f"resuming in {out}" in table.stderr
    assert "loading" not in table.stderr, "what is done is not done again"
    assert "tiny: 4 queries, depth 3" in table.stdout


def test_candidates_by_name_or_file_give_the_same_run(
    run: Call, collection: Path, tmp_path: Path
) -> None:
    run(tmp_path / "name", "--candidates", "all")
    run(tmp_path / "file", "--candidates", collection / "all.run")
    assert content(tmp_path / "name") == content(tmp_path / "file")


def test_limit_takes_the_first_queries(run: Call, tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--limit", 2)
    assert "only the first 2 of 4 queries are used" in done.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["queries"] == 2


def test_a_query_that_finds_nothing_counts_as_0(
    run: Call, collection: Path, tmp_path: Path
) -> None:
    queries = collection / "queries.jsonl"
    queries.write_text(queries.read_text().replace("tune a guitar", "zither"))
    done = run(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 queries find no document (first: 'q4')" in done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["queries"] == 4
    assert "1 of 4 judged queries are missing" in metrics["warnings"][0]
    assert "loading" not in run(tmp_path / "out").stderr


@pytest.mark.parametrize(
    "damage",
    ["nothing ranked", "torn first line", "torn last line", "torn candidates", "not finished"],
)
def test_what_a_kill_leaves_is_resumed_to_the_same_bytes(
    run: Call, tmp_path: Path, damage: str
) -> None:
    run(tmp_path / "whole")
    out = tmp_path / "killed"
    shutil.copytree(tmp_path / "whole", out)
    results = out / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    for name in ("metrics.json", "reranked.run"):
        (out / name).unlink()
    if damage == "nothing ranked":
        results.unlink()
    elif damage == "torn first line":
        results.write_bytes(lines[0][:20])
    elif damage == "torn last line":
        results.write_bytes(b"".join(lines[:3]) + lines[3][:-1])
    elif damage == "torn candidates":
        results.unlink()
        candidates = out / "candidates.run"
        (out / ".candidates.run.4711.tmp").write_bytes(candidates.read_bytes()[:33])
        candidates.unlink()
    done = run(out)
    assert done.returncode == 0, done.stderr
    assert content(out) == content(tmp_path / "whole")
    assert not list(out.glob(".*.tmp"))


def test_a_line_that_is_no_result_is_refused(run: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out)
    results = out / "results.jsonl"
    results.write_text("{}\n" + results.read_text())
    done = run(out)
    assert done.returncode == 5
    assert "results.jsonl:1: not a result line; give --overwrite" in done.stderr


def test_other_settings_are_named_and_nothing_is_lost(run: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(out)
    before = content(out)
    done = run(out, "--depth", 2, "--limit", 3)
    assert done.returncode == 5
    assert "depth was 3 and is now 2" in done.stderr
    assert "--overwrite" in done.stderr
    assert content(out) == before

    done = run(out, "--depth", 2, "--overwrite", "--reranker", "attention:nothing-like-it")
    assert done.returncode == 4
    assert content(out) == before, "what cannot be replaced is kept"

    (out / "notes.txt").write_text("mine")
    assert run(out, "--depth", 2, "--overwrite").returncode == 0
    assert json.loads((out / "metrics.json").read_text())["depth"] == 2
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["notes.txt", ".git", "manifest.json", "candidates.run"])
@pytest.mark.parametrize("option", [[], ["--overwrite"]], ids=["plain", "overwrite"])
def test_a_folder_with_other_files_is_refused(
    run: Call, tmp_path: Path, name: str, option: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"name": "somebody else\'s"}')
    done = run(out, *option)
    assert done.returncode == 5
    assert f"--out {out} holds other files ({name})" in done.stderr
    assert [path.name for path in out.iterdir()] == [name]


def test_out_that_is_a_file(run: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    done = run(out)
    assert done.returncode == 5
    assert f"--out {out} is a file" in done.stderr
    assert out.read_text() == "mine"

    done = run(out / "below")
    assert done.returncode == 5
    assert "Not a directory" in done.stderr


def test_out_that_is_read_only(run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Modes do not stop root, who may be the one that runs the tests.
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    done = run(tmp_path / "out")
    assert done.returncode == 5
    assert f"cannot use --out {tmp_path / 'out'}: Permission denied" in done.stderr


def test_a_full_disk_keeps_what_is_done(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranklens.cli.run_folder import RunFolder

    run(tmp_path / "whole")
    append = RunFolder.append
    out = tmp_path / "out"

    def append_until_full(folder: RunFolder, query_id: str, ranking: object) -> None:
        if query_id == "q3":
            with (folder.path / "results.jsonl").open("a") as stream:
                stream.write('{"query_id": "q3", "docum')
            raise OSError(28, "No space left on device", str(folder.path / "results.jsonl"))
        append(folder, query_id, ranking)  # type: ignore[arg-type]

    monkeypatch.delenv("RANKLENS_TRACEBACK")
    with monkeypatch.context() as full:
        full.setattr(RunFolder, "append", append_until_full)
        done = run(out)
    assert done.returncode == 6
    assert f"error: {out / 'results.jsonl'}: No space left on device" in done.stderr
    assert run(out).returncode == 0
    assert content(out) == content(tmp_path / "whole")


def test_the_demo_starts_again_when_something_has_changed(
    call: Call, collection: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranklens.data.load import load_collection

    tiny = str(collection)
    monkeypatch.setattr("ranklens.data.load.load_collection", lambda _: load_collection(tiny))
    monkeypatch.setattr("ranklens.cli.demo.DEFAULT_RERANKER", decoder)
    first = call("demo")
    assert first.returncode == 0, first.stderr
    assert "tiny: 4 queries, depth 10" in first.stdout
    again = call("demo", "--json")
    assert json.loads(again.stdout)["status"] == "ok"
    assert "starting again" not in again.stderr

    queries = collection / "queries.jsonl"
    queries.write_text(queries.read_text().replace("tune a guitar", "tune two guitars"))
    changed = call("demo")
    assert changed.returncode == 0, changed.stderr
    assert "something it depends on has changed" in changed.stderr


def test_a_list_beyond_the_context_is_refused_or_spread_over_prompts(
    call: Call, collection: Path, tiny_model: Callable[..., Path]
) -> None:
    small = f"attention:{tiny_model(max_position_embeddings=270)}"
    rerank = ("rerank", collection, "all", "--reranker", small, "-o", "out.run")
    refused = call(*rerank)
    assert refused.returncode == 5
    assert "12 documents do not fit the model's context of 270 tokens" in refused.stderr
    assert not Path("out.run").exists()
    done = call(*rerank, "--long-lists", "anchors")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in Path("out.run").read_text().splitlines()]
    assert len(rows) == 48
    assert all(len({r[2] for r in rows if r[0] == q}) == 12 for q in ("q1", "q2", "q3", "q4"))


def test_passages_give_their_document_its_best_score(
    call: Call, collection: Path, decoder: str
) -> None:
    rerank = ("rerank", collection, "all", "--reranker", decoder, "--profile", "icr")
    assert call(*rerank, "-o", "whole.run").returncode == 0
    outputs = {}
    for how in ("max", "sum", "max:4"):
        done = call(*rerank, "--passages", how, "-o", "out.run")
        assert done.returncode == 0, done.stderr
        outputs[how] = Path("out.run").read_text()
    # No document of this collection has more than 256 tokens.
    assert outputs["max"] == outputs["sum"] == Path("whole.run").read_text()
    assert outputs["max:4"] != outputs["max"]


def test_another_way_of_splitting_is_another_run(
    call: Call, collection: Path, decoder: str
) -> None:
    run = ("run", collection, "--candidates", "all", "--reranker", decoder, "--out", "runs")
    assert call(*run, "--passages", "max:4").returncode == 0
    again = call(*run, "--passages", "max:4")
    assert again.returncode == 0, again.stderr
    changed = call(*run)
    assert changed.returncode == 5
    assert "runs holds a run with other settings: reranker.passages was" in changed.stderr
