"""``ranklens cache`` and ``--documents``: what is kept, gone on with, damaged, and removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra llm is not installed")
pytest_plugins = ["cli_fixtures"]

import torch  # noqa: E402

from ranklens.rerank.kv.disk import DamagedEntryError, read_entry  # noqa: E402

Call = Callable[..., "subprocess.CompletedProcess[str]"]
DOCUMENTS = 12
DEADLINE_S = 240.0
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from ranklens.cli.main import main; main()"
)


@pytest.fixture
def build(call: Call, collection: Path, decoder: str) -> Call:
    """Return a function that builds the folder ``kept`` from the collection."""
    return lambda *more: call(
        "cache", "build", collection, "--reranker", decoder, "-o", "kept", *more
    )


@pytest.fixture
def rerank(call: Call, collection: Path, decoder: str) -> Call:
    """Return a function that reranks all candidates with documents kept in a folder."""
    return lambda folder, out, *more: call(
        "rerank", collection, "all", "--reranker", decoder, "--profile", "icr-block",
        "--documents", folder, "-o", out, *more,
    )  # fmt: skip


def entries(folder: str | Path = "kept") -> list[Path]:
    return sorted(Path(folder).glob("*/??/*.safetensors"))


def origins(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["documents"]
    assert isinstance(found, dict)
    return found


def test_documents_built_ahead_rank_as_those_computed_on_the_way(
    build: Call, rerank: Call, call: Call
) -> None:
    built = build("--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout) == {
        "status": "ok", "folder": "kept", "profile": "icr-block", "storage": "exact",
        "keep_tokens": None, "documents": 12, "computed": 12, "kept_before": 0, "damaged": 0,
    }  # fmt: skip
    assert "profile icr-block" in built.stderr

    # 4 queries over the same 12 documents.
    read = origins(rerank("kept", "read.run", "--json"))
    assert read == {"computed": 0, "disk": 12, "memory": 36, "damaged": 0, "not_written": None}
    new = origins(rerank("new", "new.run", "--json"))
    assert new == {"computed": 12, "disk": 0, "memory": 36, "damaged": 0, "not_written": None}
    assert Path("read.run").read_bytes() == Path("new.run").read_bytes()
    assert [path.name for path in entries("new")] == [path.name for path in entries()]
    again = rerank("new", "again.run")
    assert "documents: 0 computed, 12 from new, 36 from memory" in again.stderr
    assert Path("again.run").read_bytes() == Path("new.run").read_bytes()

    shown = call("cache", "info", "kept")
    assert shown.returncode == 0, shown.stderr
    assert " float32   exact " in shown.stdout
    value = json.loads(call("cache", "info", "kept", "--json").stdout)
    [space] = value["spaces"]
    assert (value["documents"], space["documents"]) == (12, 12)
    assert len(entries()) == 13, "the prefix is kept too, and is no document"
    assert value["bytes"] == sum(path.stat().st_size for path in entries())
    assert 0 < space["bytes_per_document"] * 12 < space["bytes"]
    assert (space["layers"], space["storage"], space["keep_tokens"]) == (2, "exact", None)
    assert space["attention_kept"] is None
    assert space["model"].startswith("sha256:")


def test_what_is_kept_is_not_computed_again(build: Call) -> None:
    first = json.loads(build("--limit", 5, "--json").stdout)
    assert (first["documents"], first["computed"]) == (5, 5)
    times = [path.stat().st_ino for path in entries()]
    damaged = entries()[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    rest = build("--json")
    value = json.loads(rest.stdout)
    assert (value["documents"], value["damaged"]) == (12, 1)
    assert value["computed"] in (7, 8), "the damaged one is a document or the prefix"
    assert value["kept_before"] == 12 - value["computed"]
    assert "warning: 1 kept documents were damaged" in rest.stderr
    assert sum(path.stat().st_ino in times for path in entries()) >= 5
    whole = build()
    assert "kept keeps 12 documents: 0 computed, 12 there before" in whole.stderr
    for path in entries():
        read_entry(path)


def test_candidates_only(build: Call, collection: Path) -> None:
    value = json.loads(build("--candidates", "all", "--depth", 3, "--json").stdout)
    assert value["documents"] == 3
    value = json.loads(build("--candidates", collection / "all.run", "--json").stdout)
    assert (value["documents"], value["kept_before"]) == (12, 3)


def test_fewer_bits_and_tokens_are_taken_from_the_folder(
    build: Call, rerank: Call, call: Call
) -> None:
    built = build("--storage", "int8", "--keep-tokens", 10)
    assert built.returncode == 0, built.stderr
    assert origins(rerank("kept", "read.run", "--json"))["computed"] == 0
    # The same setting need not be said again, and no other can be mixed with it.
    assert json.loads(build("--json").stdout)["storage"] == "int8"
    other = build("--storage", "bfloat16")
    assert other.returncode == 5
    assert "kept keeps documents int8, 10 tokens each, not bfloat16, 10 tokens" in other.stderr
    assert "use a folder for each" in other.stderr
    [space] = json.loads(call("cache", "info", "kept", "--json").stdout)["spaces"]
    assert (space["storage"], space["keep_tokens"]) == ("int8", 10)
    assert 0 < space["attention_kept"] < 1
    assert f"{space['attention_kept']:.3f}" in call("cache", "info", "kept").stdout

    call_exact = build("-o", "exact")
    assert call_exact.returncode == 0, call_exact.stderr
    [made] = Path("exact").iterdir()
    made.rename(Path("kept") / made.name)
    mixed = rerank("kept", "x.run")
    assert mixed.returncode == 5
    assert "kept keeps documents in several ways (exact; int8, 10 tokens each)" in mixed.stderr
    assert "loading" not in mixed.stderr


def test_a_resumed_run_needs_documents_kept_alike(
    build: Call, call: Call, collection: Path, decoder: str
) -> None:
    command = ["run", collection, "--candidates", "all", "--reranker", decoder, "--profile",
               "icr-block", "--out", "out"]  # fmt: skip
    done = call(*command, "--documents", "new")
    assert done.returncode == 0, done.stderr
    assert "documents: 12 computed, 0 from new, 36 from memory" in done.stderr
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["reranker"]["documents"] == {"storage": "exact", "keep_tokens": None}
    build("--storage", "int8")
    other = call(*command, "--documents", "kept")
    assert other.returncode == 5
    assert "reranker.documents.storage was 'exact' and is now 'int8'" in other.stderr
    assert call(*command).returncode == 5
    Path("new").rename("elsewhere")
    assert call(*command, "--documents", "elsewhere").returncode == 0


@pytest.mark.parametrize("command", ["rerank", "run"])
def test_a_causal_profile_is_refused_before_the_work(
    call: Call, collection: Path, decoder: str, command: str
) -> None:
    target = ["-o", "x.run"] if command == "rerank" else ["--candidates", "all", "--out", "x"]
    more = ["all"] if command == "rerank" else []
    done = call(command, collection, *more, "--reranker", decoder, "--documents", "new", *target)
    assert done.returncode == 5
    assert "profile 'icr' has no documents to keep: its documents see those before" in done.stderr
    assert "loading" not in done.stderr
    assert not Path("new").exists()
    built = call("cache", "build", collection, "--reranker", decoder, "--profile", "icr",
                 "-o", "new")  # fmt: skip
    assert built.returncode == 5
    assert "use a profile in blocks" in built.stderr


def flipped(place: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 0x10
        return bytes(changed)

    return change


DAMAGE = {
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


def test_prune_to_a_size_keeps_what_was_used_last(build: Call, call: Call) -> None:
    build()
    for age, path in enumerate(entries()):
        os.utime(path, (1e9 - age, 1e9 - age))
    newest = entries()[:4]
    room = sum(path.stat().st_size for path in newest)
    done = call("cache", "prune", "kept", "--size", room)
    assert done.returncode == 0, done.stderr
    assert "9 least used entries" in done.stderr
    assert entries() == newest
    # A document that is read again is used.
    build("--limit", 12)
    assert min(path.stat().st_mtime for path in entries()) > 1e9

    strangers = [Path("kept/mine.txt"), next(Path("kept").glob("*/??")) / "notes.safetensors"]
    for path in strangers:
        path.write_text("not ours")
    gone = json.loads(call("cache", "prune", "kept", "--size", "0 kB", "--json").stdout)
    assert (gone["entries_left"], gone["bytes_left"], gone["spaces"]) == (0, 0, [])
    assert all(path.is_file() for path in strangers)
    strangers[1].unlink()
    emptied = json.loads(call("cache", "prune", "kept", "--json").stdout)
    assert len(emptied["spaces"]) == 1
    assert list(Path("kept").iterdir()) == strangers[:1]
    assert call("cache", "prune", "kept").returncode == 5


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
    assert (value["documents"], value["kept_before"], value["damaged"]) == (213, written - 1, 0)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["build", "C", "-o", "kept", "--storage", "int4"], 2, "'int4'; choose exact, bfloat16"),
        (["build", "C", "-o", "kept", "--keep-tokens", "-3"], 2, "--keep-tokens"),
        (["build", "C", "-o", "kept", "--limit", "0"], 2, "--limit"),
        (["build", "C", "-o", "kept", "--depth", "3"], 2, "--depth is of candidates"),
        (["build", "C", "-o", "C/docs.jsonl"], 5, "it is a file; give a folder"),
        (["build", "C", "-o", "/dev/null/kept"], 5, "cannot write in /dev/null/kept: Not a dir"),
        (["build", "nowhere", "-o", "kept"], 4, "no collection 'nowhere'"),
        (["build", "C", "-o", "kept", "--candidates", "al"], 4, "no candidates named 'al'"),
        (["build", "C", "-o", "kept", "--profile", "icr-blok"], 4, "did you mean 'icr-block'?"),
        (["info", "nowhere"], 4, "no such folder: nowhere; `ranklens cache build`"),
        (["info", "C"], 5, "C holds no documents"),
        (["info", "C/docs.jsonl"], 5, "holds no documents"),
        (["prune", "nowhere"], 4, "no such folder: nowhere"),
        (["prune", "C"], 5, "C holds no documents"),
        (["prune", "C", "--size", "10 G"], 2, "--size is '10 G'; expected bytes"),
        (["prune", "C", "--size", "-1"], 2, "--size is '-1'; expected bytes"),
        (["prune", "C", "--size", "1.5"], 2, "--size is '1.5'; expected bytes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_calls_are_refused_early(
    call: Call, collection: Path, decoder: str, arguments: list[str], code: int, named: str
) -> None:
    given = [text.replace("C", "collection", 1) if text[0] == "C" else text for text in arguments]
    if given[0] == "build":
        given += ["--reranker", decoder]
    done = call("cache", *given, "--json")
    assert done.returncode == code, done.stderr
    assert named.replace("C holds", "collection holds") in json.loads(done.stdout)["message"]
    assert "loading" not in done.stderr
    assert not list(collection.glob("*/space.json"))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("123", 123), ("7B", 7), ("10GB", 10**10), ("10 gb", 10**10), ("2kB", 2000),
        ("3TB", 3 * 10**12), ("1.5 MiB", 3 * 2**19), ("4KiB", 4096), ("1GiB", 2**30),
        ("9007199254740993", 9007199254740993),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    from ranklens.cli.cache import parse_size

    assert parse_size(text) == size
