"""The folder of a pipeline run: it survives being killed at any moment, and resumes.

    manifest.json   what is computed from what: collection, first stage, reranker, checksums
    candidates.run  the first stage's run
    results.jsonl   one line per reranked query, appended as it is done
    reranked.run    the final run
    metrics.json    the table

Files are written whole or not at all, except results.jsonl: its last line may be torn by a
kill and is then cut off. Nothing in the folder depends on time, place or interruptions, so a
resumed run ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.files import write_json
from ranklens.data.runs import Run, read_run, write_run

if TYPE_CHECKING:
    from ranklens.rerank.base import Ranking

FORMAT = 1
_MANIFEST = "manifest.json"


class RunFolder:
    """An opened run folder; use ``open_run_folder``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def candidates_file(self) -> Path:
        """The first stage's run file."""
        return self.path / "candidates.run"

    @property
    def reranked_file(self) -> Path:
        """The final run file."""
        return self.path / "reranked.run"

    def begin(self, manifest: Mapping[str, Any]) -> bool:
        """Write the manifest, or check it against the one of an earlier start.

        Returns whether there was an earlier start. Raises InvalidInputError naming what
        differs, so that results of two settings never mix.
        """
        path = self.path / _MANIFEST
        wanted = json.loads(json.dumps({"format": FORMAT, **manifest}))
        if not path.is_file():
            if self._results.exists():
                raise InvalidInputError(
                    f"{self.path} has results but no {_MANIFEST}; give another --out"
                )
            write_json(path, wanted)
            return False
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidInputError(f"{path}: not JSON ({error}); give another --out") from None
        differences = list(_differences(found, wanted))
        if differences:
            raise InvalidInputError(
                f"{self.path} holds a run with other settings: {'; '.join(differences[:3])}. "
                "Give another --out, or --overwrite to start again"
            )
        return True

    def candidates(self) -> Run | None:
        """Return the first stage's run if it is already there."""
        return read_run(self.candidates_file) if self.candidates_file.is_file() else None

    def keep_candidates(self, run: Run) -> Run:
        """Write the first stage's run and return it as a later start will read it."""
        write_run(run, self.candidates_file)
        return read_run(self.candidates_file)

    def results(self) -> dict[str, list[tuple[str, float]]]:
        """Return what is reranked already: query id → (document id, score), best first.

        A last line without its line end was torn by a kill: it is cut off the file.
        """
        done: dict[str, list[tuple[str, float]]] = {}
        if not self._results.exists():
            return done
        content = self._results.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._results, whole)
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                done[record["query_id"]] = [(d["id"], d["score"]) for d in record["documents"]]
            except (ValueError, KeyError, TypeError):
                raise InvalidInputError(
                    f"{self._results}:{number}: not a result line; give --overwrite to start again"
                ) from None
        return done

    def append(self, query_id: str, ranking: Ranking) -> None:
        """Add one query's ranking; it is on the disk when this returns."""
        record = {
            "query_id": query_id,
            "documents": [
                {"id": r.id, "score": r.score, "tokens_cut": r.tokens_cut} for r in ranking
            ],
        }
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with self._results.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self, reranked: Run, metrics: Mapping[str, Any]) -> None:
        """Write the final run and the metrics."""
        write_run(reranked, self.reranked_file)
        write_json(self.path / "metrics.json", metrics)

    @property
    def _results(self) -> Path:
        return self.path / "results.jsonl"


@contextmanager
def open_run_folder(path: Path, *, overwrite: bool = False) -> Iterator[RunFolder]:
    """Open a run folder for one process; RanklensError when another one has it.

    ``overwrite`` empties a folder that holds a run; a folder that holds anything else is
    refused with InvalidInputError, so that a wrong --out cannot destroy somebody's files.
    """
    from filelock import FileLock, Timeout

    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"--out {path} is a file; give a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / _MANIFEST).is_file():
        strangers = [entry.name for entry in path.iterdir() if not entry.name.startswith(".")]
        if strangers:
            raise InvalidInputError(
                f"--out {path} holds other files ({strangers[0]}); give a new or empty folder"
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"cannot make --out {path}: {error.strerror}") from None
    lock = FileLock(path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RanklensError(f"another process is working in {path}; wait for it") from None
    try:
        for entry in path.iterdir():
            torn = entry.name.startswith(".") and entry.name.endswith(".tmp")
            if torn or (overwrite and entry.name != ".lock"):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield RunFolder(path)
    finally:
        lock.release()


def _differences(found: Any, wanted: Any, at: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _differences(found.get(key), wanted.get(key), f"{at}.{key}" if at else key)
    elif found != wanted:
        yield f"{at} was {found!r} and is now {wanted!r}"
