"""Real processes that are killed, interrupted or compete for a folder, and then go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")

Call = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = ["manifest.json", "candidates.run", "results.jsonl", "reranked.run", "metrics.json"]
DEADLINE_S = 240.0
# The parent may ignore Ctrl-C, as background jobs do, and children inherit that.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from ranklens.cli.main import main; main()"
)


class Started:
    """A run that goes on in the background; its standard error is kept in a file."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.errors = folder / "errors.txt"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip

    def wait_for(self, file: Path, lines: int) -> None:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if file.is_file() and file.read_bytes().count(b"\n") >= lines:
                return
            assert self.process.poll() is None, self.errors.read_text()
            time.sleep(0.002)
        pytest.fail(f"no {file.name} after {DEADLINE_S:.0f} s: {self.errors.read_text()}")

    def send(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def arguments(long_collection: Path, decoder: str) -> list[str]:
    return ["run", str(long_collection), "--candidates", "all", "--reranker", decoder, "--out"]


@pytest.fixture
def start(
    arguments: list[str], program_environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[[Path], Started]]:
    """Return a function that starts a run; what still runs at the end is killed."""
    started: list[Started] = []

    def begin(out: Path) -> Started:
        command = [sys.executable, "-c", INTERRUPTIBLE, *arguments, str(out)]
        started.append(Started(command, program_environment, tmp_path))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.send(signal.SIGKILL)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_interrupted_runs_end_with_the_bytes_of_an_undisturbed_one(
    start: Callable[[Path], Started],
    run_program: Call,
    call: Call,
    arguments: list[str],
    tmp_path: Path,
) -> None:
    undisturbed = run_program(*arguments, tmp_path / "whole")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "reranking: 1920 docs in" in undisturbed.stderr
    assert "\x1b" not in undisturbed.stderr, "no bar where there is no terminal"
    whole = content(tmp_path / "whole")

    # Killed when only the manifest is sure to be there, then when one query is ranked.
    out = tmp_path / "killed"
    run = start(out)
    run.wait_for(out / "manifest.json", 1)
    assert run.send(signal.SIGKILL) == -signal.SIGKILL
    run = start(out)
    run.wait_for(out / "results.jsonl", 1)
    assert run.send(signal.SIGKILL) == -signal.SIGKILL
    done_at_kill = (out / "results.jsonl").read_bytes().count(b"\n")

    # Ctrl-C a little later.
    run = start(out)
    run.wait_for(out / "results.jsonl", done_at_kill + 3)
    assert run.send(signal.SIGINT) == 7
    message = run.errors.read_text()
    assert "Traceback" not in message
    done = (out / "results.jsonl").read_bytes().count(b"\n")
    assert f"error: interrupted with {done} of 160 queries reranked" in message
    assert f"the same command goes on from there ({out})" in message
    assert not (out / "metrics.json").exists()

    # A second process is kept out while a first one, stopped for the moment, has the folder.
    run = start(out)
    run.wait_for(out / "results.jsonl", done + 3)
    run.process.send_signal(signal.SIGSTOP)
    second = call(*arguments, out)
    assert second.returncode == 6
    assert f"another process is working in {out}" in second.stderr
    run.process.send_signal(signal.SIGCONT)
    assert run.process.wait(DEADLINE_S) == 0, run.errors.read_text()
    assert content(out) == whole
