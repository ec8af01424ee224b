"""Whether the documents that are judged are there."""

from __future__ import annotations

from ranklens.data.collection import Collection
from ranklens.data.documents import FileDocuments

# Larger files take minutes to read; `ranklens data validate` looks at any.
_LARGEST = 256 * 2**20


def absent_judged(collection: Collection) -> tuple[str, ...]:
    """Return a warning when judged documents are not in the collection, else nothing.

    Only files of moderate size are looked through: ir_datasets may have to fetch its documents.
    What is wrong with the files is not said here.
    """
    judged = {doc_id for grades in collection.qrels.values() for doc_id in grades}
    if not judged:
        return ()
    documents = collection.documents
    if not isinstance(documents, FileDocuments) or documents.size() > _LARGEST:
        return ()
    found: set[str] = set()
    for _, document in documents.read(lambda error: None):
        if document.id in judged:
            found.add(document.id)
            if len(found) == len(judged):
                return ()
    absent = judged - found
    relevant = {
        doc_id
        for grades in collection.qrels.values()
        for doc_id, grade in grades.items()
        if grade >= collection.relevance_level and doc_id in absent
    }
    return (
        f"{len(absent)} of {len(judged)} judged documents are not in the collection (first: "
        f"{min(absent)!r}); {len(relevant)} of them count as relevant, and no run can find them",
    )
