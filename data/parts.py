"""Documents read as passages: each is scored by itself, and the document gets what they add up to.

Shared by retrieval, which measures passages in words, and by reranking, which does in tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ranklens.data.errors import UsageError
from ranklens.data.passages import check_window, count_words, split_passages
from ranklens.data.records import Document

Combine = Literal["max", "sum", "first"]
COMBINE: tuple[Combine, ...] = get_args(Combine)


@dataclass(frozen=True, slots=True)
class Passages:
    """How documents of more than ``size`` are split, at sentence ends, and put together.

    Sizes are words in retrieval, the model's tokens in reranking. Passages share up to
    ``overlap`` with the one before; each bears the title. With ``max`` a document is as good as
    its best passage; ``first`` reads the first passage alone. ``sum`` adds all up: what lies in
    an overlap counts twice, and longer documents gain, or lose where scores are negative.
    """

    size: int = 256
    overlap: int = 64
    combine: Combine = "max"

    def __post_init__(self) -> None:
        check_window(self.size, self.overlap)
        if self.combine not in COMBINE:
            raise UsageError(
                f"Passages.combine must be 'max', 'sum' or 'first', got {self.combine!r}"
            )


@dataclass(frozen=True, slots=True)
class Parts:
    """Passages, and which document each is of, by position; ``unread`` is each document's rest.

    The rest is what ``first`` leaves out, in the unit of the sizes; empty where nothing is.
    """

    passages: Sequence[Document]
    owners: Sequence[int]
    unread: Sequence[int] = ()


def passages_of(
    document: Document, choice: Passages, measure: Callable[[str], int] = count_words
) -> list[Document]:
    """Return the passages of a document, at least one; all have its id and title.

    A document that fits stays as it is, and so does an empty one. ``first`` gives one passage.
    """
    ranges = split_passages(document.text, choice.size, choice.overlap, measure)
    if len(ranges) < 2:
        return [document]
    if choice.combine == "first":
        del ranges[1:]
    return [dataclasses.replace(document, text=document.text[a:b]) for a, b in ranges]


def split(
    documents: Sequence[Document],
    choice: Passages | None,
    measure: Callable[[str], int] = count_words,
) -> Parts:
    """Split documents into passages, sized by ``measure``; None leaves them whole."""
    if choice is None:
        return Parts(documents, range(len(documents)))
    passages: list[Document] = []
    owners: list[int] = []
    unread = []
    for owner, document in enumerate(documents):
        found = passages_of(document, choice, measure)
        passages += found
        owners += [owner] * len(found)
        if choice.combine == "first":
            (only,) = found
            rest = "" if only is document else document.text.lstrip()[len(only.text) :]
            unread.append(measure(rest))
    return Parts(passages, owners, unread)


def combined(scores: Sequence[float], how: Combine) -> float:
    """Return the score of a document from those of its passages, in their order."""
    if how == "first":
        return float(scores[0])
    return float(max(scores)) if how == "max" else math.fsum(scores)


def combine(scores: Sequence[float], parts: Parts, how: Combine) -> list[float]:
    """Return one score per document from one per passage."""
    by_owner: dict[int, list[float]] = {}
    for owner, score in zip(parts.owners, scores, strict=True):
        by_owner.setdefault(owner, []).append(score)
    return [combined(values, how) for values in by_owner.values()]
