"""The files that ir_datasets fetches: which one is missing and where it may be put, or no network.

ir_datasets looks for a file of a known MD5 in ``downloads/<md5>`` of its home
(``$IR_DATASETS_HOME``, else ``~/.ir_datasets``) before it fetches it; small files it looks for
only under the name that the dataset gives them.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

_LONGEST = 200


def way_out(error: BaseException) -> str:
    """Say why ir_datasets could not get a file and, where it can be told, what to put where."""
    # Where several sources failed, their errors follow; they were logged as they came.
    why = str(error.args[0] if isinstance(error, RuntimeError) and error.args else error)
    why = why if len(why) <= _LONGEST else f"{why[:_LONGEST]}…"
    download = _failed_download(error)
    if download is None:
        return why
    from ir_datasets.util import LocalDownload

    local = next((m for m in download.mirrors if isinstance(m, LocalDownload)), None)
    url = next((m.url for m in download.mirrors if hasattr(m, "url")), None)
    place = local.path(force=False) if local else download._cache_path
    if url is None:
        # Licensed data: the message says how to come by it.
        return f"{place} is not there. {local._message if local else why}"
    size = f"{download._size_hint:,} bytes, " if download._size_hint else ""
    which = f"{url} ({size}md5 {download.expected_md5})"
    if place is None:
        return f"it needs {which}; fetch it elsewhere and copy that ir_datasets home here ({why})"
    if Path(place).exists():
        return f"{place} is not the file it should be, {which} ({why})"
    return f"it needs {which}; without a network put that file at {place} ({why})"


def _failed_download(error: BaseException) -> Any:
    """Return the ir_datasets Download that an error came through, or None.

    An error does not name it, and a dataset wraps its downloads in any number of unpackers:
    only the stack knows which one failed.
    """
    from ir_datasets.util import Download

    found, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = owner if isinstance(owner, Download) else found
        trace = trace.tb_next
    return found


@contextmanager
def no_fetching() -> Iterator[None]:
    """Let ir_datasets use what is on the disk only; what it would fetch fails, and quietly."""
    if importlib.util.find_spec("ir_datasets") is None:
        yield
        return
    from ir_datasets import lazy_libs

    # Every request of ir_datasets is made by what this function returns.
    kept, level = lazy_libs.requests, logging.root.manager.disable
    lazy_libs.requests = _refuse
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        lazy_libs.requests = kept
        logging.disable(level)


def _refuse() -> NoReturn:
    raise ConnectionError("it is not on this disk")
