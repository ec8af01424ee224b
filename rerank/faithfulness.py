"""Whether an explanation is faithful: erasing what it names should cost more than random text."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document, Query
from ranklens.rerank.alignment import Place
from ranklens.rerank.base import checked_request
from ranklens.rerank.explain import DocumentExplanation, Explainer, field_of


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """What blanking the top spans does to a document's score, and what random spans do.

    ``drop`` is the loss of score; ``random_drops`` are those of as many random spans of as many
    tokens. ``rank_after`` is the document's rank with its top spans blanked.
    """

    spans: int
    tokens: int
    drop: float
    random_drops: tuple[float, ...]
    rank_after: int

    @property
    def random_drop(self) -> float:
        """The mean drop of random spans."""
        return statistics.fmean(self.random_drops)

    @property
    def beats(self) -> float:
        """The share of random draws that cost less than the top spans."""
        return sum(drop < self.drop for drop in self.random_drops) / len(self.random_drops)


def erase(
    explainer: Explainer,
    query: str | Query,
    documents: Sequence[str | Document],
    explained: DocumentExplanation,
    *,
    spans: int = 3,
    draws: int = 10,
    seed: int = 0,
    request: int = 0,
) -> Faithfulness | None:
    """Blank a document's top spans and measure its loss; None for one without spans.

    Each span becomes one blank, the other documents stay. ``draws`` times as many runs of
    as many tokens are blanked at random places, which may overlap the top ones. What the
    model had not seen of the documents is left out first, so that none of it moves into
    view. One ranking for the top spans and for each draw, one more where documents were cut.
    ``request`` is the number that the explanation was made with.
    """
    if spans < 1 or draws < 1:
        raise InvalidInputError(f"spans and draws must be at least 1: {spans} and {draws}")
    text, records = checked_request(query, documents)
    top = explained.spans[:spans]
    if not top:
        return None
    before, shortened = explained.score, explainer.shortened(text, records, request)
    seen = shortened[explained.index]
    if shortened != list(records):
        records = shortened
        before = _with(explainer, text, records, explained.index, seen, request)[0]
    lengths = [end - start for start, end in (span.tokens for span in top)]
    source = random.Random(seed)
    drops = []
    for _ in range(draws):
        runs = _random_runs(lengths, len(explained.tokens), source)
        places = [
            token.place
            for start, end in runs
            for token in explained.tokens[start:end]
            if token.place is not None
        ]
        erased = _blanked(seen, places)
        drops.append(before - _with(explainer, text, records, explained.index, erased, request)[0])
    erased = _blanked(seen, [span.place for span in top])
    after, rank = _with(explainer, text, records, explained.index, erased, request)
    return Faithfulness(len(top), sum(lengths), before - after, tuple(drops), rank)


def _with(
    explainer: Explainer,
    query: str,
    records: Sequence[Document],
    index: int,
    changed: Document,
    request: int,
) -> tuple[float, int]:
    """Return score and rank of a document that was changed."""
    documents = [changed if i == index else record for i, record in enumerate(records)]
    ranking = explainer.reranker.rank(query, documents, request=request)
    rank = next(i for i, ranked in enumerate(ranking) if ranked.index == index)
    return ranking[rank].score, rank + 1


def _random_runs(
    lengths: Sequence[int], tokens: int, source: random.Random
) -> list[tuple[int, int]]:
    """Return non-overlapping runs of these lengths at random places among the tokens."""
    shuffled = source.sample(lengths, len(lengths))
    free = tokens - sum(lengths)
    # Every way to deal the free tokens out before, between and behind the runs is as likely.
    bars = sorted(source.sample(range(free + len(lengths)), len(lengths)))
    runs, used = [], 0
    for position, (bar, length) in enumerate(zip(bars, shuffled, strict=True)):
        start = bar - position + used
        runs.append((start, start + length))
        used += length
    return runs


def _blanked(document: Document, places: Sequence[Place]) -> Document:
    """Return the document with each place, overlapping and touching ones as one, one blank."""
    changed = {}
    for field in ("title", "text"):
        text = field_of(document, field)
        covered = [False] * len(text)
        for place in places:
            if place.field == field:
                covered[place.start : place.end] = [True] * (place.end - place.start)
        pieces = [
            " " if hidden and (i == 0 or not covered[i - 1]) else "" if hidden else text[i]
            for i, hidden in enumerate(covered)
        ]
        changed[field] = "".join(pieces)
    return dataclasses.replace(document, **changed)
