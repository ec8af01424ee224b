"""Judged lists: what heads are detected and learned on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query


@dataclass(frozen=True, slots=True)
class JudgedList:
    """A query with its candidates, best first, and their grades (unjudged: 0).

    ``candidates`` names what found them.
    """

    collection: str
    query: Query
    documents: tuple[Document, ...]
    grades: tuple[int, ...]
    candidates: str = "bm25"


def check_level(lists: Iterable[JudgedList], level: int) -> None:
    """Raise InvalidInputError when no list has documents of grade ``level`` and others."""
    lists = list(lists)
    if not any(0 < sum(g >= level for g in x.grades) < len(x.grades) for x in lists):
        raise InvalidInputError(
            f"no list of the {len(lists)} has both a document of grade {level} or above and "
            "one below"
        )


def judged_lists(
    collection: str,
    lists: Iterable[tuple[Query, Sequence[Document]]],
    qrels: Qrels,
    candidates: str = "bm25",
) -> list[JudgedList]:
    """Return the lists that can teach something: with a relevant document and another grade."""
    found = []
    for query, documents in lists:
        judged = qrels.get(query.id, {})
        grades = tuple(max(0, judged.get(document.id, 0)) for document in documents)
        if len(set(grades)) > 1:
            found.append(JudgedList(collection, query, tuple(documents), grades, candidates))
    return found
