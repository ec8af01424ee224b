"""Training lists: documents that are read once, and the queries that are asked over them.

A folder of three files, made by ``ranklens train lists``:

    documents.jsonl   {"id", "title", "text"}, each document once
    lists.jsonl       {"documents": [ids], "queries": [{"id", "text", "grades", "teachers"}]}
    manifest.json     what the lists were made from

``grades`` of a query has one entry per document of the list, None where nobody judged it; it is
None where nothing about the query was judged. ``teachers`` has scores by a teacher's name, one per
document, on that teacher's own scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query over the documents of a list, with what is known of each document."""

    id: str
    text: str
    grades: tuple[int | None, ...] | None
    teachers: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class TrainingList:
    """Documents, in no order that means anything, and the queries asked over them."""

    documents: tuple[Document, ...]
    queries: tuple[TrainingQuery, ...]

    def __post_init__(self) -> None:
        if not self.documents or not self.queries:
            raise InvalidInputError("a training list needs documents and queries")
        for query in self.queries:
            of_each = {"grades": query.grades, **query.teachers}
            for name, values in of_each.items():
                if values is not None and len(values) != len(self.documents):
                    raise InvalidInputError(
                        f"query {query.id!r} has {len(values)} {name} for "
                        f"{len(self.documents)} documents"
                    )
