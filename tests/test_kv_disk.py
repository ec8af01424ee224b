"""Documents kept on disk: another process finds them, and nothing wrong is ever served."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.test_blocks import DOCUMENTS, QUERY
from tests.test_kv import load

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.models.folder import fingerprint
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.kv.cache import DocumentCache
from ranklens.rerank.kv.disk import DamagedEntryError, Disk, kept, read_entry
from ranklens.rerank.kv.entry import STORAGES, Entry, entry

MakeModel = Callable[..., Path]
CPU = torch.device("cpu")


def some_entry(seed: int = 0, storage: str = "exact") -> Entry:
    generator = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(2, 2, 5, 4, generator=generator).bfloat16() for _ in range(2))
    last = torch.randn(1, 5, 4, generator=generator).bfloat16()
    return entry(keys, values, last, storage)  # type: ignore[arg-type]


def same(one: Entry, other: Entry) -> bool:
    """Say whether two entries are equal in every bit."""
    return (
        one.tensors.keys() == other.tensors.keys()
        and (one.length, one.mass_kept) == (other.length, other.mass_kept)
        and all(
            a.dtype == b.dtype and torch.equal(a, b)
            for a, b in ((one.tensors[name], other.tensors[name]) for name in one.tensors)
        )
    )


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/??/*.safetensors"))


@pytest.mark.parametrize("storage", STORAGES)
def test_an_entry_comes_back_as_it_was(storage: str, tmp_path: Path) -> None:
    disk = Disk(tmp_path, "space", {"model": "tiny"})
    written = some_entry(storage=storage).only(torch.tensor([0, 2, 3]), 0.75)
    disk.put("abcd", written)
    found = disk.get("abcd", CPU)
    assert found is not None
    assert same(found, written)
    assert found.tokens.tolist() == [0, 2, 3]
    assert (found.length, found.mass_kept) == (5, 0.75)
    assert disk.get("abce", CPU) is None
    assert json.loads((tmp_path / "space" / "space.json").read_text()) == {"model": "tiny"}


def test_no_flipped_bit_is_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every byte of a file, one bit of it: noticed, or without any effect."""
    disk = Disk(tmp_path, "space", {})
    written = some_entry()
    disk.put("abcd", written)
    [path] = entries(tmp_path)
    whole = path.read_bytes()
    unnoticed = 0
    draw = random.Random(5)
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_entry(path)
        except DamagedEntryError:
            continue
        unnoticed += 1
        assert same(found, written), f"byte {place}"
    # Blanks that pad the header.
    assert unnoticed < 16
    for length in (0, 1, 7, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedEntryError):
            read_entry(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(DamagedEntryError):
        read_entry(path)
    with caplog.at_level(logging.WARNING), pytest.raises(DamagedEntryError):
        disk.get("abcd", CPU)
    assert str(path) in caplog.text
    assert "computed again" in caplog.text
    disk.put("abcd", written)
    rebuilt = disk.get("abcd", CPU)
    assert rebuilt is not None
    assert same(rebuilt, written)
    # Another document's entry under this one's name.
    disk.put("abff", some_entry(1))
    (path.parent / "abff.safetensors").replace(path)
    with pytest.raises(DamagedEntryError, match="another document"):
        read_entry(path)


def test_another_process_finds_the_documents(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model(num_hidden_layers=3)
    first = DocumentCache(folder=tmp_path)
    expected = load(folder, first).rank(QUERY, DOCUMENTS)
    # One document stands twice, and the prefix has an entry too.
    assert len(entries(tmp_path)) == first.counts.computed + 1 == len(DOCUMENTS)
    again = DocumentCache(folder=tmp_path)
    assert load(folder, again).rank(QUERY, DOCUMENTS) == expected
    assert (again.counts.computed, again.counts.disk) == (0, len(DOCUMENTS) - 1)
    # Nothing of it is for another dtype, model or storage.
    for other in (
        load(folder, DocumentCache(folder=tmp_path), dtype="bfloat16"),
        load(
            tiny_model(num_hidden_layers=3, initializer_range=0.2), DocumentCache(folder=tmp_path)
        ),
        load(folder, DocumentCache(folder=tmp_path, storage="int8")),
    ):
        before = len(entries(tmp_path))
        other.rank(QUERY, DOCUMENTS)
        assert len(entries(tmp_path)) == before + len(DOCUMENTS)
    spaces = list(kept(tmp_path))
    assert len(spaces) == 4
    assert {len(space.files) for space in spaces} == {len(DOCUMENTS)}
    assert {space.description["storage"] for space in spaces} == {"exact", "int8"}
    assert all(space.nbytes == sum(p.stat().st_size for _, p, _ in space.files) for space in spaces)


def test_a_damaged_entry_is_computed_again(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model(num_hidden_layers=3)
    expected = load(folder, DocumentCache(folder=tmp_path)).rank(QUERY, DOCUMENTS)
    first, second, *_ = entries(tmp_path)
    raw = bytearray(first.read_bytes())
    raw[-3] ^= 4
    first.write_bytes(raw)
    second.write_bytes(b"")
    cache = DocumentCache(folder=tmp_path)
    assert load(folder, cache).rank(QUERY, DOCUMENTS) == expected
    assert (cache.counts.damaged, cache.counts.computed) == (2, 2)
    for path in entries(tmp_path):
        read_entry(path)


def test_a_folder_that_cannot_be_used(tiny_model: MakeModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ours = load(tiny_model(), DocumentCache(folder=tmp_path / "file"))
    with pytest.raises(InvalidInputError, match=r"cannot keep documents in .*file"):
        ours.rank(QUERY, DOCUMENTS)
    with pytest.raises(MissingResourceError, match="no such folder"):
        list(kept(tmp_path / "nowhere"))
    with pytest.raises(InvalidInputError, match="holds no documents"):
        list(kept(tmp_path))


def test_what_happens_to_a_file_later_changes_nothing_that_is_held(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    """Entries in memory are copies: of a mapped file, bytes would change under them, or vanish."""
    folder = tiny_model(num_hidden_layers=3)
    expected = load(folder, DocumentCache(folder=tmp_path)).rank(QUERY, DOCUMENTS)
    ours = load(folder, DocumentCache(folder=tmp_path))
    assert ours.rank(QUERY, DOCUMENTS) == expected
    for number, path in enumerate(entries(tmp_path)):
        with path.open("r+b") as stream:
            if number % 2:
                stream.truncate(16)
            else:
                stream.seek(path.stat().st_size // 2)
                stream.write(b"\xff" * 64)
    assert ours.rank(QUERY, DOCUMENTS) == expected


def test_entries_of_another_space_are_not_taken(tiny_model: MakeModel, tmp_path: Path) -> None:
    """A document has one name in every space: folders may not be merged by hand."""
    folder = tiny_model(num_hidden_layers=3)
    load(folder, DocumentCache(folder=tmp_path)).rank(QUERY, DOCUMENTS)
    narrow = load(folder, DocumentCache(folder=tmp_path), dtype="bfloat16")
    expected = narrow.rank(QUERY, DOCUMENTS)
    other, own = sorted(
        (space.folder for space in kept(tmp_path)),
        key=lambda path: json.loads((path / "space.json").read_text())["dtype"] == "bfloat16",
    )
    for path in own.glob("??/*"):
        path.write_bytes((other / path.parent.name / path.name).read_bytes())
    cache = DocumentCache(folder=tmp_path)
    assert load(folder, cache, dtype="bfloat16").rank(QUERY, DOCUMENTS) == expected
    assert cache.counts.computed == cache.counts.damaged - 1, "six documents and the prefix"


def test_weights_that_differ_in_the_middle_are_another_model(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    """As a merged adapter's do: the fingerprint is of the ends of a file."""
    folder = tiny_model(hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
    in_memory = DocumentCache()
    for cache in (DocumentCache(folder=tmp_path), in_memory):
        load(folder, cache).rank(QUERY, DOCUMENTS)
    [weights] = folder.glob("*.safetensors")
    assert weights.stat().st_size > 6 * 2**20
    before = fingerprint(folder)
    stored = load_file(weights)
    name = max(stored, key=lambda name: ("layers.1.mlp" in name, name))
    stored[name] = stored[name].flip(0).contiguous()
    save_file(stored, weights, {"format": "pt"})
    assert fingerprint(folder) == before
    for cache in (DocumentCache(folder=tmp_path), in_memory):
        changed = load(folder, cache)
        layout = changed.layout(QUERY, DOCUMENTS)
        expected = changed.engine.read(layout, changed.plan, steady=True).mass
        before_reading = cache.counts.computed
        assert torch.equal(changed.read(layout).mass, expected)
        assert cache.counts.computed == before_reading + len(DOCUMENTS) - 1


def test_threads_share_a_cache(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = tiny_model(num_hidden_layers=2)
    expected = load(folder).rank(QUERY, DOCUMENTS).ids
    for turn in range(5):
        cache = DocumentCache(folder=tmp_path / str(turn))
        rerankers = [load(folder, cache) for _ in range(2)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(rerankers[n % 2].rank, QUERY, DOCUMENTS) for n in range(8)]
            found = [job.result() for job in jobs]
        assert {tuple(ranking.ids) for ranking in found} == {tuple(expected)}
        assert len({tuple(one.score for one in ranking) for ranking in found}) == 1
        assert cache.not_written is None
        counts = cache.counts
        assert counts.memory + counts.disk + counts.computed == 8 * (len(DOCUMENTS) - 1)
        for path in entries(tmp_path / str(turn)):
            read_entry(path)
        assert not list((tmp_path / str(turn)).rglob("*.tmp"))


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from ranklens.rerank.kv.disk import Disk
from tests.test_kv_disk import some_entry
disk = Disk(Path({folder!r}), "space", {{}})
{before}
print("ready", flush=True)
for number in range({number}):
    disk.put(f"{{number:04x}}", some_entry(number % 7))
print(disk.full, flush=True)
"""
ROOT = str(Path(__file__).resolve().parent.parent)


def writer(folder: Path, number: int, before: str = "") -> subprocess.Popen[str]:
    code = textwrap.dedent(WRITER).format(
        root=ROOT, folder=str(folder), number=number, before=textwrap.dedent(before)
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_whole_entries(tmp_path: Path) -> None:
    """SIGKILL at several moments: what lies there is sound, or another name."""
    for attempt in range(4):
        process = writer(tmp_path, 10**6)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.11 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = entries(tmp_path)
        assert found
        for path in found:
            assert same(read_entry(path), some_entry(int(path.stem, 16) % 7))
    [space] = kept(tmp_path)
    assert len(space.files) == len(entries(tmp_path))
    for path in space.leftovers:
        assert path.name.endswith(".tmp")
    # What a killed writer left is nobody's entry.
    leftover = found[0].with_name(f"{found[0].name}.1.tmp")
    leftover.write_bytes(found[0].read_bytes()[:50])
    [space] = kept(tmp_path)
    assert leftover in space.leftovers
    name = found[0].stem
    back = Disk(tmp_path, "space", {}).get(name, CPU)
    assert back is not None
    assert same(back, some_entry(int(name, 16) % 7))


def test_a_full_disk_stops_the_writing_and_nothing_else(tmp_path: Path) -> None:
    """The system's own refusal, by a limit on the size of files."""
    size = len(Path(_one(tmp_path / "one")).read_bytes())
    before = f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        disk.put("0a0a", some_entry())
        resource.setrlimit(resource.RLIMIT_FSIZE, ({size - 10}, {size - 10}))
    """
    process = writer(tmp_path / "full", 3, before)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert said == "ready\nFile too large\n"
    [path] = entries(tmp_path / "full")
    assert same(read_entry(path), some_entry())
    assert [p.name for p in sorted((tmp_path / "full").glob("*/*/*"))] == ["0a0a.safetensors"]


def _one(folder: Path) -> str:
    disk = Disk(folder, "space", {})
    disk.put("0000", some_entry())
    return str(entries(folder)[0])


def test_ranking_goes_on_without_a_disk(
    tiny_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder = tiny_model(num_hidden_layers=3)
    expected = load(folder, DocumentCache()).rank(QUERY, DOCUMENTS)

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, os.strerror(28), str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    cache = DocumentCache(folder=tmp_path)
    ours: AttentionReranker = load(folder, cache)
    with caplog.at_level(logging.WARNING):
        assert ours.rank(QUERY, DOCUMENTS) == expected
    assert ours.rank(QUERY, DOCUMENTS) == expected
    assert cache.not_written == "No space left on device"
    assert caplog.text.count("no longer kept on disk") == 1
    assert list(tmp_path.glob("*/??/*")) == []
