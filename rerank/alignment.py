"""Which characters of a document a prompt token stands for.

A document is changed on its way into the prompt: cut to a number of words, joined to its title,
stripped, its lone surrogates and marks of the chat frame replaced. Every character carries
where it came from through all of that, so offsets are those of the text the caller gave.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Field = Literal["title", "text"]


@dataclass(frozen=True, slots=True)
class Place:
    """A half-open range of code points of a document's title or text."""

    field: Field
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Traced:
    """A string, and for each of its code points the place it came from (None: it was added)."""

    text: str
    origins: tuple[Place | None, ...]

    @classmethod
    def of(cls, text: str, field: Field | None) -> Traced:
        """Trace a document's field; with None the text is one that is added."""
        if field is None:
            return cls(text, (None,) * len(text))
        return cls(text, tuple(Place(field, i, i + 1) for i in range(len(text))))

    def __add__(self, other: Traced) -> Traced:
        return Traced(self.text + other.text, self.origins + other.origins)

    def stripped(self) -> Traced:
        """As ``str.strip``."""
        start = len(self.text) - len(self.text.lstrip())
        end = start + len(self.text.strip())
        return Traced(self.text[start:end], self.origins[start:end])

    def with_break_in(self, mark: str) -> Traced:
        """As ``replace(mark, f"{mark[0]} {mark[1:]}")``."""
        text: list[str] = []
        origins: list[Place | None] = []
        done = 0
        while (found := self.text.find(mark, done)) >= 0:
            text += [self.text[done : found + 1], " ", mark[1:]]
            after = found + len(mark)
            origins += [*self.origins[done : found + 1], None, *self.origins[found + 1 : after]]
            done = after
        return Traced("".join(text) + self.text[done:], (*origins, *self.origins[done:]))

    def without_marks(self, marks: Sequence[str]) -> Traced:
        """As ``pieces.without_marks``."""
        traced = self
        while any(mark in traced.text for mark in marks):
            for mark in marks:
                traced = traced.with_break_in(mark)
        return traced

    def without_surrogates(self) -> Traced:
        """As ``pieces.without_surrogates``."""
        text: list[str] = []
        origins: list[Place | None] = []
        position = 0
        while position < len(self.text):
            pair = self.text[position : position + 2]
            high = "\ud800" <= pair[0] <= "\udbff"
            joins = high and len(pair) == 2 and "\udc00" <= pair[1] <= "\udfff"
            taken = 2 if joins else 1
            piece = pair[:taken]
            text.append(piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
            origins.append(hull(self.origins[position : position + taken]))
            position += taken
        return Traced("".join(text), tuple(origins))

    def places(self, offsets: Sequence[tuple[int, int]]) -> list[Place | None]:
        """Return the place of each token from its offsets in this string.

        Tokens that share a character, as byte-level ones may, all have the whole of it. A token
        of added characters alone has none.
        """
        return [hull(self.origins[start:end]) for start, end in offsets]


def hull(places: Iterable[Place | None]) -> Place | None:
    """Return the range from the first to the last place, in the field that has most of them."""
    known = [place for place in places if place is not None]
    if not known:
        return None
    in_text = [place for place in known if place.field == "text"]
    inside = in_text if 2 * len(in_text) >= len(known) else [p for p in known if p.field == "title"]
    return Place(inside[0].field, min(p.start for p in inside), max(p.end for p in inside))
