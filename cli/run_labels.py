"""Short names for runs, told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ranklens.data.errors import UsageError

_SUFFIXES = (".gz", ".run", ".txt", ".trec", ".res")


def run_labels(paths: Sequence[Path]) -> list[str]:
    """Return a label for each run file: its name, with as much of its path as tells it apart.

    Raises UsageError for a file that is given twice.
    """
    files = [path.expanduser().resolve() for path in paths]
    for path, file in zip(paths, files, strict=True):
        if files.count(file) > 1:
            raise UsageError(f"the run {path} is given twice")
    # 0: the name without suffixes; 1: the name; 2 and more: so many last parts of the path.
    levels = [0] * len(files)
    while True:
        labels = [_label(file, level) for file, level in zip(files, levels, strict=True)]
        counts = Counter(labels)
        if len(counts) == len(labels):
            return labels
        levels = [level + (counts[label] > 1) for level, label in zip(levels, labels, strict=True)]


def _label(file: Path, level: int) -> str:
    if level:
        return "/".join(file.parts[-level:])
    name = file.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix) or name
    return name
