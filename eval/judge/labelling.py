"""Pairs through a judge into a store, and what came out of it."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ranklens.data.errors import PartialError
from ranklens.eval.judge.pairs import Ids
from ranklens.eval.judge.store import VerdictStore
from ranklens.eval.judge.verdict import Failure, Pair, Verdict


class Judge(Protocol):
    """Whoever grades pairs."""

    def judge(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Verdict | Failure]]:
        """Yield every pair, in any order, with what came of it."""
        ...


@dataclass(frozen=True, slots=True)
class Labelling:
    """The labels of the pairs, in their order, and how they came about.

    ``unparsed``: pairs whose answer was no label; ``failures``: pairs without an answer, by
    reason. ``resumed``: pairs that the store held already; ``cut``: pairs whose passage was
    shortened. ``tokens_in`` and ``tokens_out`` are of all pairs, those held and those that failed
    now included; ``uncounted``: pairs whose endpoint did not say. ``mass``: the median share of
    the next token's probability that the labels had; None for an endpoint.
    """

    labels: Mapping[Ids, int]
    unparsed: int
    failures: Mapping[str, int]
    resumed: int
    cut: int
    tokens_in: int
    tokens_out: int
    uncounted: int
    mass: float | None

    @property
    def histogram(self) -> dict[int, int]:
        """How many pairs got each label."""
        return dict(sorted(Counter(self.labels.values()).items()))


def label_pairs(
    judge: Judge, pairs: Sequence[Pair], store: VerdictStore, advance: Callable[[int], None]
) -> Labelling:
    """Judge what the store does not hold, and return the labels of all ``pairs``.

    Raises PartialError, which says how much is kept, when the judge gives up or is interrupted.
    """
    open_pairs = [pair for pair in pairs if store.get(pair) is None]
    failures: Counter[str] = Counter()
    lost_in = lost_out = 0
    try:
        for pair, result in judge.judge(open_pairs):
            if isinstance(result, Failure):
                failures[result.reason] += 1
                lost_in += result.tokens_in
                lost_out += result.tokens_out
            else:
                store.add(pair, result)
            advance(1)
    except (PartialError, KeyboardInterrupt) as error:
        kept = sum(store.get(pair) is not None for pair in pairs)
        raise PartialError(
            f"{str(error) or 'interrupted'}; {kept} of {len(pairs)} pairs are judged and kept in "
            f"{store.path}: the same command goes on from there"
        ) from None
    found = {(pair.query_id, pair.doc_id): store.get(pair) for pair in pairs}
    verdicts = {ids: verdict for ids, verdict in found.items() if verdict is not None}
    masses = [call.mass for one in verdicts.values() for call in one.calls if call.mass is not None]
    return Labelling(
        labels={ids: one.grade for ids, one in verdicts.items() if one.grade is not None},
        unparsed=sum(one.grade is None for one in verdicts.values()),
        failures=dict(failures),
        resumed=len(pairs) - len(open_pairs),
        cut=sum(one.tokens_cut > 0 for one in verdicts.values()),
        tokens_in=lost_in + sum(one.tokens_in for one in verdicts.values()),
        tokens_out=lost_out + sum(one.tokens_out for one in verdicts.values()),
        uncounted=sum(one.tokens_in == 0 for one in verdicts.values()),
        mass=statistics.median(masses) if masses else None,
    )
