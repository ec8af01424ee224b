"""A profile's prompt: its words, how they become tokens, and the order of documents."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.frames import Frame

# Fields that came later. At their defaults they have no part in digests, so that those which
# profiles recorded before still hold.
_LATER = ("first_number", "blocks")


def at_least(name: str, value: int | None, least: int) -> None:
    """Raise InvalidInputError for a field's value below the least that makes sense."""
    if value is not None and value < least:
        raise InvalidInputError(f"{name} must be at least {least}: {value}")


@dataclass(frozen=True, slots=True)
class OrderChoice:
    """Where documents go in the prompt; they come best first from the stage before.

    ``best-last`` puts the best candidate next to the query; ``best-first`` keeps the order
    given; ``shuffled`` draws one by ``seed``, the same for every query of as many documents.
    With ``permutations`` > 1 that many shuffles are ranked and scores averaged.
    ``shuffled-by-request`` draws by ``seed`` + the request's number: its place, from 0, in
    ``rank_many`` or among a collection's queries (BlockRank, whose release shuffles every
    example of a data set anew).
    """

    arrange: Literal["best-last", "best-first", "shuffled", "shuffled-by-request"]
    seed: int = 0
    permutations: int = 1

    def __post_init__(self) -> None:
        at_least("prompt.order.permutations", self.permutations, 1)
        if self.permutations > 1 and self.arrange != "shuffled":
            raise InvalidInputError(
                "prompt.order.permutations averages over shuffles; set arrange to 'shuffled'"
            )


@dataclass(frozen=True, slots=True)
class BlockChoice:
    """A prompt tokenised block by block instead of piece by piece, as BlockRank's is.

    The opening, every document with its marker, and what follows the documents are one string
    each, tokenised as if nothing stood before it; a SentencePiece tokenizer then puts its blank
    before every block. Line breaks between blocks are written in marker and instruction: the
    frame's separator has no part. ``ending`` follows a document's text, with its number for
    ``{number}``; ``query_ending`` the query; ``answer`` begins the model's turn, and
    ``completion`` goes on with it, tokenised apart. ``tokens`` is the most that a block holds:
    a longer document is cut at its end, ``ending`` included; a longer opening or a longer block
    of the query, with ``completion``, is refused.
    """

    ending: str = ""
    query_ending: str = ""
    answer: str = ""
    completion: str = ""
    tokens: int | None = None

    def __post_init__(self) -> None:
        at_least("prompt.blocks.tokens", self.tokens, 1)
        if self.ending.count("{number}") > 1:
            raise InvalidInputError(f"prompt.blocks.ending {self.ending!r} holds {{number}} twice")


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """The words around documents and query.

    ``introduction`` may hold the query for ``{query}`` where the prompt is written in
    ``blocks``; a prompt then serves one query. ``marker`` stands before a document's text, with
    its number in the prompt for ``{number}``, counted from ``first_number``. ``span`` says which
    tokens are the document: with the marker (ICR), the text alone, the text and the first
    token of the separator after it (CoRe's inclusive end), or, of a prompt in ``blocks`` and
    only there, the whole block. ``title_separator`` None leaves
    titles out. ``document_words`` keeps that many words of a document's text, split on the
    single space, ``document_tokens`` that many tokens of title and text (None keeps all).
    ``frame`` replaces the model family's chat frame. ``blocks`` None tokenises in pieces.
    """

    introduction: str
    marker: str
    instruction: str
    query_label: str
    title_separator: str | None
    document_words: int | None
    order: OrderChoice
    span: Literal["marker-and-text", "text", "text-and-next", "block"] = "marker-and-text"
    document_tokens: int | None = None
    frame: Frame | None = None
    first_number: int = 1
    blocks: BlockChoice | None = None

    def __post_init__(self) -> None:
        for name, place in (("marker", "{number}"), ("introduction", "{query}")):
            value = getattr(self, name)
            if value.count(place) > 1:
                raise InvalidInputError(f"prompt.{name} {value!r} holds {place} twice")
        for name in ("document_words", "document_tokens"):
            at_least(f"prompt.{name}", getattr(self, name), 1)
        at_least("prompt.first_number", self.first_number, 0)
        if not self.instruction.strip():
            raise InvalidInputError("prompt.instruction must not be empty: its tokens are read")
        if self.blocks is None:
            if self.query_in_opening:
                raise InvalidInputError("prompt.introduction with {query} needs prompt.blocks")
            if self.span == "block":
                raise InvalidInputError("prompt.span 'block' needs prompt.blocks")
            return
        if self.span != "block":
            raise InvalidInputError(
                f"prompt.span is {self.span!r}; prompt.blocks needs 'block': where its text "
                "begins and ends inside a block's tokens is not known"
            )
        if self.document_words is not None or self.document_tokens is not None:
            raise InvalidInputError(
                "prompt.blocks.tokens limits documents; set prompt.document_words and "
                "prompt.document_tokens null"
            )

    @property
    def query_in_opening(self) -> bool:
        """Whether the query stands before the documents too, whose tokens then depend on it."""
        return "{query}" in self.introduction

    def digest(self) -> str:
        """Return a SHA-256 of what the prompt says; the order of documents has no part in it."""
        value = dataclasses.asdict(self)
        del value["order"]
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in _LATER:
            if value[name] == defaults[name]:
                del value[name]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
