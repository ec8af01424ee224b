"""Index folders: built whole or not at all, used again by checksum, refused when damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.documents import FileDocuments
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.parts import Passages
from ranklens.data.records import Document, Query
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.hybrid import HybridRetriever
from ranklens.retrieval.index_folder import BusyError, open_index, read_manifest
from ranklens.retrieval.passages import PassageRetriever

QUERIES = [Query("q", "bread oven"), Query("none", "zebra")]


@pytest.fixture
def documents(tmp_path: Path) -> FileDocuments:
    return corpus(tmp_path / "docs.tsv")


def corpus(path: Path, more: str = "") -> FileDocuments:
    path.write_text(f"d1\tbread in an oven\nd2\tan oven\nü 3\tbread and bread{more}\n")
    return FileDocuments(path)


class Counted(BM25Retriever):
    """BM25 that counts how often it indexes, and fails when it is told to."""

    built = 0
    fails = False

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        self.built += 1
        facts = super().build(documents, folder)
        if self.fails:
            raise OSError(28, "No space left on device")
        return facts


def test_an_index_is_built_once_and_finds_the_same(
    documents: FileDocuments, tmp_path: Path
) -> None:
    memory = BM25Retriever()
    memory.index(documents)
    first, second = Counted(), Counted()
    assert open_index(first, tmp_path / "i", documents).built
    opened = open_index(second, tmp_path / "i", documents)
    assert (opened.built, second.built, opened.facts["documents"]) == (False, 0, 3)
    assert first.search(QUERIES, 5) == second.search(QUERIES, 5) == memory.search(QUERIES, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".i.lock", "docs.tsv", "i"]


def test_an_index_of_something_else_is_refused_and_named(
    documents: FileDocuments, tmp_path: Path
) -> None:
    open_index(BM25Retriever(), tmp_path / "i", documents)
    with pytest.raises(InvalidInputError, match=r"k1: 0\.9 there, 1\.2 wanted\. Give another"):
        open_index(BM25Retriever(k1=1.2), tmp_path / "i", documents)
    hybrid = HybridRetriever({"one": BM25Retriever(), "two": BM25Retriever(k1=2)})
    with pytest.raises(InvalidInputError, match='retriever: "bm25" there, "hybrid" wanted'):
        open_index(hybrid, tmp_path / "i", documents)
    open_index(hybrid, tmp_path / "h", documents)
    other_part = HybridRetriever({"one": BM25Retriever(), "two": BM25Retriever(k1=3)})
    with pytest.raises(InvalidInputError, match=r"else: two\.k1: 2 there, 3 wanted\. Give"):
        open_index(other_part, tmp_path / "h", documents)
    passages = PassageRetriever(BM25Retriever(), Passages(2, 1))
    with pytest.raises(InvalidInputError, match=r'passages: null there, {"size": 2, "overlap": 1'):
        open_index(passages, tmp_path / "i", documents)
    other = corpus(tmp_path / "docs.tsv", more=" bread")
    with pytest.raises(InvalidInputError, match=r'documents: "sha256:\w+… there, "sha256:'):
        open_index(BM25Retriever(), tmp_path / "i", other)
    replaced = open_index(BM25Retriever(k1=1.2), tmp_path / "i", other, overwrite=True)
    assert replaced.built
    assert not open_index(BM25Retriever(k1=1.2), tmp_path / "i", other).built


def test_a_damaged_index_is_refused_until_it_is_built_anew(
    documents: FileDocuments, tmp_path: Path
) -> None:
    folder = tmp_path / "i"
    open_index(BM25Retriever(), folder, documents)
    part = folder / "data.csc.index.npy"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(InvalidInputError, match=f"has {len(whole) - 1} bytes instead of"):
        open_index(BM25Retriever(), folder, documents)
    part.unlink()
    with pytest.raises(
        InvalidInputError, match=r"index\.npy is missing; `ranklens retrieve --over"
    ):
        open_index(BM25Retriever(), folder, documents)
    assert open_index(BM25Retriever(), folder, documents, overwrite=True).built
    assert part.read_bytes() == whole


def test_an_index_of_another_format_says_who_made_it(
    documents: FileDocuments, tmp_path: Path
) -> None:
    open_index(BM25Retriever(), tmp_path / "i", documents)
    manifest = tmp_path / "i" / "manifest.json"
    changed = json.loads(manifest.read_text()) | {"format": 2, "ranklens": "9.1"}
    manifest.write_text(json.dumps(changed))
    with pytest.raises(InvalidInputError, match=r"format 2, made by ranklens 9\.1; this version"):
        open_index(BM25Retriever(), tmp_path / "i", documents)


def test_what_is_no_index_is_never_touched(documents: FileDocuments, tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("all my work")
    for overwrite in (False, True):
        with pytest.raises(InvalidInputError, match=r"is not an index: it has no manifest\.json"):
            open_index(BM25Retriever(), folder, documents, overwrite=overwrite)
        with pytest.raises(InvalidInputError, match="is a file, not the folder of an index"):
            open_index(BM25Retriever(), folder / "chapter.txt", documents, overwrite=overwrite)
    others = ["{", "[]", '{"format": 1, "collection": {}, "reranker": {}}', '{"format": 1}']
    for manifest in others:
        (folder / "manifest.json").write_text(manifest)
        for overwrite in (False, True):
            with pytest.raises(InvalidInputError, match="json is damaged, or of something"):
                open_index(BM25Retriever(), folder, documents, overwrite=overwrite)
    assert (folder / "chapter.txt").read_text() == "all my work"
    with pytest.raises(MissingResourceError, match="no index"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_build_that_fails_leaves_what_was_there(
    documents: FileDocuments, tmp_path: Path, overwrite: bool
) -> None:
    if overwrite:
        open_index(BM25Retriever(), tmp_path / "i", documents)
    before = sorted(path.name for path in tmp_path.rglob("*") if path.name != ".i.lock")
    failing = Counted()
    failing.fails = True
    with pytest.raises(OSError, match="No space left"):
        open_index(failing, tmp_path / "i", documents, overwrite=overwrite)
    assert before == sorted(path.name for path in tmp_path.rglob("*") if path.name != ".i.lock")
    if overwrite:
        assert not open_index(BM25Retriever(), tmp_path / "i", documents).built


def test_an_index_that_another_process_builds_is_not_touched(
    documents: FileDocuments, tmp_path: Path
) -> None:
    code = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire();"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".i.lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=r"another process is building the index .*i; wait"):
            open_index(BM25Retriever(), tmp_path / "i", documents)
        other.communicate(b"")
    assert open_index(BM25Retriever(), tmp_path / "i", documents).built


def test_what_a_killed_process_left_is_cleared_away(
    documents: FileDocuments, tmp_path: Path
) -> None:
    left = tmp_path / ".i.building"
    left.mkdir()
    (left / "data.csc.index.npy").write_text("half")
    (left / "stray").write_text("?")
    open_index(BM25Retriever(), tmp_path / "i", documents)
    assert not left.exists()
    assert not (tmp_path / "i" / "stray").exists()


class Resuming(BM25Retriever):
    """BM25 whose build goes on in a folder, as that of vectors does."""

    resumes = True


def test_a_process_killed_at_the_very_end_leaves_what_becomes_an_index(
    documents: FileDocuments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr("ranklens.retrieval.index_folder._swap", killed)
        with pytest.raises(SystemExit):
            open_index(Resuming(), tmp_path / "i", documents)
    assert (tmp_path / ".i.building" / "manifest.json").is_file()
    assert open_index(Resuming(), tmp_path / "i", documents).built
    assert "manifest.json" not in read_manifest(tmp_path / "i")["files"]
    assert not open_index(Resuming(), tmp_path / "i", documents).built


def test_an_index_behind_a_link_is_built_anew_where_it_lies(
    documents: FileDocuments, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "large-disk" / "i", target_is_directory=True)
    for number in range(3):
        k1 = 1.0 + number
        assert open_index(BM25Retriever(k1=k1), link, documents, overwrite=True).built
        assert link.is_symlink()
        assert read_manifest(tmp_path / "large-disk" / "i")["settings"]["k1"] == k1
    there = sorted(path.name for path in (tmp_path / "large-disk").iterdir())
    assert there == [".i.lock", "i"]


def test_where_nothing_can_be_written_the_folder_is_named(
    documents: FileDocuments, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match=r"cannot write the index .*/file/i: "):
        open_index(BM25Retriever(), tmp_path / "file" / "i", documents)


def test_passages_and_hybrids_are_kept_too(documents: FileDocuments, tmp_path: Path) -> None:
    def passages() -> PassageRetriever:
        return PassageRetriever(BM25Retriever(), Passages(2, 0))

    memory = passages()
    memory.index(documents)
    opened = open_index(passages(), tmp_path / "p", documents)
    assert (opened.facts["documents"], opened.facts["passages"]) == (3, 5)
    again = passages()
    assert not open_index(again, tmp_path / "p", documents).built
    assert again.search(QUERIES, 5) == memory.search(QUERIES, 5)
    parts: dict[str, Retriever] = {"words": BM25Retriever(), "passages": passages()}
    assert open_index(HybridRetriever(parts), tmp_path / "h", documents).facts["documents"] == 3
    kept = HybridRetriever({"words": BM25Retriever(), "passages": passages()})
    assert not open_index(kept, tmp_path / "h", documents).built
    found = kept.search(QUERIES, 2)
    assert {doc.doc_id for doc in found["q"]} <= {"d1", "d2", "ü 3"}
    assert [len(found["q"]), len(found["none"])] == [2, 0]
