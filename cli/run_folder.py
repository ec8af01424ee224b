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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import write_json
from ranklens.data.runs import Run, read_run, write_run
from ranklens.data.work_folder import begin_settings, open_work_folder

if TYPE_CHECKING:
    from ranklens.rerank.base import Ranking

FORMAT = 1
_MANIFEST = "manifest.json"
_FILES = (_MANIFEST, "candidates.run", "results.jsonl", "reranked.run", "metrics.json")


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

    def begin(self, manifest: Mapping[str, Any], *, overwrite: bool = False) -> bool:
        """Write the manifest, or check it against the one of an earlier start.

        Returns whether there was an earlier start. Raises OtherSettingsError naming what
        differs, so that results of two settings never mix. ``overwrite`` removes an earlier
        start's files; whatever else lies in the folder stays.
        """
        path = self.path / _MANIFEST
        if overwrite:
            # The manifest goes last: without it the others would count as somebody else's.
            for name in reversed(_FILES):
                (self.path / name).unlink(missing_ok=True)
        wanted = json.loads(json.dumps({"format": FORMAT, **manifest}))
        return begin_settings(
            path, wanted, "a run", "Give another --out, or --overwrite to start again"
        )

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

    def keep_reranked(self, run: Run) -> Run:
        """Write the final run and return it as whoever evaluates the file will read it."""
        write_run(run, self.reranked_file)
        return read_run(self.reranked_file)

    def keep_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write the metrics: the last file of a finished run."""
        write_json(self.path / "metrics.json", metrics)

    @property
    def _results(self) -> Path:
        return self.path / "results.jsonl"


@contextmanager
def open_run_folder(path: Path) -> Iterator[RunFolder]:
    """Open a run folder for one process; raises as ``open_work_folder``."""
    with open_work_folder(path, _FILES, lambda folder: is_manifest(folder / _MANIFEST)):
        yield RunFolder(path)


def is_manifest(manifest: Path) -> bool:
    """Say whether a manifest is one of a run: many programs call a file manifest.json."""
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and {"format", "collection", "reranker"} <= set(value)
