"""What a judge said of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a passage to be judged."""

    query_id: str
    doc_id: str
    query: str
    passage: str


@dataclass(frozen=True, slots=True)
class Call:
    """The answer to one call.

    ``grade`` is None for an answer that is none of the labels (UNPARSED), which ``answer`` then
    shows. A local model has no answer but ``probabilities`` of the grades, lowest first, among the
    labels, and ``mass``, how much of the next token's probability the labels have in all.
    """

    name: str
    grade: int | None
    answer: str | None = None
    probabilities: tuple[float, ...] = ()
    mass: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The calls of one pair, with the tokens they took and those left out of the passage."""

    calls: tuple[Call, ...]
    tokens_in: int
    tokens_out: int
    tokens_cut: int = 0

    @property
    def grade(self) -> int | None:
        """The pair's label: the calls' mean, ``rounded``; None if one of them is UNPARSED."""
        grades = [call.grade for call in self.calls]
        known = [grade for grade in grades if grade is not None]
        return rounded(known) if len(known) == len(grades) else None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pair could not be judged: it has no verdict, and can be asked again.

    With the tokens of those of its calls that were answered.
    """

    reason: str
    tokens_in: int = 0
    tokens_out: int = 0


def rounded(grades: Sequence[int]) -> int:
    """Return the mean as the nearest integer; a half goes to the lower grade."""
    mean = Fraction(sum(grades), len(grades))
    below = mean.numerator // mean.denominator
    return below + (mean - below > Fraction(1, 2))
