"""Judged lists: what heads are detected and learned on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query


@dataclass(frozen=True, slots=True)
class JudgedList:
    """A query with its candidates, best first, and their grades (unjudged: 0)."""

    collection: str
    query: Query
    documents: tuple[Document, ...]
    grades: tuple[int, ...]


def judged_lists(
    collection: str, lists: Iterable[tuple[Query, Sequence[Document]]], qrels: Qrels
) -> list[JudgedList]:
    """Return the lists that can teach something: with a relevant document and another grade."""
    found = []
    for query, documents in lists:
        judged = qrels.get(query.id, {})
        grades = tuple(max(0, judged.get(document.id, 0)) for document in documents)
        if len(set(grades)) > 1:
            found.append(JudgedList(collection, query, tuple(documents), grades))
    return found
