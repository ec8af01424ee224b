"""Whether scores depend on what should not matter: slot in the prompt, order, length.

Documents are ranked in shuffled prompt orders; z is a document's score within its ranking,
(s − mean) / standard deviation. With as many shuffles as one likes, each document stands in
many slots, so what z loses or gains with the slot is the slot's doing, not the document's.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document, Query
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import checked_request
from ranklens.rerank.profile import Profile
from ranklens.rerank.prompt import orders
from ranklens.rerank.scores import document_scores


@dataclass(frozen=True, slots=True)
class Reading:
    """One query's scores under several prompt orders.

    ``lengths``: tokens of each document as the model saw it, marker included. ``own``: scores
    in the profile's order, ``uncalibrated`` the same without the content-free query (None for
    profiles that have none). ``shuffled``: (order, scores) pairs; ``order`` holds the documents'
    positions slot by slot, scores are in the documents' order.
    """

    query_id: str
    lengths: tuple[int, ...]
    own: tuple[float, ...]
    uncalibrated: tuple[float, ...] | None
    shuffled: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over queries with its standard error; None where there is nothing to average."""

    mean: float | None
    error: float | None
    queries: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Estimate:
        """Average what is not None."""
        known = [value for value in values if value is not None]
        if not known:
            return cls(None, None, 0)
        error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
        return cls(statistics.fmean(known), error, len(known))


@dataclass(frozen=True, slots=True)
class BiasReport:
    """The report over all queries.

    ``slot_z``: mean z of whatever stands in each slot, first slot first; 0 without bias.
    ``slot``: Spearman correlation of z with the slot; above 0, later slots score higher.
    ``tau``: Kendall's tau-b between two orders' rankings; 1 when the order does not matter.
    ``top_stays``: how often two orders agree on the best document.
    ``wobble``: standard deviation of a document's z over orders; 0 when it does not matter.
    ``length``: Spearman correlation of score and length in tokens.
    """

    slot_z: tuple[Estimate, ...]
    slot: Estimate
    tau: Estimate
    top_stays: Estimate
    wobble: Estimate
    length: Estimate


def read_orders(
    reranker: AttentionReranker,
    query: Query,
    documents: Sequence[Document],
    *,
    permutations: int = 4,
    seed: int = 0,
    request: int = 0,
) -> Reading:
    """Rank documents in the profile's own order and in that many shuffles.

    Shuffles differ from query to query and are drawn by seed and query id; ``request`` is as in
    ``AttentionReranker.rank``. Raises
    InvalidInputError for fewer than two permutations: nothing could be compared.
    """
    if permutations < 2:
        raise InvalidInputError(f"permutations must be at least 2, got {permutations}")
    text, records = checked_request(query, documents)
    source = random.Random(f"{seed} {query.id}")
    given = range(len(records))
    own = orders(reranker.profile.prompt.order, len(records), request)
    plain = _uncalibrated(reranker.profile)
    scores, bare = [], []
    for order in own:
        layout = reranker.layout(text, records, order=order)
        signal = reranker.read(layout)
        scores.append(document_scores(signal, layout, reranker.profile)[0])
        if plain is not None:
            bare.append(document_scores(signal, layout, plain)[0])
    shuffled = []
    for _ in range(permutations):
        order = source.sample(given, len(records))
        shuffle = reranker.layout(text, records, order=order)
        found = document_scores(reranker.read(shuffle), shuffle, reranker.profile)[0]
        shuffled.append((tuple(order), tuple(found)))
    return Reading(
        query.id,
        tuple(end - start for start, end in layout.spans),
        tuple(map(statistics.fmean, zip(*scores, strict=True))),
        tuple(map(statistics.fmean, zip(*bare, strict=True))) if bare else None,
        tuple(shuffled),
    )


