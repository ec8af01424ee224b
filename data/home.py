"""Where ranklens keeps what it downloads and makes."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Return the folder of models and caches, which need not exist yet.

    It is `$RANKLENS_HOME` where that is set, else `ranklens` in the user's cache folder
    (`$XDG_CACHE_HOME`, or `~/.cache`).
    """
    chosen = os.environ.get("RANKLENS_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "ranklens"
