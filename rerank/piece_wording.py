"""A prompt in pieces: marker, text, separator, instruction and query are tokenised apart.

A document's tokens then do not depend on its neighbours, and every span is known from the start.
The pieces' bytes are the published prompt's; tokens can differ from the whole string's at a
piece's end, where a tokenizer merges a full stop with a line break (Qwen's does, Llama's and
SmolLM2's do not).
"""

from __future__ import annotations

from ranklens.data.errors import RanklensError
from ranklens.data.pieces import PieceTokenizer, plain_marks, without_marks
from ranklens.data.records import Document
from ranklens.rerank.alignment import Traced
from ranklens.rerank.frames import Frame
from ranklens.rerank.packing import Range
from ranklens.rerank.profile import Profile
from ranklens.rerank.wording import Trace, Written, joined, no_words, numbered, traced


class PieceWording:
    """A ``Wording`` in pieces."""

    def __init__(self, pieces: PieceTokenizer, frame: Frame, profile: Profile) -> None:
        self._pieces = pieces
        self._frame = frame
        self._choice = choice = profile.prompt
        self._rows = profile.signal.rows
        marker = numbered(choice.marker, choice, 0)
        self._opening = pieces.opening(frame.prefix + choice.introduction + frame.separator, marker)
        self._separator = pieces.trusted(frame.separator, marker)
        self._last_separator = pieces.trusted(frame.separator, choice.instruction)
        self._marks = plain_marks([frame.prefix, frame.suffix], pieces)

    def opening(self, query: str) -> list[int]:
        """See ``Wording``."""
        return self._opening

    def tail(self, query: str, *, instruction: bool) -> tuple[list[int], Range]:
        """See ``Wording``."""
        query = query.strip()
        said = self._choice.instruction + self._frame.separator if instruction else ""
        opening = self._pieces.trusted(said + self._choice.query_label)
        text = self._text(query) if query else []
        if not text:
            # Without rows of its own there would be nothing to read, or to divide by.
            raise no_words(query)
        ids = opening + text + self._pieces.trusted(self._frame.suffix)
        after_query = len(opening) + len(text)
        rows = {
            "instruction-to-end": (0, len(ids)),
            "instruction-to-query": (0, after_query),
            "instruction-to-query-and-next": (0, min(after_query + 1, len(ids))),
            "query": (len(opening), after_query),
            "last": (len(ids) - 1, len(ids)),
            "last-two": (max(0, len(ids) - 2), len(ids)),
        }
        return ids, rows[self._rows]

    def document(self, document: Document, slot: int, *, last: bool) -> Written:
        """See ``Wording``."""
        text, rest = self._words(document.text)
        ids = self._text(joined(document.title, text, self._choice))
        limit = self._choice.document_tokens or len(ids)
        cut = max(0, len(ids) - limit) + (0 if rest is None else len(self._text(rest)))
        marker = self._pieces.trusted(numbered(self._choice.marker, self._choice, slot))
        ending = self._last_separator if last else self._separator
        return Written(marker, ids[:limit], ending, cut)

    def trace(self, document: Document, slot: int) -> Trace:
        """See ``Wording``. Raises RanklensError for tokens that cannot be traced."""
        written = self.document(document, slot, last=False)
        text = traced(document.title, self._words(document.text)[0], self._choice)
        text = (Traced.of(" ", None) + text).without_marks(self._marks).without_surrogates()
        ids, offsets = self._pieces.text_with_offsets(text.text)
        length = len(written.text)
        if ids[:length] != written.text:
            raise RanklensError(
                f"document {document.id!r}: the tokens of the prompt cannot be traced back"
            )
        return Trace(len(written.marker), text.places(offsets[:length]))

    def _words(self, text: str) -> tuple[str, str | None]:
        """Return a text up to the profile's number of words, and what follows, if anything."""
        limit = self._choice.document_words
        words = text.split(" ")
        if limit is None or len(words) <= limit:
            return text, None
        return " ".join(words[:limit]), " ".join(words[limit:])

    def _text(self, text: str) -> list[int]:
        """Return the ids of somebody's text after a blank, marks of the frame broken up."""
        return self._pieces.text(" " + without_marks(text, self._marks))
