"""How the parts of a prompt become tokens: what a way of writing it has to say.

``piece_wording`` tokenises marker, text, separator and query each apart; ``block_wording`` whole
blocks. The builder of layouts puts the parts together without knowing which it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import shown
from ranklens.data.records import Document
from ranklens.rerank.alignment import Place, Traced
from ranklens.rerank.packing import Range
from ranklens.rerank.profile import PromptChoice


@dataclass(frozen=True, slots=True)
class Written:
    """A document's tokens in a prompt.

    Only ``text`` is shortened further, from its end; ``cut`` says how many tokens the profile's
    own limits left out.
    """

    marker: list[int]
    text: list[int]
    ending: list[int]
    cut: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in a document the tokens of its ``Written`` come from.

    ``places``: of its own tokens, which begin ``first`` tokens behind the marker's first; None
    for one that the prompt added among them.
    """

    first: int
    places: list[Place | None]


class Wording(Protocol):
    """Tokenises the parts of a prompt for one tokenizer, frame and profile."""

    def opening(self, query: str) -> list[int]:
        """Return what stands before all documents; ``query`` matters where it stands there."""
        ...

    def tail(self, query: str, *, instruction: bool) -> tuple[list[int], Range]:
        """Return what follows the documents, and its rows that are read.

        Raises InvalidInputError for a query without tokens.
        """
        ...

    def document(self, document: Document, slot: int, *, last: bool) -> Written:
        """Return a document in a slot of the prompt, from 0; ``last``: the tail follows it."""
        ...

    def trace(self, document: Document, slot: int) -> Trace:
        """Return the places of the tokens of ``document``."""
        ...


def numbered(text: str, choice: PromptChoice, slot: int) -> str:
    """Return a marker or ending with the number of the document in a slot."""
    return text.replace("{number}", str(slot + choice.first_number))


def joined(title: str, text: str, choice: PromptChoice) -> str:
    """Return what a prompt says of a document."""
    if title and choice.title_separator is not None:
        text = title + choice.title_separator + text
    return text.strip()


def traced(title: str, text: str, choice: PromptChoice) -> Traced:
    """As ``joined``, with where each character comes from."""
    found = Traced.of(text, "text")
    if title and choice.title_separator is not None:
        found = Traced.of(title, "title") + Traced.of(choice.title_separator, None) + found
    return found.stripped()


def no_words(query: str) -> InvalidInputError:
    """Return the error of a query that the model would not see."""
    if not query.strip():
        return InvalidInputError("the query is empty: there is nothing to rank by")
    return InvalidInputError(
        f"the query {shown(query)} has no token in this model's vocabulary: there is nothing to "
        "rank by"
    )
