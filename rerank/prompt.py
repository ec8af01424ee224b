"""Prompts as token pieces: what is shared, what branches, and where each document lies.

    {prefix} Here are some paragraphs:{sep}[1] {doc}{sep}…[N] {doc}{sep}     shared
    {instruction}{sep}Query: {query}{suffix}          a tail, one per query and content-free query

Pieces are tokenised apart, so a document's tokens do not depend on its neighbours. Their bytes
are the published prompt's; tokens can differ from the whole string's at a piece's end, where a
tokenizer merges a full stop with a line break (Qwen's does, Llama's and SmolLM2's do not).

Only documents are ever shortened: first to the profile's number of words, then, when the
model's context asks for it, all to one token budget. What was cut is counted per document.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.files import shown
from ranklens.data.records import Document
from ranklens.rerank.alignment import Place, Traced
from ranklens.rerank.frames import Frame
from ranklens.rerank.packing import Piece, pack
from ranklens.rerank.pieces import PieceTokenizer, plain_marks, without_marks
from ranklens.rerank.profile import OrderChoice, Profile, PromptChoice

MIN_DOCUMENT_TOKENS = 16
"""A context that leaves its longest documents less than this is refused: such a ranking would
be of first lines."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the shared part in one branch.

    Token ids, and the half-open range of those whose attention is read.
    """

    ids: list[int]
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """Token ids of one ranking call, and the place of every document.

    ``shared``: ids of prefix and documents. ``tails``: one per branch; each follows the shared
    part directly and does not see the others: first the ``queries`` real ones, then the
    content-free ones with the instruction, then those without. ``spans``: for each document, in
    the order given by the caller, the half-open range of its tokens in ``shared``.
    ``tokens_cut``: for each document the tokens left out. ``blocks``: ranges that cover
    ``shared`` behind the prefix and see the prefix and themselves only; none where it is
    causal. ``positions``: of the shared tokens as they are computed, where these do not simply
    count; ``places``: where tails see them, if not there; ``tail_start``: the position of the
    first token of every tail then.
    """

    shared: list[int]
    tails: tuple[Tail, ...]
    queries: int
    spans: tuple[tuple[int, int], ...]
    tokens_cut: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    positions: tuple[int, ...] | None = None
    places: tuple[int, ...] | None = None
    tail_start: int | None = None

    @property
    def length(self) -> int:
        """The positions of the longest branch: what has to fit the model's context."""
        start = len(self.shared) if self.tail_start is None else self.tail_start
        return start + max((len(tail.ids) for tail in self.tails), default=0)


