"""Documents read as passages: each passage stands in the prompt, the document gets max or sum."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ranklens.data.errors import UsageError
from ranklens.data.passages import check_window, split_passages
from ranklens.data.records import Document
from ranklens.rerank.profile import Profile


@dataclass(frozen=True, slots=True)
class Passages:
    """How documents of more than ``tokens`` tokens are split, at sentence ends, and put together.

    Passages share up to ``overlap`` tokens with the one before; each bears the title. With
    ``max`` a document is as good as its best passage. ``sum`` adds all up: what lies in an
    overlap counts twice, and longer documents gain, or lose where scores are negative. The
    profile's own limits of a document's words or tokens have no part then; one of whole blocks
    stays, and what it cuts is counted.
    """

    tokens: int = 256
    overlap: int = 64
    combine: Literal["max", "sum"] = "max"

    def __post_init__(self) -> None:
        check_window(self.tokens, self.overlap)
        if self.combine not in ("max", "sum"):
            raise UsageError(f"Passages.combine must be 'max' or 'sum', got {self.combine!r}")


@dataclass(frozen=True, slots=True)
class Parts:
    """What stands in the prompt: passages, and which document each is of, by position."""

    passages: Sequence[Document]
    owners: Sequence[int]


def unlimited(profile: Profile) -> Profile:
    """Return a profile without limits of its own: passages are as long as they were made."""
    prompt = dataclasses.replace(profile.prompt, document_words=None, document_tokens=None)
    return dataclasses.replace(profile, prompt=prompt)


def split(
    documents: Sequence[Document], choice: Passages | None, measure: Callable[[str], int]
) -> Parts:
    """Split documents by ``measure``, a count of tokens; None leaves them whole."""
    if choice is None:
        return Parts(documents, range(len(documents)))
    passages, owners = [], []
    for owner, document in enumerate(documents):
        ranges = split_passages(document.text, choice.tokens, choice.overlap, measure)
        # A document that fits stays as it is, and an empty one keeps its place.
        whole = len(ranges) < 2
        texts = [document.text] if whole else [document.text[a:b] for a, b in ranges]
        passages += [dataclasses.replace(document, text=text) for text in texts]
        owners += [owner] * len(texts)
    return Parts(passages, owners)


def combine(scores: Sequence[float], parts: Parts, how: Literal["max", "sum"]) -> list[float]:
    """Return one score per document from one per passage."""
    by_owner: dict[int, list[float]] = {}
    for owner, score in zip(parts.owners, scores, strict=True):
        by_owner.setdefault(owner, []).append(score)
    whole = max if how == "max" else sum
    return [float(whole(values)) for values in by_owner.values()]
