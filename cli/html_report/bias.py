"""Whether scores depend on the place in the list and on the length of documents."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ranklens.cli.html_report.content import Bias
from ranklens.cli.html_report.sources import Source
from ranklens.data.records import Document
from ranklens.eval.udcg.correlation import spearman

if TYPE_CHECKING:
    from ranklens.rerank.bias import Reading

_POINTS = 2000
"""More points than these cannot be told apart in a plot."""


def bias_of_run(
    source: Source, queries: Sequence[str], texts: Mapping[str, Document]
) -> Bias | None:
    """Return what a reranked run itself shows: z by rank of the first stage, and by words.

    z is (score − mean) / standard deviation within a query's reranked documents. None where no
    query has two of them with different scores.
    """
    if source.candidates is None or source.depth is None:
        return None
    by_slot: dict[int, list[float]] = {}
    points: list[tuple[int, float]] = []
    slot_rhos: list[float | None] = []
    length_rhos: list[float | None] = []
    for query_id in queries:
        scores = {doc.doc_id: doc.score for doc in source.run.get(query_id, ())}
        ranked = [
            (slot, doc.doc_id, scores[doc.doc_id])
            for slot, doc in enumerate(source.candidates.get(query_id, ())[: source.depth], 1)
            if doc.doc_id in scores
        ]
        spread = statistics.pstdev(score for *_, score in ranked) if ranked else 0.0
        if not spread:
            continue
        mean = statistics.fmean(score for *_, score in ranked)
        zs = [(score - mean) / spread for *_, score in ranked]
        for (slot, *_), z in zip(ranked, zs, strict=True):
            by_slot.setdefault(slot, []).append(z)
        slot_rhos.append(spearman([slot for slot, *_ in ranked], zs))
        known = [
            (len(texts[doc_id].full_text.split()), z)
            for (_, doc_id, _), z in zip(ranked, zs, strict=True)
            if doc_id in texts
        ]
        points += known
        if known:
            length_rhos.append(spearman([words for words, _ in known], [z for _, z in known]))
    if not by_slot:
        return None
    return Bias(
        run=source.name,
        slot=tuple((slot, *_mean_and_error(zs)) for slot, zs in sorted(by_slot.items())),
        length=_thinned(points),
        length_unit="words",
        slot_rho=_mean(slot_rhos),
        length_rho=_mean(length_rhos),
        orders=0,
        what=(
            f"Scores of {source.name} as they are. The slot is the rank in the first stage, "
            "which puts relevant documents first: a slope here may be relevance, not bias. "
            "--orders N measures shuffled orders, which tell the two apart. Length may go with "
            f"relevance too. {_said(points)}"
        ),
    )


def bias_of_orders(name: str, readings: Sequence[Reading], permutations: int) -> Bias:
    """Return what shuffled orders of the same lists show: z by slot in the prompt, and by tokens.

    Each document stands in several slots, so the slope over slots is the slot's doing.
    """
    from ranklens.rerank.bias import bias_report

    report = bias_report(readings)
    points = []
    for reading in readings:
        spread = statistics.pstdev(reading.own)
        if spread:
            mean = statistics.fmean(reading.own)
            zs = [(score - mean) / spread for score in reading.own]
            points += list(zip(reading.lengths, zs, strict=True))
    return Bias(
        run=name,
        slot=tuple(
            (slot, estimate.mean, estimate.error)
            for slot, estimate in enumerate(report.slot_z, 1)
            if estimate.mean is not None
        ),
        length=_thinned(points),
        length_unit="tokens",
        slot_rho=report.slot.mean,
        length_rho=report.length.mean,
        orders=permutations,
        what=(
            f"{len(readings)} queries read in {permutations} shuffled orders each: every document "
            "stands in several slots, so a slope over slots is bias, not relevance. Lengths are "
            "not shuffled: long documents may score higher because they are more often relevant. "
            f"{_said(points)}"
        ),
    )


def _mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return statistics.fmean(values), error


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return at most ``_POINTS`` points, evenly over the queries."""
    return tuple(points[place] for place in _places(len(points)))


def _said(points: Sequence[object]) -> str:
    shown = len(_places(len(points)))
    whole = (
        f"All {shown} documents are shown"
        if shown == len(points)
        else (f"{shown} of {len(points)} documents are shown")
    )
    return f"{whole} in the plot of lengths; correlations (Spearman) are means over queries."


def _places(count: int) -> range:
    return range(0, count, max(1, -(-count // _POINTS)))
