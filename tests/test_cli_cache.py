"""``ranklens cache`` and ``--documents``: what is kept, gone on with, damaged, and removed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.kept_entries import entries, origins
from tests.tiny_trained import NAME, make_base, make_trained

from ranklens.rerank.kv.disk import read_entry

pytest_plugins = ["cli_fixtures", "cache_fixtures"]
Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_a_trained_model_keeps_documents_as_it_reads_them(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    trained = f"attention:{make_trained(tmp_path / 'trained', make_base(tmp_path / 'base'))}"
    options = ("--reranker", trained, "--dtype", "float32")
    built = call("cache", "build", collection, "-o", "kept", *options, "--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["profile"] == NAME
    told = call("cache", "build", collection, "-o", "kept", *options).stderr
    assert f"rank with: ranklens rerank … --reranker {trained} --documents kept" in told
    ranked = call(
        "rerank", collection, "all", "-o", "a.run", *options, "--documents", "kept", "--json"
    )
    assert ranked.returncode == 0, ranked.stderr
    assert origins(ranked)["computed"] == 0


def test_documents_built_ahead_rank_as_those_computed_on_the_way(
    build: Call, rerank: Call, call: Call
) -> None:
    built = build("--json")
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout) == {
        "status": "ok", "folder": "kept", "profile": "icr-block", "storage": "exact",
        "keep_tokens": None, "documents": 12, "computed": 12, "already_kept": 0, "damaged": 0,
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
    assert value["already_kept"] == 12 - value["computed"]
    assert "warning: 1 kept documents were damaged" in rest.stderr
    assert sum(path.stat().st_ino in times for path in entries()) >= 5
    whole = build()
    assert "kept keeps 12 documents: 0 computed, 12 there already" in whole.stderr
    for path in entries():
        read_entry(path)


def test_equal_texts_are_one_document(build: Call, collection: Path) -> None:
    lines = (collection / "docs.jsonl").read_text()
    with (collection / "docs.jsonl").open("a") as stream:
        stream.write(lines.replace('"_id": "d', '"_id": "again'))
    value = json.loads(build("--json").stdout)
    assert (value["documents"], value["computed"], value["already_kept"]) == (24, 12, 12)


def test_candidates_only(build: Call, collection: Path) -> None:
    value = json.loads(build("--candidates", "all", "--depth", 3, "--json").stdout)
    assert value["documents"] == 3
    value = json.loads(build("--candidates", collection / "all.run", "--json").stdout)
    assert (value["documents"], value["already_kept"]) == (12, 3)


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
