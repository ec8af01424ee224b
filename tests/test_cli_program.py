"""The program as a whole: help, exit codes, errors as messages and as JSON, pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
COMMANDS = [
    [],
    ["demo"],
    ["run"],
    ["retrieve"],
    ["rerank"],
    ["evaluate"],
    ["report"],
    ["data"],
    ["data", "info"],
    ["data", "validate"],
    ["cache"],
    ["cache", "build"],
    ["cache", "info"],
    ["cache", "prune"],
    ["models"],
    ["models", "list"],
    ["models", "pull"],
    ["models", "path"],
    ["doctor"],
]


def test_it_says_its_version(run_program: Call) -> None:
    done = run_program("--version")
    assert (done.returncode, done.stdout) == (0, f"ranklens {version('ranklens')}\n")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_an_example(call: Call, command: list[str]) -> None:
    done = call(*command, "--help")
    assert done.returncode == 0
    assert f"Example: ranklens {' '.join(command)}".strip() in done.stdout
    assert not done.stderr


def test_help_imports_nothing_heavy(program_environment: dict[str, str]) -> None:
    heavy = "bm25s filelock ir_measures numpy rich torch transformers"
    code = (
        "import sys\n"
        "from ranklens.cli.main import main\n"
        "sys.argv = ['ranklens', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', [name for name in '{heavy}'.split() if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=program_environment, capture_output=True, text=True
    )
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rernak"], "'rernak'"),
        (["run", "there", "--out", "out", "--depht", "3"], "--depth"),
        (["run", "there"], "--out"),
        (["evaluate", "qrels.txt"], "RUN"),
        (["run", "there", "--out", "out", "--depth", "0"], "--depth must be at least 1, got 0"),
        (["run", "there", "--out", "out", "--limit", "0"], "--limit must be at least 1, got 0"),
        (["rerank", "there", "a.run", "-o", "b.run", "--limit", "-1"], "got -1"),
        (["retrieve", "there", "-o", "b.run", "-k", "0"], "-k must be at least 1, got 0"),
        (["retrieve", "there", "-o", "b.run", "--retriever", "bm52"], "'bm52'; choose bm25"),
        (["run", "there", "--out", "out", "--reranker", "attention"], "attention:MODEL"),
        (["run", "there", "--out", "out", "--reranker", "crossencoder:x"], "'crossencoder:x'"),
        (
            ["run", "there", "--out", "out", "--retriever", "bm25", "--candidates", "all"],
            "--retriever and --candidates exclude each other",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_call_ends_with_2_and_names_what_is_wrong(
    call: Call, arguments: list[str], named: str
) -> None:
    done = call(*arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert not done.stdout

    as_json = call(*arguments, "--json")
    error = json.loads(as_json.stdout)
    assert (as_json.returncode, error["status"], error["exit_code"]) == (2, "error", 2)
    assert error["message"]


def test_no_arguments_show_the_help(call: Call) -> None:
    done = call()
    assert done.returncode == 2
    assert "Usage: ranklens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["retrieve", "nowhere", "-o", "x.run"], 4, "no collection 'nowhere'"),
        (["retrieve", "sample:nothing", "-o", "x.run"], 4, "sample:pydocs"),
        (["evaluate", "nowhere", "x.run"], 4, "no qrels file 'nowhere'"),
        (["models", "path", "smolm2-135m"], 4, "did you mean smollm2-135m?"),
        (["models", "path", "smollm2-135m"], 4, "ranklens models pull smollm2-135m"),
        (["models", "path", "./nowhere"], 4, "there is no model folder"),
        (["retrieve", ".", "-o", "."], 5, "it is a folder"),
        (["retrieve", ".", "-o", "/dev/null/x.run"], 5, "cannot write /dev/null/x.run"),
        (["retrieve", ".", "-o", "x.run"], 4, "neither collection.toml nor corpus.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_names_the_value_and_the_way_out(
    call: Call, arguments: list[str], code: int, named: str
) -> None:
    done = call(*arguments, "--json")
    assert done.returncode == code
    error = json.loads(done.stdout)
    assert (error["status"], error["exit_code"]) == ("error", code)
    assert named in error["message"]
    assert done.stderr == f"error: {error['message']}\n"


def test_errors_of_a_process_look_the_same(run_program: Call) -> None:
    done = run_program("retrieve", "nowhere", "-o", "x.run", "--json")
    assert (done.returncode, json.loads(done.stdout)["exit_code"]) == (4, 4)
    assert done.stderr.startswith("error: no collection 'nowhere': expected a folder")


def test_an_unforeseen_error_is_a_message_too(
    call: Call, collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("ranklens.data.load.load_collection", broken)
    monkeypatch.delenv("RANKLENS_TRACEBACK")
    done = call("retrieve", collection, "-o", "x.run")
    assert done.returncode == 6
    assert done.stderr == "error: KeyError: 'surprise' (RANKLENS_TRACEBACK=1 shows where)\n"

    monkeypatch.setenv("RANKLENS_TRACEBACK", "1")
    with pytest.raises(KeyError):
        call("retrieve", collection, "-o", "x.run")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(13, "Permission denied", "docs.jsonl"), 6, "docs.jsonl: Permission den"),
        (ImportError("no libgomp.so.1"), 3, "ImportError: no libgomp.so.1; see `ranklens doctor`"),
        (KeyboardInterrupt(), 7, "interrupted"),
    ],
)
def test_what_the_machine_refuses_is_a_message(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def broken(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("ranklens.data.load.load_collection", broken)
    monkeypatch.delenv("RANKLENS_TRACEBACK")
    done = call("retrieve", "there", "-o", "x.run")
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {message}")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("option", ["--per-query", "--json"])
def test_a_closed_pipe_is_no_error(
    program: list[str],
    program_environment: dict[str, str],
    collection: Path,
    unbuffered: str,
    option: str,
) -> None:
    program_environment["PYTHONUNBUFFERED"] = unbuffered
    command = [*program, "evaluate", str(collection), str(collection / "all.run"), option]
    reader, writer = os.pipe()
    # Nobody will ever read: the first byte written finds the pipe closed.
    os.close(reader)
    try:
        done = subprocess.run(
            command, env=program_environment, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_behind_standard_output_is_an_error(
    program: list[str], program_environment: dict[str, str], unbuffered: str
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full does not exist here")
    program_environment["PYTHONUNBUFFERED"] = unbuffered
    command = [*program, "models", "list", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=program_environment, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 6
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("No space left on device\n")
