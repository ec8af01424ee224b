"""What the tests of kept documents look at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path


def entries(folder: str | Path = "kept") -> list[Path]:
    """Return the files of a folder's entries."""
    return sorted(Path(folder).glob("*/??/*.safetensors"))


def origins(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """Return where a rerank's documents came from."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["documents"]
    assert isinstance(found, dict)
    return found
