"""Build the corpus of pydocs from the docstrings of the Python that is running.

One document for each public module, class, function, method and property of the standard
library that has a docstring of its own:

    id      the qualified public name: os.path.join, itertools.chain, str.removeprefix;
            builtins go without a prefix: sorted
    title   the name and, where Python knows it, the signature: os.path.join(a, *p)
    text    the docstring, one line a paragraph, cut at a paragraph to at most 120 words

An object with several public names is one document, under the name that its reader would
type (asyncio.run, not asyncio.runners.run). Programs, demos, GUI modules and what has no
docstring are left out. The corpus depends on the Python version, and a little on the
platform and on how Python was built; nothing else changes a byte of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ranklens.data.errors import RanklensError

TIMEOUT_S = 120
_INTROSPECT = Path(__file__).with_name("_introspect.py")


def introspect() -> bytes:
    """The documents as JSON Lines, sorted by id, from a separate Python process.

    Importing the whole standard library has side effects, so the caller's process does
    not. -I and -S also keep the caller's environment and site-packages out of the corpus.
    """
    if not sys.executable:
        raise RanklensError("pydocs cannot be built: this program does not know its own Python")
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-W", "ignore", str(_INTROSPECT)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = f"pydocs cannot be built: {sys.executable} took more than {TIMEOUT_S} s"
        raise RanklensError(message) from error
    except OSError as error:
        message = f"pydocs cannot be built: {sys.executable} does not start: {error}"
        raise RanklensError(message) from error
    if done.returncode or not done.stdout:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()[-5:]
        reason = "\n".join(lines) or "no output"
        raise RanklensError(
            f"pydocs cannot be built: {sys.executable} ended with {done.returncode}:\n{reason}"
        )
    return done.stdout


def build(path: Path) -> int:
    """Write the corpus to a JSON Lines file, whole or not at all; return how many documents."""
    documents = introspect()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two processes that build at once do not share a file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(documents)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return documents.count(b"\n")
