"""What a retriever is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from ranklens.data.records import Document, Query
from ranklens.data.runs import Run


class Retriever(Protocol):
    """Finds candidates in an indexed collection."""

    def index(self, documents: Iterable[Document]) -> None:
        """Index documents; what was indexed before is replaced."""
        ...

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, best first; no match gives an empty list."""
        ...

    def close(self) -> None:
        """Give back what is outside this process."""
        ...
