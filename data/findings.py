"""Problems of a data set, collected instead of raised."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import Report

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem of one part of a collection: how often it occurs, and the first examples.

    An error keeps ranklens from using what it names, a warning does not.
    """

    level: Level
    part: str
    problem: str
    count: int
    examples: tuple[str, ...]


class Findings:
    """Collects problems, with the first ``examples`` of each."""

    def __init__(self, examples: int = 3) -> None:
        self._examples = examples
        self._counts: Counter[tuple[Level, str, str]] = Counter()
        self._shown: dict[tuple[Level, str, str], list[str]] = {}

    def add(self, level: Level, part: str, problem: str, example: str) -> None:
        """Note one case of a problem."""
        key = level, part, problem
        self._counts[key] += 1
        shown = self._shown.setdefault(key, [])
        if len(shown) < self._examples:
            shown.append(example)

    def reporter(self, part: str) -> Report:
        """Return what a reader of ``part`` reports its errors to."""

        def report(error: InvalidInputError) -> None:
            self.add("error", part, "cannot be read", str(error))

        return report

    def all(self) -> tuple[Finding, ...]:
        """Return the findings, errors first, otherwise in the order they were met."""
        found = [
            Finding(*key, count, tuple(self._shown[key])) for key, count in self._counts.items()
        ]
        return tuple(sorted(found, key=lambda finding: finding.level != "error"))
