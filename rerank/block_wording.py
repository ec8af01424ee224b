"""A prompt in blocks: opening, each document, and what follows, tokenised as one string each.

So BlockRank was trained and is released (arXiv 2510.05396). Texts stand inside the strings, so
they are made harmless before: every control token's spelling and every plain mark of the frame
gets a blank inside, in documents and queries; a text without any has the release's tokens. What
imitates a profile's own marker ("| END ID: 3") stays as it is: documents in blocks do not see
each other, so it cannot speak for another one, and breaking it would cost exactness.
"""

from __future__ import annotations

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.files import shown
from ranklens.data.pieces import (
    PieceTokenizer,
    control_marks,
    plain_marks,
    without_marks,
    without_surrogates,
)
from ranklens.data.records import Document
from ranklens.rerank.alignment import Traced
from ranklens.rerank.frames import Frame
from ranklens.rerank.packing import Range
from ranklens.rerank.profile import BlockChoice, Profile
from ranklens.rerank.wording import Trace, Written, joined, no_words, numbered, traced


class BlockWording:
    """A ``Wording`` in blocks; ``blocks`` is the profile's choice of them."""

    def __init__(
        self, pieces: PieceTokenizer, frame: Frame, profile: Profile, blocks: BlockChoice
    ) -> None:
        self._pieces = pieces
        self._frame = frame
        self._choice = profile.prompt
        self._blocks = blocks
        self._rows = profile.signal.rows
        self._marks = [*control_marks(pieces), *plain_marks([frame.prefix, frame.suffix], pieces)]
        self._completion, _ = pieces.whole(blocks.completion, "", "")

    def opening(self, query: str) -> list[int]:
        """See ``Wording``. Raises InvalidInputError where it exceeds a block."""
        before, holds_query, after = self._choice.introduction.partition("{query}")
        text = self._harmless(query) if holds_query else ""
        ids, _ = self._pieces.whole(self._frame.prefix + before, text, after)
        bos = list(self._pieces.bos)
        ids = ids if ids[: len(bos)] == bos else [*bos, *ids]
        self._check(ids, query, "before")
        return ids

    def tail(self, query: str, *, instruction: bool) -> tuple[list[int], Range]:
        """See ``Wording``. Raises InvalidInputError where it exceeds a block."""
        before = f"{self._choice.instruction if instruction else ''}{self._choice.query_label} "
        after = self._blocks.query_ending + self._frame.suffix + self._blocks.answer
        # As it is given: the release strips documents, and queries not.
        text = self._harmless(query)
        ids, offsets = self._pieces.whole(before, text, after)
        start, end = len(before), len(before) + len(text)
        if not query.strip() or not any(a < end and b > start for a, b in offsets):
            raise no_words(query)
        ids += self._completion
        self._check(ids, query, "behind")
        rows = {
            "instruction-to-end": (0, len(ids)),
            "last": (len(ids) - 1, len(ids)),
            "last-two": (max(0, len(ids) - 2), len(ids)),
        }
        return ids, rows[self._rows]

    def document(self, document: Document, slot: int, *, last: bool) -> Written:
        """See ``Wording``; ``text`` is all of the block, cut at its end."""
        before, after = self._around(slot)
        text = joined(document.title, document.text, self._choice)
        ids, _ = self._pieces.whole(before, self._harmless(text), after)
        limit = self._blocks.tokens or len(ids)
        return Written([], ids[:limit], [], max(0, len(ids) - limit))

    def trace(self, document: Document, slot: int) -> Trace:
        """See ``Wording``. A token that holds the end of the marker and a letter is the text's."""
        before, after = self._around(slot)
        text = traced(document.title, document.text, self._choice)
        text = text.without_surrogates().without_marks(self._marks)
        ids, offsets = self._pieces.whole(before, text.text, after)
        written = self.document(document, slot, last=False).text
        if ids[: len(written)] != written:
            raise RanklensError(
                f"document {document.id!r}: the tokens of the prompt cannot be traced back"
            )
        whole = Traced.of(before, None) + text + Traced.of(after, None)
        places = whole.places(offsets[: len(written)])
        own = [number for number, place in enumerate(places) if place is not None]
        if not own:
            return Trace(len(written), [])
        return Trace(own[0], places[own[0] : own[-1] + 1])

    def _around(self, slot: int) -> tuple[str, str]:
        """Return what stands before and behind the text of the document in a slot."""
        marker = numbered(self._choice.marker, self._choice, slot)
        return f"{marker} ", numbered(self._blocks.ending, self._choice, slot)

    def _harmless(self, text: str) -> str:
        """Return somebody's text without lone surrogates and without marks."""
        return without_marks(without_surrogates(text), self._marks)

    def _check(self, ids: list[int], query: str, where: str) -> None:
        limit = self._blocks.tokens
        if limit is not None and len(ids) > limit:
            raise InvalidInputError(
                f"the query {shown(query)} makes the block {where} the documents {len(ids)} "
                f"tokens long; the profile's blocks hold {limit} (prompt.blocks.tokens) and a "
                "query is never cut: shorten it"
            )
