"""The runs of a report: folders of ``ranklens run`` and TREC run files, told apart by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranklens.cli.html_report.content import Role
from ranklens.cli.run_folder import is_manifest
from ranklens.cli.run_labels import run_labels
from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.data.runs import Run, read_run

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A run to report on.

    ``label`` is its file or folder, for the user. A run of a folder has the folder's manifest,
    and the depth to which it was reranked; a reranked one its ``candidates``.
    """

    name: str
    label: str
    role: Role
    run: Run
    depth: int | None = None
    candidates: Run | None = None
    manifest: Manifest | None = None

    @property
    def pool(self) -> Run | None:
        """The run whose first ``depth`` documents a reranker could order; None for a file."""
        return self.run if self.role == "first stage" else self.candidates


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Read runs in the order given, a folder's first stage before its reranked run.

    A first stage that several folders have alike is there once, with the largest depth. Raises
    MissingResourceError for a path that is not there, InvalidInputError for a folder that holds
    no finished run and for a file that is no run, UsageError for one that is given twice.
    """
    labels = run_labels(paths)
    taken = set(labels)
    found: list[Source] = []
    for path, label in zip(paths, labels, strict=True):
        path = path.expanduser()
        if path.is_dir():
            first, reranked = _folder(path, label)
            known = next((i for i, one in enumerate(found) if _alike(one, first)), None)
            if known is None:
                name = _free(first.run.tag, label, taken)
                found.append(_with(first, name=name))
            elif (first.depth or 0) > (found[known].depth or 0):
                found[known] = _with(first, name=found[known].name)
            found.append(reranked)
        elif path.exists():
            found.append(Source(label, label, "run", read_run(path)))
        else:
            raise MissingResourceError(f"no run folder and no run file {path}")
    return found


def collection_of(sources: Iterable[Source]) -> str:
    """Return the collection that the runs' manifests name, if it can be loaded anywhere.

    Raises UsageError, with the way out, if it cannot, or if they name several.
    """
    specs = {_spec(source.manifest) for source in sources if source.manifest is not None}
    if len(specs) == 1 and (spec := specs.pop()) is not None:
        return spec
    if len(specs) > 1:
        raise UsageError("the run folders are of several collections; give --collection")
    if not specs and not any(source.manifest for source in sources):
        raise UsageError("run files do not say of which collection they are; give --collection")
    raise UsageError(
        "the run folder does not say where its collection lies; give --collection COLLECTION"
    )


def baseline_of(given: str | None, sources: Sequence[Source]) -> str:
    """Return the name of the run that others are held against: the first, where none is given."""
    if given is None:
        return sources[0].name
    for source in sources:
        if source.name == given:
            return source.name
    [label] = run_labels([Path(given)])
    for source in sources:
        if source.role != "first stage" and source.label == label:
            return source.name
    names = ", ".join(source.name for source in sources)
    raise UsageError(f"--baseline {given!r} is none of the runs: {names}")


def wanted_queries(sources: Iterable[Source]) -> set[str] | None:
    """Return the queries that run folders are about; None where a run file may have any."""
    ids: set[str] = set()
    for source in sources:
        if source.manifest is None:
            return None
        ids.update(map(str, source.manifest.get("queries", ())))
    return ids or None


def _spec(manifest: Manifest) -> str | None:
    named = manifest["collection"]
    documents = str(named.get("checksums", {}).get("documents", ""))
    if documents.startswith("irds:"):
        return documents
    return "sample:pydocs" if named.get("name") == "pydocs" else None


def _folder(path: Path, label: str) -> tuple[Source, Source]:
    """Return a run folder's first stage, which has no name yet, and its reranked run."""
    manifest = path / "manifest.json"
    if not is_manifest(manifest):
        raise InvalidInputError(
            f"{path} is not a folder of `ranklens run` (no manifest.json of one); give such a "
            "folder, or run files"
        )
    said = json.loads(manifest.read_text(encoding="utf-8"))
    files = [path / "candidates.run", path / "reranked.run"]
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        raise InvalidInputError(
            f"the run in {path} is not finished ({lacking[0]} is not there yet); the same "
            "`ranklens run` goes on with it"
        )
    _check(said, manifest)
    depth = said["depth"]
    candidates, reranked = map(read_run, files)
    return (
        Source("", label, "first stage", candidates, depth, None, said),
        Source(label, label, "reranked", reranked, depth, candidates, said),
    )


def _check(said: Manifest, manifest: Path) -> None:
    """Raise InvalidInputError for a manifest whose parts are not what reports read of them."""
    depth = said.get("depth")
    shapes = {
        "depth": isinstance(depth, int) and depth >= 1,
        "collection": isinstance(said["collection"], dict)
        and isinstance(said["collection"].get("checksums", {}), dict),
        "queries": isinstance(said.get("queries"), list),
        "reranker": isinstance(said["reranker"], dict),
        "first_stage": isinstance(said.get("first_stage"), dict),
    }
    wrong = [name for name, right in shapes.items() if not right]
    if wrong:
        raise InvalidInputError(
            f"{manifest} is damaged: {', '.join(wrong)} is not there or no value that "
            "`ranklens run` writes"
        )


def _alike(known: Source, first: Source) -> bool:
    return known.role == "first stage" and dict(known.run) == dict(first.run)


def _with(source: Source, name: str) -> Source:
    return Source(name, source.label, source.role, source.run, source.depth, None, source.manifest)


def _free(wanted: str, label: str, taken: set[str]) -> str:
    """Return a name that no other run has, and take it."""
    name = wanted
    if name in taken:
        name = f"{wanted} of {label}"
    number = 2
    while name in taken:
        name = f"{wanted} of {label}, {number}"
        number += 1
    taken.add(name)
    return name
