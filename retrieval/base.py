"""What a retriever is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ranklens.data.records import Document, Query
from ranklens.data.runs import Run


class Retriever(Protocol):
    """Finds candidates in an indexed collection.

    ``index`` makes an index that ends with the retriever. ``index_folder.open_index`` keeps one:
    it asks for ``settings``, has it built in a folder where there is none, and opened.
    """

    resumes: bool
    """Whether ``build`` goes on with what an interrupted one of the same settings left."""

    def index(self, documents: Iterable[Document]) -> None:
        """Index documents; what was indexed before is replaced."""
        ...

    def search(self, queries: Sequence[Query], k: int) -> Run:
        """Return up to ``k`` documents per query, best first; no match gives an empty list."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what an index depends on beside the documents, as JSON can carry it."""
        ...

    def build(self, documents: Iterable[Document], folder: Path) -> dict[str, Any]:
        """Write an index into a folder and return what is to be told of it (``documents``, …)."""
        ...

    def open(self, folder: Path) -> None:
        """Use the index that ``build`` wrote."""
        ...

    def close(self) -> None:
        """Give back what is outside this process."""
        ...
