"""Noticing that documents are in a language that nobody named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ranklens.data.documents import DocumentSource
from ranklens.data.records import Document
from ranklens.data.scripts import has_spaceless

_MANY = 0.1
"""The share of documents from which they are worth a word."""


class Watched:
    """Documents as they are, while those with Chinese or Japanese in them are counted."""

    def __init__(self, documents: DocumentSource) -> None:
        self._documents = documents
        self._seen = self._spaceless = 0

    def __iter__(self) -> Iterator[Document]:
        # Read again, they are counted again.
        self._seen = self._spaceless = 0
        for document in self._documents:
            self._seen += 1
            self._spaceless += has_spaceless(document.full_text)
            yield document

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids, uncounted."""
        return self._documents.get_many(ids)

    def fingerprint(self) -> str:
        """Return the fingerprint of the documents."""
        return self._documents.fingerprint()

    @property
    def warnings(self) -> list[str]:
        """What to say to who did not name a language."""
        if self._spaceless <= _MANY * self._seen:
            return []
        return [
            f"{self._spaceless} of {self._seen} documents have Chinese or Japanese in them, "
            "indexed one character at a time; `ranklens retrieve --language cjk` takes them by "
            "pairs (--language en keeps this)"
        ]
