"""Small collections in memory, for the tests of training data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from ranklens.data.collection import Collection, assemble
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query


class Held:
    """Documents in memory."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = {document.id: document for document in documents}

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents.values())

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        return {name: self._documents[name] for name in ids if name in self._documents}

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(map(repr, self))).encode()).hexdigest()


def collection(
    name: str,
    texts: Mapping[str, str],
    queries: Mapping[str, str],
    grades: Mapping[str, Mapping[str, int]] | None = None,
) -> Collection:
    """Make a collection; without grades nothing is judged."""
    judged = [
        Judgement(query, document, grade)
        for query, of_query in (grades or {}).items()
        for document, grade in of_query.items()
    ]
    return assemble(
        name=name,
        documents=Held(Document(key, text) for key, text in texts.items()),
        queries=[Query(key, text) for key, text in queries.items()],
        qrels=None if grades is None else Qrels(judged),
    )
