"""A plugin for the tests of the command line: tiny collections, and ways to call the program.

Loaded by ``pytest_plugins = ["cli_fixtures"]``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOPICS = {
    "q1": ("bake bread", ["bread is baked in an oven", "an oven bakes bread slowly"]),
    "q2": ("sort numbers", ["sort numbers with quicksort", "numbers are compared and swapped"]),
    "q3": ("grow tomatoes", ["tomatoes grow in warm soil", "water the tomatoes every day"]),
    "q4": ("tune a guitar", ["tune each guitar string", "a guitar has six strings"]),
}
FILLER = ["bread and numbers", "warm strings in an oven", "soil for a guitar", "every six days"]


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Make a collection of 12 documents and 4 queries, with candidates ``all``."""
    return write_collection(tmp_path / "collection", repeat=1)


@pytest.fixture
def long_collection(tmp_path: Path) -> Path:
    """Make a collection of the same documents and 160 queries: enough work to be interrupted."""
    return write_collection(tmp_path / "long", repeat=40)


def write_collection(folder: Path, repeat: int) -> Path:
    folder.mkdir()
    texts = [text for _, documents in TOPICS.values() for text in documents] + FILLER
    documents = {f"d{number}": text for number, text in enumerate(texts)}
    queries, qrels, candidates = [], [], []
    for turn in range(repeat):
        for position, (topic, (text, _)) in enumerate(TOPICS.items()):
            query_id = topic if repeat == 1 else f"{topic}.{turn}"
            queries.append({"_id": query_id, "text": text})
            qrels += [f"{query_id} 0 d{2 * position + n} {n + 1}" for n in (0, 1)]
            qrels.append(f"{query_id} 0 d{8 + position} 0")
            candidates += [
                f"{query_id} Q0 {doc_id} {rank} {1 / rank:.6f} first stage"
                for rank, doc_id in enumerate(sorted(documents), start=1)
            ]
    (folder / "docs.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in documents.items())
    )
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    (folder / "qrels.txt").write_text("\n".join(qrels) + "\n")
    (folder / "all.run").write_text("\n".join(candidates) + "\n")
    (folder / "collection.toml").write_text(
        'name = "tiny"\ndocs = "docs.jsonl"\nqueries = "queries.jsonl"\nqrels = "qrels.txt"\n'
        '[candidates]\nall = "all.run"\n'
    )
    return folder


@pytest.fixture
def decoder(tiny_model: Callable[..., Path]) -> str:
    """Make a tiny random decoder and return it as ``--reranker`` takes it."""
    pytest.importorskip("torch", reason="the extra llm is not installed")
    return f"attention:{tiny_model()}"


@pytest.fixture
def program_environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user who has nothing yet and no network."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RANKLENS", "HF_", "XDG_"))}
    # One thread: these models are too small for two, and other work may share the machine.
    return {
        **kept,
        "HOME": str(home),
        "RANKLENS_HOME": str(home / "ranklens"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def program() -> list[str]:
    """Return the command line of the program, as a process of its own."""
    return [sys.executable, "-m", "ranklens.cli.main"]


@pytest.fixture
def run_program(
    program: list[str], program_environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the program in a process; a traceback fails the test."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*program, *map(str, arguments)],
            cwd=tmp_path,
            env=program_environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program_environment: dict[str, str],
    tmp_path: Path,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that calls the program's entry point here, as if it were a process.

    Cheaper than a process, which imports torch anew, and an error nobody foresaw fails the test
    with its traceback instead of ending in the message that a user would get.
    """
    from ranklens.cli.main import main

    if importlib.util.find_spec("huggingface_hub"):
        # Its environment is read once, when it is imported: these are what was read.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        cache = str(tmp_path / "home" / "huggingface")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", cache)
    for name in ("HOME", "RANKLENS_HOME"):
        monkeypatch.setenv(name, program_environment[name])
    monkeypatch.setenv("RANKLENS_TRACEBACK", "1")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = ["ranklens", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return subprocess.CompletedProcess(command, stopped.value.code, out, err)

    return run
