"""Kept documents that break: killed and interrupted builds, full disks, damaged files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.kept_entries import entries, origins

from ranklens.rerank.kv.disk import DamagedEntryError, read_entry

pytest_plugins = ["cli_fixtures", "cache_fixtures"]
Call = Callable[..., "subprocess.CompletedProcess[str]"]
DOCUMENTS = 12
DEADLINE_S = 240.0
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from ranklens.cli.main import main; main()"
)


def flipped(place: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 0x10
        return bytes(changed)

    return change


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "length of the header": flipped(0),
    "header": flipped(20),
    "first tensor": flipped(-700),
    "last byte": flipped(-1),
    "truncated": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
}


def test_damaged_documents_are_reported_and_computed_again(
    build: Call, rerank: Call, call: Call
) -> None:
    build()
    assert rerank("kept", "sound.run").returncode == 0
    for kind, change in DAMAGE.items():
        path = entries()[5]
        whole = path.read_bytes()
        before = {name: tensor.clone() for name, tensor in read_entry(path).tensors.items()}
        path.write_bytes(change(whole))
        with pytest.raises(DamagedEntryError):
            read_entry(path)
        done = rerank("kept", "out.run", "--json")
        assert origins(done)["damaged"] == 1, kind
        assert "warning: 1 kept documents were damaged" in done.stderr
        assert Path("out.run").read_bytes() == Path("sound.run").read_bytes(), kind
        rebuilt = read_entry(path).tensors
        assert rebuilt.keys() == before.keys()
        assert all(torch.equal(rebuilt[name], before[name]) for name in before), kind

    # Another document's entry under this name is no entry either.
    path, other = entries()[5:7]
    path.write_bytes(other.read_bytes())
    last = entries()[-1]
    last.write_bytes(DAMAGE["first tensor"](last.read_bytes()))
    assert call("cache", "prune", "kept").returncode == 0
    assert len(entries()) == 13, "nothing but leftovers goes unless it is asked for"
    done = call("cache", "prune", "kept", "--damaged", "--json")
    found = json.loads(done.stdout)
    assert sorted(found["damaged"]) == sorted(str(p.relative_to("kept")) for p in (path, last))
    assert found["entries_left"] == len(entries()) == 11
    assert "bytes are not those that were written" in " ".join(found["damaged"].values())
    said = rerank("kept", "out.run", "--json")
    assert origins(said)["damaged"] == 0
    assert Path("out.run").read_bytes() == Path("sound.run").read_bytes()


def test_a_full_disk_does_not_end_a_ranking(rerank: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert rerank("sound", "sound.run").returncode == 0
    monkeypatch.setattr(Path, "write_bytes", full)
    done = rerank("kept", "out.run", "--json")
    said = origins(done)
    assert (said["computed"], said["not_written"]) == (12, "No space left on device")
    assert "warning: not all are kept in kept: No space left on device" in done.stderr
    assert Path("out.run").read_bytes() == Path("sound.run").read_bytes()
    assert entries() == []


def test_a_damaged_description_is_said(build: Call, rerank: Call, call: Call) -> None:
    build()
    [description] = Path("kept").glob("*/space.json")
    description.write_text("{")
    done = rerank("kept", "out.run")
    assert done.returncode == 5
    assert f"{description} is damaged" in done.stderr
    shown = call("cache", "info", "kept")
    assert f"{description.parent.name}: space.json is damaged" in shown.stderr
    assert call("cache", "prune", "kept").returncode == 0
    assert len(entries()) == 13


def many_documents(folder: Path, number: int) -> Path:
    """Make the documents of a collection so many that building takes a while."""
    lines = [
        json.dumps({"_id": f"m{i}", "text": f"{i} " + "bread in warm soil " * (i % 40)})
        for i in range(number)
    ]
    with (folder / "docs.jsonl").open("a") as stream:
        stream.writelines(f"{line}\n" for line in lines)
    return folder


def interrupted(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    after: int,
    number: signal.Signals,
) -> tuple[int, int, str]:
    """Start a build, send a signal when ``after`` entries are there; return pid, code, errors."""
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *command], cwd=folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
    end = time.monotonic() + DEADLINE_S
    while len(entries(folder / "kept")) < after:
        assert process.poll() is None, (folder / "errors.txt").read_text()
        assert time.monotonic() < end
        time.sleep(0.001)
    process.send_signal(number)
    code = process.wait(DEADLINE_S)
    return process.pid, code, (folder / "errors.txt").read_text()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_killed_builds_go_on(
    collection: Path,
    decoder: str,
    program_environment: dict[str, str],
    call: Call,
    rerank: Call,
    tmp_path: Path,
) -> None:
    total = 600 + DOCUMENTS
    many_documents(collection, 600)
    command = ["cache", "build", str(collection), "--reranker", decoder, "-o", "kept"]

    pid, code, _ = interrupted(command, program_environment, tmp_path, 20, signal.SIGKILL)
    assert code == -signal.SIGKILL
    after_kill = len(entries())
    assert 20 <= after_kill < total
    for path in entries():
        read_entry(path)
    others = {path.suffix for path in Path("kept").glob("*/??/*")} - {".safetensors"}
    assert others <= {".tmp"}

    _, code, said = interrupted(
        command, program_environment, tmp_path, after_kill + 100, signal.SIGINT
    )
    assert code == 7, said
    assert "Traceback" not in said
    assert f"of {total} documents kept; the same command goes on from there (kept)" in said
    after_interrupt = len(entries())
    assert after_interrupt < total

    # What the killed process might have left half written, and what a living one is writing.
    name = f"{entries()[0]}."
    dead, dead_too, living = (
        Path(f"{name}{pid}-7.tmp"),
        entries()[0].parents[1] / f".space.json.{pid}.tmp",
        Path(f"{name}{os.getpid()}-7.tmp"),
    )
    for path in (dead, dead_too, living):
        path.write_bytes(b"half")
    [space] = json.loads(call("cache", "info", "kept", "--json").stdout)["spaces"]
    assert space["leftovers"] >= 2
    assert "half written; `ranklens cache prune kept`" in call("cache", "info", "kept").stderr
    pruned = json.loads(call("cache", "prune", "kept", "--json").stdout)
    assert not dead.exists()
    assert not dead_too.exists()
    assert living.exists()
    assert pruned["working"] == [str(living.relative_to("kept"))]
    assert len(entries()) == after_interrupt

    done = call(*command, "--json")
    value = json.loads(done.stdout)
    assert (value["documents"], value["damaged"]) == (total, 0)
    assert value["computed"] == total - (after_interrupt - 1), "one entry is the prefix's"
    for path in entries():
        read_entry(path)
    assert len(entries()) == total + 1
    assert origins(rerank("kept", "x.run", "--json"))["computed"] == 0


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX's")
def test_a_full_disk_ends_the_build_and_keeps_what_is_there(
    collection: Path, decoder: str, program_environment: dict[str, str], call: Call, tmp_path: Path
) -> None:
    """Files beyond a limit fail in the middle of a write, with the system's own error."""
    with (collection / "docs.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "long", "text": "bread in warm soil " * 60}) + "\n")
    many_documents(collection, 200)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "from ranklens.cli.main import main; main()"
    )
    command = ["cache", "build", str(collection), "--reranker", decoder, "-o", "kept"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *command, "--json"], cwd=tmp_path,
        env=program_environment, capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    message = json.loads(done.stdout)["message"]
    assert message.startswith("cannot keep documents in kept: File too large; at least 0 of 213")
    assert "Traceback" not in done.stderr
    assert "keeping: 213" not in done.stderr, "it stops at once"
    written = len(entries())
    assert DOCUMENTS < written < 64
    assert len([path for path in Path("kept").rglob("*") if path.is_file()]) == written + 1
    for path in entries():
        read_entry(path)
    value = json.loads(call(*command, "--json").stdout)
    assert (value["documents"], value["already_kept"], value["damaged"]) == (213, written - 1, 0)
