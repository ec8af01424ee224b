"""Prompts as token pieces: what is shared, what branches, and where each document lies.

    {prefix} Here are some paragraphs:{sep}[1] {doc}{sep}…[N] {doc}{sep}     shared
    {instruction}{sep}Query: {query}{suffix}                                 a tail, one per query

Pieces are tokenised apart, so a document's tokens do not depend on its neighbours. Their bytes
are the published prompt's; tokens can differ from the whole string's at a piece's end, where a
tokenizer merges a full stop with a line break (Qwen's does, Llama's and SmolLM2's do not).

Only documents are ever shortened: first to the profile's number of words, then, when the
model's context asks for it, all to one token budget. What was cut is counted per document.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document
from ranklens.rerank.frames import Frame
from ranklens.rerank.pieces import PieceTokenizer
from ranklens.rerank.profile import PromptChoice

MIN_DOCUMENT_TOKENS = 16
"""A context that leaves its longest documents less than this is refused: such a ranking would
be of first lines."""


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """Token ids of one ranking call, and the place of every document.

    ``shared``: ids of prefix and documents. ``tails``: one list of ids per branch; each branch
    follows the shared part directly and does not see the others. ``spans``: for each document,
    in the order given by the caller, the half-open range of its tokens in ``shared``, marker
    included. ``tokens_cut``: for each document the tokens left out.
    """

    shared: list[int]
    tails: tuple[list[int], ...]
    spans: tuple[tuple[int, int], ...]
    tokens_cut: tuple[int, ...]

    @property
    def length(self) -> int:
        """The longest branch in tokens: what has to fit the model's context."""
        return len(self.shared) + max(map(len, self.tails))


class PromptBuilder:
    """Builds layouts for one tokenizer, chat frame and profile."""

    def __init__(self, pieces: PieceTokenizer, frame: Frame, choice: PromptChoice) -> None:
        self._pieces = pieces
        self._frame = frame
        self._choice = choice
        marker = _marker(choice, 1)
        opening = pieces.trusted(
            frame.prefix + choice.introduction + frame.separator, marker, first=True
        )
        # A frame taken from a chat template may bring the beginning-of-sequence token itself.
        bos = [] if opening[: len(pieces.bos)] == list(pieces.bos) else list(pieces.bos)
        self._opening = bos + opening
        self._separator = pieces.trusted(frame.separator, marker)
        self._last_separator = pieces.trusted(frame.separator, choice.instruction)
        # Marks of a frame that are plain text to the tokenizer, such as Mistral v0.2's [/INST].
        self._marks = [
            line.strip()
            for line in f"{frame.prefix}\n{frame.suffix}".splitlines()
            if len(line.strip()) > 2 and not any(token in line for token in pieces.control_tokens)
        ]

    def build(
        self, queries: Sequence[str], documents: Sequence[Document], context: int
    ) -> PromptLayout:
        """Lay out one tail per query over ``documents`` (best of the first stage first).

        ``context`` is the model's limit in tokens. Raises InvalidInputError for an empty query
        and when the documents cannot be shortened enough to fit.
        """
        tails = tuple(self._tail(query) for query in queries)
        order = list(range(len(documents)))
        if self._choice.order == "best-last":
            order.reverse()
        texts, cut = zip(*(self._document(document) for document in documents), strict=True)
        markers = [
            self._pieces.trusted(_marker(self._choice, number))
            for number in range(1, len(documents) + 1)
        ]
        fixed = (
            len(self._opening)
            + sum(map(len, markers))
            + (len(documents) - 1) * len(self._separator)
            + len(self._last_separator)
            + max(map(len, tails))
        )
        budget = _budget([len(text) for text in texts], context - fixed)
        if budget is None:
            raise InvalidInputError(
                f"{len(documents)} documents do not fit the model's context of {context} tokens: "
                f"query, instruction and frames need {fixed}, which leaves less than "
                f"{MIN_DOCUMENT_TOKENS} tokens a document; rank fewer documents (--depth) "
                "or use a model with a longer context"
            )
        shared = list(self._opening)
        spans = [(0, 0)] * len(documents)
        for marker, index in zip(markers, order, strict=True):
            start = len(shared)
            shared += marker
            shared += texts[index][:budget]
            spans[index] = (start, len(shared))
            shared += self._separator if index != order[-1] else self._last_separator
        return PromptLayout(
            shared=shared,
            tails=tails,
            spans=tuple(spans),
            tokens_cut=tuple(
                words + max(0, len(text) - budget) for text, words in zip(texts, cut, strict=True)
            ),
        )

    def _tail(self, query: str) -> list[int]:
        query = query.strip()
        if not query:
            raise InvalidInputError("the query is empty: there is nothing to rank by")
        opening = self._choice.instruction + self._frame.separator + self._choice.query_label
        return (
            self._pieces.trusted(opening)
            + self._text(query)
            + self._pieces.trusted(self._frame.suffix)
        )

    def _document(self, document: Document) -> tuple[list[int], int]:
        """Return a document's ids after the word limit, and the number of tokens it cost."""
        words = document.text.split(" ")
        kept, rest = words, words[:0]
        if self._choice.document_words is not None:
            kept, rest = words[: self._choice.document_words], words[self._choice.document_words :]
        text = " ".join(kept)
        if document.title:
            text = document.title + self._choice.title_separator + text
        return self._text(text.strip()), len(self._text(" ".join(rest))) if rest else 0

    def _text(self, text: str) -> list[int]:
        """Return the ids of somebody's text after a blank, marks of the frame broken up."""
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return self._pieces.text(" " + text)


def _marker(choice: PromptChoice, number: int) -> str:
    return choice.marker.replace("{number}", str(number))


def _budget(lengths: Sequence[int], room: int) -> int | None:
    """Return the largest b with Σ min(length, b) ≤ room; None where only a tiny b would do."""
    if sum(lengths) <= room:
        return max(lengths)
    # Fill from the shortest: every document either fits whole or takes an equal share.
    left = room
    for position, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - position)
        if length > share:
            return share if share >= MIN_DOCUMENT_TOKENS else None
        left -= length
    raise AssertionError("unreachable: the documents did not fit, so one exceeds its share")
