"""ir_metadata 0.1 (Breuer et al., 2022): how a run came about, as YAML beside the run.

Beside it, not at its head: most Python readers of run files stop at lines that start with ``#``.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from typing import Any

from ranklens.data.errors import UsageError


def ir_metadata(
    tag: str, *, team: str, goal: str, repository: str, collection: str | None = None
) -> dict[str, Any]:
    """Return the metadata of a run; the platform and the library versions are this machine's.

    ``team`` (actor), ``goal`` (research goal), ``repository`` (implementation) and the tag are
    what CLEF's LongEval asks of a submission; UsageError where one of them is empty.
    """
    given = {"tag": tag, "team": team, "goal": goal, "repository": repository}
    for name, text in given.items():
        if not text.strip():
            raise UsageError(f"the {name} must not be empty")
    value: dict[str, Any] = {
        "tag": tag,
        "actor": {"team": team},
        "platform": {
            "hardware": {"cpu": _cpu(), **_memory()},
            "operating system": {"kernel": f"{platform.system()} {platform.release()}"},
            "software": {"libraries": {"python": _libraries()}},
        },
        "research goal": {"description": goal},
        "implementation": {"source": {"repository": repository}},
        "method": {"retrieval": [{"name": tag}]},
    }
    if collection is not None:
        value["data"] = {"test collection": {"name": collection}}
    return value


def _cpu() -> dict[str, Any]:
    return {
        "architecture": platform.machine(),
        "operation mode": "64-bit" if sys.maxsize > 2**32 else "32-bit",
        "number of cores": os.cpu_count(),
    }


def _memory() -> dict[str, str]:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return {}
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"ram": f"{size / 2**30:.0f} GB"}


def _libraries() -> list[str]:
    """Return ranklens and what it computes with, as far as it is installed, with versions."""
    found = []
    for requirement in ["ranklens", *(metadata.requires("ranklens") or ())]:
        name = re.split(r"[^A-Za-z0-9._-]", requirement)[0]
        if re.search(r"extra == ['\"]dev['\"]", requirement):
            continue
        try:
            found.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return [f"python=={platform.python_version()}", *sorted(set(found))]
