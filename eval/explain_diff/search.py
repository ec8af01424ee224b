"""The search: every rule alone, then two together, and how near each comes to the other figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import combinations

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.files import shown
from ranklens.eval.explain_diff.rules import Rule, rules_for
from ranklens.eval.explain_diff.setting import Figures, Outcome, Part, Setting

_FEWEST_DIGITS = 2
# Of a figure that was written with so many digits, and of sums in floating point.
_SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class Target:
    """The other figure, as it was written, its value, and how far off a match may be."""

    text: str
    value: float
    tolerance: float

    @classmethod
    def parse(cls, text: str, tolerance: float | None = None) -> Target:
        """Return a target of a written figure: 0.4974, or 49.74 in percent.

        Without a tolerance, what rounds to the same digits matches. Raises UsageError for what
        is no figure of a measure, or has too few digits to say anything.
        """
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise UsageError(f"the value {shown(text)} is not a number") from None
        if not number.is_finite() or not 0 <= number <= 100:
            raise UsageError(f"the value {text} is neither between 0 and 1 nor a percentage")
        # A written figure's exponent is an int once it is finite.
        exponent = int(number.as_tuple().exponent)
        if number > 1:
            number, exponent = number / 100, exponent - 2
        if tolerance is None:
            if -exponent < _FEWEST_DIGITS:
                raise UsageError(
                    f"the value {text} has too few digits to compare with; give --tolerance too"
                )
            tolerance = 0.5 * 10.0**exponent
        elif not 0 < tolerance < 1:
            raise UsageError(f"the tolerance must lie between 0 and 1, got {tolerance}")
        return cls(text, float(number), tolerance)

    def gap(self, value: float) -> float:
        """Return how much a value lies above the figure."""
        return value - self.value

    def matches(self, value: float) -> bool:
        """Whether a value is within the tolerance."""
        return abs(self.gap(value)) <= self.tolerance + _SLACK


@dataclass(frozen=True, slots=True)
class Attempt:
    """The figure under one rule, or under two."""

    rules: tuple[Rule, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for one target.

    ``explains``: attempts that match, those of two rules only where no single rule does.
    ``nearer``: attempts that do not match and come nearer than the default by more than the
    tolerance, nearest first. Both prefer fewer rules where all else is equal.
    """

    target: Target
    explains: tuple[Attempt, ...]
    nearer: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The default's figure (None, and why, where it has none), and what rules make of it.

    ``without_effect`` are rules that change no query's value here, ``impossible`` those under
    which nothing can be computed.
    """

    value: float | None
    problem: str
    effects: tuple[Attempt, ...]
    without_effect: tuple[Rule, ...]
    impossible: tuple[Rule, ...]
    verdicts: tuple[Verdict, ...]


Track = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def _silently(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda _: None)


def diagnose(
    parts: Sequence[Part], measure: str, targets: Sequence[Target], track: Track = _silently
) -> Diagnosis:
    """Return which rules explain the targets.

    Pairs are tried among the rules that change something alone. ``track`` takes what is begun
    and how many figures it computes, and gives a context whose value takes how many more are
    done. Raises UsageError for a measure
    that ``evaluate`` does not know; InvalidInputError where no rule makes the files fit.
    """
    figures = Figures(parts, measure)
    base, problem = _tried(figures, Setting())
    singles: list[Attempt] = []
    idle, impossible = [], []
    rules = rules_for(parts, measure)
    with track("single rules", len(rules)) as advance:
        for rule in rules:
            found, _ = _tried(figures, rule.applied(Setting()))
            if found is None:
                impossible.append(rule)
            elif _same(found, base):
                idle.append(rule)
            else:
                singles.append(Attempt((rule,), found.value))
            advance(1)
    if base is None and not singles:
        raise InvalidInputError(problem)
    value = None if base is None else base.value
    unexplained = [
        target
        for target in targets
        if not (value is not None and target.matches(value))
        and not any(target.matches(one.value) for one in singles)
    ]
    pairs = _pairs(figures, singles, track) if unexplained else []
    verdicts = tuple(_verdict(target, value, singles, pairs) for target in targets)
    return Diagnosis(value, problem, tuple(singles), tuple(idle), tuple(impossible), verdicts)


def _tried(figures: Figures, setting: Setting) -> tuple[Outcome | None, str]:
    try:
        return figures.outcome(setting), ""
    except InvalidInputError as error:
        return None, str(error)


def _same(one: Outcome, base: Outcome | None) -> bool:
    if base is None or len(one.per_query) != len(base.per_query):
        return False
    pairs = zip((one.value, *one.per_query), (base.value, *base.per_query), strict=True)
    return all(math.isclose(a, b, rel_tol=0, abs_tol=1e-12) for a, b in pairs)


def _pairs(figures: Figures, singles: Sequence[Attempt], track: Track) -> list[Attempt]:
    found = []
    pairs = [
        (one, other)
        for (one,), (other,) in combinations((attempt.rules for attempt in singles), 2)
        if not one.excludes(other)
    ]
    with track("two rules at once", len(pairs)) as advance:
        for one, other in pairs:
            both, _ = _tried(figures, other.applied(one.applied(Setting())))
            if both is not None:
                found.append(Attempt((one, other), both.value))
            advance(1)
    return found


def _verdict(
    target: Target, value: float | None, singles: Sequence[Attempt], pairs: Sequence[Attempt]
) -> Verdict:
    def order(attempt: Attempt) -> tuple[int, float]:
        return len(attempt.rules), abs(target.gap(attempt.value))

    if value is not None and target.matches(value):
        return Verdict(target, (), ())
    matching = [one for one in singles if target.matches(one.value)]
    matching = matching or [one for one in pairs if target.matches(one.value)]
    reach = math.inf if value is None else abs(target.gap(value))
    nearer = [
        one
        for one in (*singles, *pairs)
        if not target.matches(one.value) and abs(target.gap(one.value)) < reach - target.tolerance
    ]
    nearer.sort(key=lambda one: (abs(target.gap(one.value)), len(one.rules)))
    return Verdict(target, tuple(sorted(matching, key=order)), tuple(nearer))
