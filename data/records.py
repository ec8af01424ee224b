"""The records every part of ranklens speaks in: plain, frozen, with str ids."""

from __future__ import annotations

from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError


def check_id(kind: str, value: object) -> None:
    """Raise InvalidInputError unless an id is a str with something in it."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{kind} must be a str, got {type(value).__name__} {value!r}")
    if not value:
        raise InvalidInputError(f"{kind} must not be empty")


@dataclass(frozen=True, slots=True)
class Document:
    """A retrievable text: a passage, an abstract, a page."""

    id: str
    text: str
    title: str = ""

    def __post_init__(self) -> None:
        check_id("document id", self.id)

    @property
    def full_text(self) -> str:
        """Title and text, separated by one space: what BEIR indexes and encodes."""
        return f"{self.title} {self.text}" if self.title else self.text


@dataclass(frozen=True, slots=True)
class Query:
    """An information need as the user typed it."""

    id: str
    text: str

    def __post_init__(self) -> None:
        check_id("query id", self.id)


@dataclass(frozen=True, slots=True)
class Judgement:
    """An assessor's grade for one document and one query; grades below 1 mean not relevant."""

    query_id: str
    doc_id: str
    grade: int


@dataclass(frozen=True, slots=True)
class ScoredDoc:
    """A document id and its score; higher is better."""

    doc_id: str
    score: float