def bias_report(readings: Sequence[Reading]) -> BiasReport:
    """Average the readings of several queries, each query counting alike."""
    if not readings:
        raise InvalidInputError("there is no query to report on")
    slots = max(len(reading.own) for reading in readings)
    per_slot: list[list[float | None]] = [[] for _ in range(slots)]
    correlation, taus, stays, wobbles = [], [], [], []
    for reading in readings:
        scaled = [(order, _z(scores)) for order, scores in reading.shuffled]
        for slot in range(len(reading.own)):
            per_slot[slot].append(statistics.fmean(zs[order[slot]] for order, zs in scaled))
        # One correlation over all orders of a query: each document is its own control.
        places = [slot for order, _ in scaled for slot in range(len(order))]
        in_slots = [zs[index] for order, zs in scaled for index in order]
        correlation.append(spearman(places, in_slots))
        pairs = list(itertools.combinations([scores for _, scores in reading.shuffled], 2))
        taus.append(_mean([kendall_tau(one, two) for one, two in pairs]))
        stays.append(statistics.fmean(_best(one) == _best(two) for one, two in pairs))
        by_document = zip(*(zs for _, zs in scaled), strict=True)
        wobbles.append(statistics.fmean(statistics.pstdev(zs) for zs in by_document))
    return BiasReport(
        slot_z=tuple(Estimate.of(values) for values in per_slot),
        slot=Estimate.of(correlation),
        tau=Estimate.of(taus),
        top_stays=Estimate.of(stays),
        wobble=Estimate.of(wobbles),
        length=Estimate.of([spearman(r.lengths, r.own) for r in readings]),
    )


def short_gold(lengths: Sequence[int], relevant: Sequence[bool], ratio: float = 0.5) -> bool:
    """Return whether a query belongs to CoRe's length-bias test (arXiv 2510.02219).

    Its longest relevant document is at most ``ratio`` as long as its longest irrelevant one,
    and there are both kinds.
    """
    gold = [length for length, is_gold in zip(lengths, relevant, strict=True) if is_gold]
    rest = [length for length, is_gold in zip(lengths, relevant, strict=True) if not is_gold]
    return bool(gold and rest) and max(gold) <= ratio * max(rest)


def gold_above_longest(
    scores: Sequence[float], lengths: Sequence[int], relevant: Sequence[bool]
) -> float:
    """Return GAL: the share of relevant documents that score above the longest irrelevant one.

    Of several longest ones the highest counts; an equal score is not above.
    """
    rows = list(zip(scores, lengths, relevant, strict=True))
    longest = max(length for _, length, is_gold in rows if not is_gold)
    bar = max(score for score, length, is_gold in rows if not is_gold and length == longest)
    return statistics.fmean(score > bar for score, _, is_gold in rows if is_gold)


def kendall_tau(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Return Kendall's tau-b; None where either side has no two values that differ."""
    agreement = ties_one = ties_two = 0
    pairs = list(itertools.combinations(range(len(one)), 2))
    for i, j in pairs:
        a, b = _sign(one[i] - one[j]), _sign(two[i] - two[j])
        agreement += a * b
        ties_one += a == 0
        ties_two += b == 0
    scale = math.sqrt((len(pairs) - ties_one) * (len(pairs) - ties_two))
    return agreement / scale if scale else None


def spearman(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Return Spearman's correlation, ties with average ranks; None where a side is constant."""
    a, b = _ranks(one), _ranks(two)
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return max(-1.0, min(1.0, statistics.correlation(a, b)))


def _uncalibrated(profile: Profile) -> Profile | None:
    """Return the profile without its content-free queries, None for one that has none."""
    if not profile.calibration.nulls:
        return None
    plain = dataclasses.replace(
        profile.calibration, nulls=(), compare="difference", temperature=None
    )
    return dataclasses.replace(profile, calibration=plain)


def _z(scores: Sequence[float]) -> list[float]:
    mean, spread = statistics.fmean(scores), statistics.pstdev(scores)
    return [(score - mean) / spread if spread else 0.0 for score in scores]


def _ranks(values: Sequence[float]) -> list[float]:
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for place, value in enumerate(sorted(values)):
        first.setdefault(value, place)
        count[value] = count.get(value, 0) + 1
    return [first[value] + (count[value] - 1) / 2 for value in values]


def _best(scores: Sequence[float]) -> int:
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def _mean(values: Sequence[float | None]) -> float | None:
    return Estimate.of(values).mean


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
