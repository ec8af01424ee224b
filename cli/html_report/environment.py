"""What made a report: software, models, settings and commands; no users, hosts or paths."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from ranklens.cli.html_report.sources import Source
from ranklens.data.collection import Collection

_READING = ("torch", "transformers", "tokenizers")


def environment(
    sources: Sequence[Source], read: Mapping[str, str] | None
) -> tuple[tuple[str, str], ...]:
    """Return names and values; ``read`` is what attention was read with, None if it was not."""
    packages = ("ranklens", "numpy", *(_READING if read else ()))
    rows = [(name, _version(name)) for name in packages]
    rows.append(("Python", platform.python_version()))
    rows += [(f"attention read: {name}", value) for name, value in (read or {}).items()]
    for source in sources:
        if source.role == "reranked" and source.manifest is not None:
            rows += [(f"{source.name}: {name}", value) for name, value in _of_run(source.manifest)]
    return tuple((name, value) for name, value in rows if value)


def commands(
    collection: Collection, sources: Sequence[Source], arguments: Sequence[str]
) -> tuple[str, ...]:
    """Return the commands that made the runs, as far as manifests tell, and the report."""
    every = [query.id for query in collection.queries]
    found = [
        _run_command(source.label, source.manifest, every)
        for source in sources
        if source.role == "reranked" and source.manifest is not None
    ]
    return (*found, shlex.join(["ranklens", "report", *map(anywhere, arguments)]))


def checksum_warnings(collection: Collection, sources: Iterable[Source]) -> tuple[str, ...]:
    """Say which run folders were made with other queries or judgements than the collection's."""
    warnings = []
    for source in sources:
        if source.role != "reranked" or source.manifest is None:
            continue
        known = source.manifest["collection"].get("checksums", {})
        other = [
            part for part, value in collection.sources.items() if known.get(part, value) != value
        ]
        if other:
            warnings.append(
                f"{source.name} was made with other {' and '.join(other)} than those of "
                f"collection {collection.name!r}"
            )
    return tuple(warnings)


def anywhere(argument: str) -> str:
    """Return an argument without what it says of this machine: a path from the root is its name."""
    kind, colon, rest = argument.rpartition(":")
    path = PurePath(rest)
    if path.is_absolute() or ".." in path.parts or rest.startswith("~"):
        return f"{kind}{colon}{Path(rest).expanduser().resolve().name}"
    return argument


def _of_run(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    reranker = manifest.get("reranker") or {}
    rows = [(name, _text(reranker.get(name))) for name in ("kind", "model", "revision")]
    profile = reranker.get("profile")
    rows.append(("profile", _text(profile.get("name") if isinstance(profile, dict) else profile)))
    rows += [
        (name.replace("_", " "), _text(reranker.get(name)))
        for name in ("device", "dtype", "long_lists", "passages", "documents", "versions")
    ]
    rows.append(("first stage", _text(manifest.get("first_stage"))))
    rows.append(("depth", _text(manifest.get("depth"))))
    checksums = manifest["collection"].get("checksums")
    rows.append(("collection", _text(manifest["collection"].get("name"))))
    rows.append(("collection checksums", _text(checksums)))
    return rows


def _run_command(label: str, manifest: Mapping[str, Any], every: Sequence[str]) -> str:
    reranker = manifest.get("reranker") or {}
    first = manifest.get("first_stage") or {}
    profile = reranker.get("profile")
    queries = manifest["queries"]
    limited = len(queries) < len(every) and queries == every[: len(queries)]
    known = {
        "--retriever": first.get("retriever"),
        # A run that was given is known by its content only, which lies in the folder too.
        "--candidates": f"{label}/candidates.run" if "run" in first else None,
        "--reranker": f"{reranker.get('kind')}:{reranker.get('model')}",
        "--profile": profile.get("name") if isinstance(profile, dict) else profile,
        "--depth": manifest.get("depth"),
        "--limit": len(queries) if limited else None,
        "--out": label,
    }
    name = str(manifest["collection"].get("name"))
    words = ["ranklens", "run", "sample:pydocs" if name == "pydocs" else name]
    for option, value in known.items():
        if value is not None:
            words += [option, str(value)]
    return shlex.join(map(anywhere, words))


def _text(value: object) -> str:
    """Return a value as one line; what has no value is empty."""
    if isinstance(value, Mapping):
        known = {name: _text(one) for name, one in value.items()}
        return ", ".join(f"{name} {text}" for name, text in known.items() if text)
    return "" if value is None else anywhere(str(value))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
