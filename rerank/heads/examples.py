"""Judged lists: what heads are detected and learned on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query, ScoredDoc


@dataclass(frozen=True, slots=True)
class JudgedList:
    """A query with its candidates, best first, and their grades (unjudged: 0)."""

    collection: str
    query: Query
    documents: tuple[Document, ...]
    grades: tuple[int, ...]


def judged_lists(
    collection: str,
    queries: Iterable[Query],
    candidates: Mapping[str, Sequence[ScoredDoc]],
    texts: Mapping[str, Document],
    qrels: Qrels,
    depth: int,
) -> list[JudgedList]:
    """Return the lists that can teach something: with a relevant document and another grade."""
    lists = []
    for query in queries:
        found = [texts[doc.doc_id] for doc in candidates.get(query.id, ())[:depth]]
        judged = qrels.get(query.id, {})
        grades = tuple(max(0, judged.get(document.id, 0)) for document in found)
        if len(set(grades)) > 1:
            lists.append(JudgedList(collection, query, tuple(found), grades))
    return lists