class PromptBuilder:
    """Builds layouts for one tokenizer, chat frame and profile."""

    def __init__(self, pieces: PieceTokenizer, frame: Frame, profile: Profile) -> None:
        self._pieces = pieces
        self._frame = frame
        self._choice = choice = profile.prompt
        self._layout = profile.layout
        self._calibration = profile.calibration
        self._rows = profile.signal.rows
        marker = _marker(choice, 1)
        self._opening = pieces.opening(frame.prefix + choice.introduction + frame.separator, marker)
        self._separator = pieces.trusted(frame.separator, marker)
        self._last_separator = pieces.trusted(frame.separator, choice.instruction)
        self._marks = plain_marks(frame, pieces)

    def build(
        self,
        queries: Sequence[str],
        documents: Sequence[Document],
        context: int,
        *,
        order: Sequence[int] | None = None,
    ) -> PromptLayout:
        """Lay out one tail per query over ``documents`` (best of the first stage first).

        ``context`` is the model's limit in tokens, ``order`` the documents' positions as they
        stand in the prompt (default: the profile's, see ``orders``). Raises InvalidInputError
        for an empty query, without documents, and when the documents cannot be shortened enough
        to fit.
        """
        if not documents:
            raise InvalidInputError("no documents to rank")
        tails = self._tails(queries)
        order = orders(self._choice.order, len(documents))[0] if order is None else order
        texts, cut = zip(*(self._document(document) for document in documents), strict=True)
        markers = [
            self._pieces.trusted(_marker(self._choice, number))
            for number in range(1, len(documents) + 1)
        ]
        ends = [self._separator] * len(documents)
        if self._layout.attend == "causal":
            ends[-1] = self._last_separator
        frames = [len(marker) + len(end) for marker, end in zip(markers, ends, strict=True)]
        tail = max(len(tail.ids) for tail in tails)
        budget = self._budget([len(text) for text in texts], frames, tail, context)
        pieces = {}
        for marker, end, index in zip(markers, ends, order, strict=True):
            text = texts[index][:budget]
            first = 0 if self._choice.span == "marker-and-text" else len(marker)
            last = len(marker) + len(text)
            if self._choice.span == "text-and-next":
                # A frame without a separator has no next token of the document's own.
                last += min(1, len(end))
            pieces[index] = Piece([*marker, *text, *end], (first, last))
        packed = pack(self._opening, list(pieces.values()), self._layout)
        spans = dict(zip(pieces, packed.spans, strict=True))
        return PromptLayout(
            shared=packed.ids,
            tails=tails,
            queries=len(queries),
            spans=tuple(spans[index] for index in range(len(documents))),
            tokens_cut=tuple(
                words + max(0, len(text) - budget) for text, words in zip(texts, cut, strict=True)
            ),
            blocks=packed.blocks,
            positions=packed.positions,
            places=packed.places,
            tail_start=packed.tail_start,
        )

    def _budget(
        self, lengths: Sequence[int], frames: Sequence[int], tail: int, context: int
    ) -> int:
        """Return how many tokens a document may have, so that every branch fits the context."""
        opening = len(self._opening)
        if self._layout.positions == "shared":
            # Documents stand side by side: each has what the prefix leaves.
            end = self._layout.tail_position or context - tail
            fixed = opening + max(frames) + tail
            room = min(end, context - tail) - opening - max(frames)
            budget = min(room, max(lengths))
            fits = budget >= min(max(lengths), MIN_DOCUMENT_TOKENS) and end + tail <= context
        else:
            fixed = opening + sum(frames) + tail
            found = _budget(lengths, context - fixed)
            budget, fits = found or 0, found is not None
        if not fits:
            raise InvalidInputError(
                f"{len(lengths)} documents do not fit the model's context of {context} tokens: "
                f"query, instruction and frames need {fixed}, which leaves less than "
                f"{MIN_DOCUMENT_TOKENS} tokens a document; rank fewer documents (--depth) "
                "or use a model with a longer context"
            )
        return budget

    def _tails(self, queries: Sequence[str]) -> tuple[Tail, ...]:
        instruction = self._choice.instruction + self._frame.separator
        nulls, share = self._calibration.nulls, self._calibration.instruction_share
        tails = [self._tail(query, instruction) for query in queries]
        if share > 0:
            tails += [self._tail(null, instruction) for null in nulls]
        if share < 1:
            tails += [self._tail(null, "") for null in nulls]
        return tuple(tails)

    def _tail(self, query: str, instruction: str) -> Tail:
        query = query.strip()
        if not query:
            raise InvalidInputError("the query is empty: there is nothing to rank by")
        opening = self._pieces.trusted(instruction + self._choice.query_label)
        text = self._text(query)
        if not text:
            # Without rows of its own there would be nothing to read, or to divide by.
            raise InvalidInputError(
                f"the query {shown(query)} has no token in this model's vocabulary: "
                "there is nothing to rank by"
            )
        ids = opening + text + self._pieces.trusted(self._frame.suffix)
        after_query = len(opening) + len(text)
        rows = {
            "instruction-to-end": (0, len(ids)),
            "instruction-to-query": (0, after_query),
            "instruction-to-query-and-next": (0, min(after_query + 1, len(ids))),
            "query": (len(opening), after_query),
            "last": (len(ids) - 1, len(ids)),
        }
        return Tail(ids, rows[self._rows])

    def _document(self, document: Document) -> tuple[list[int], int]:
        """Return a document's ids after the profile's limits, and the tokens these cost."""
        text, rest = self._words(document.text)
        if document.title and self._choice.title_separator is not None:
            text = document.title + self._choice.title_separator + text
        ids = self._text(text.strip())
        limit = self._choice.document_tokens or len(ids)
        cut = max(0, len(ids) - limit) + (0 if rest is None else len(self._text(rest)))
        return ids[:limit], cut

    def _words(self, text: str) -> tuple[str, str | None]:
        """Return a text up to the profile's number of words, and what follows, if anything."""
        limit = self._choice.document_words
        words = text.split(" ")
        if limit is None or len(words) <= limit:
            return text, None
        return " ".join(words[:limit]), " ".join(words[limit:])

    def places(self, document: Document) -> list[Place | None]:
        """Return for each token of a document's text where in the document it comes from.

        The tokens are those that ``build`` puts after the marker, before the context's budget
        shortens them. Title and text have offsets of their own.
        """
        ids, _ = self._document(document)
        text = Traced.of(self._words(document.text)[0], "text")
        if document.title and self._choice.title_separator is not None:
            separator = Traced.of(self._choice.title_separator, None)
            text = Traced.of(document.title, "title") + separator + text
        text = Traced.of(" ", None) + text.stripped()
        for mark in self._marks:
            text = text.with_break_in(mark)
        text = text.without_surrogates()
        traced, offsets = self._pieces.text_with_offsets(text.text)
        if traced[: len(ids)] != ids:
            raise RanklensError(
                f"document {document.id!r}: the tokens of the prompt cannot be traced back"
            )
        return text.places(offsets[: len(ids)])

    def marker_length(self, slot: int) -> int:
        """Return how many tokens of a span are the marker of the document in that slot (from 0)."""
        if self._choice.span != "marker-and-text":
            return 0
        return len(self._pieces.trusted(_marker(self._choice, slot + 1)))

    def _text(self, text: str) -> list[int]:
        """Return the ids of somebody's text after a blank, marks of the frame broken up."""
        return self._pieces.text(" " + without_marks(text, self._marks))


def orders(choice: OrderChoice, documents: int) -> list[list[int]]:
    """Return the prompt orders of a profile, one per permutation, as positions in the input."""
    given = list(range(documents))
    if choice.arrange == "shuffled":
        return [
            random.Random(choice.seed + k).sample(given, documents)
            for k in range(choice.permutations)
        ]
    return [given[::-1] if choice.arrange == "best-last" else given]


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
