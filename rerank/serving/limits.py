"""Texts of a job as far as the model may read them, and what was cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.base import Reranker
from ranklens.rerank.serving.jobs import RankJob
from ranklens.rerank.serving.settings import Settings


@dataclass(frozen=True, slots=True)
class Kept:
    """A part of a text: it begins at code point ``start``; tokens of it and of the rest."""

    text: str
    start: int
    tokens: int
    tokens_cut: int


@dataclass(frozen=True, slots=True)
class Limited:
    """A job's query and documents within their limits."""

    query: Kept
    documents: tuple[Kept, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of the documents."""
        return tuple(kept.text for kept in self.documents)


def limited(reranker: Reranker, job: RankJob, settings: Settings) -> Limited:
    """Shorten a job's documents, and its query where the job asks for that.

    Raises InvalidInputError for a query that is too long: what is looked for is never cut
    unasked.
    """
    if job.max_tokens_per_query is None:
        query = keep(reranker, job.query, None)
        if query.tokens > settings.max_query_tokens:
            raise InvalidInputError(
                f"the query has {query.tokens} tokens; at most {settings.max_query_tokens}, or "
                "ask for it to be cut (max_tokens_per_query)"
            )
    else:
        most = min(job.max_tokens_per_query, settings.max_query_tokens)
        query = keep(reranker, job.query, most, job.cut_from)
        if not query.text.strip():
            raise InvalidInputError(f"nothing is left of the query in {most} tokens")
    most_of_each = job.max_tokens_per_doc or settings.max_tokens_per_doc
    # Lists repeat texts, and a batch's lists each other's; tokenising them is not for free.
    known: dict[str, Kept] = {}
    for text in job.documents:
        if text not in known:
            known[text] = keep(reranker, text, most_of_each, job.cut_from)
    return Limited(query, tuple(known[text] for text in job.documents))


def keep(
    reranker: Reranker, text: str, most: int | None, cut_from: Literal["end", "start"] = "end"
) -> Kept:
    """Return the first or, where the start is cut, the last ``most`` tokens of a text; None: all.

    A tokenizer may count a text's end otherwise when it stands alone; it is cut until it fits.
    """
    first = reranker.shortened(text, most)
    if not first.tokens_cut or cut_from == "end" or most is None:
        return Kept(first.text, 0, first.tokens, first.tokens_cut)
    start, rest, surplus = 0, text, first.tokens_cut
    while surplus > 0 and rest:
        # At least a character: its first token alone is none of it.
        gone = max(1, len(reranker.shortened(rest, surplus).text))
        start, rest = start + gone, rest[gone:]
        surplus = reranker.shortened(rest).tokens - most
    last = reranker.shortened(rest).tokens
    return Kept(rest, start, last, max(1, first.tokens + first.tokens_cut - last))
