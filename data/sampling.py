"""A few documents of a collection, chosen so that what is judged relevant is among them."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Iterator
from itertools import islice

from ranklens.data.collection import Collection
from ranklens.data.documents import DocumentSource
from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query


class SampledDocuments:
    """The documents of a source whose ids are in a set, in the source's order."""

    def __init__(self, source: DocumentSource, ids: frozenset[str]) -> None:
        self._source = source
        self._ids = ids

    def __iter__(self) -> Iterator[Document]:
        return (document for document in self._source if document.id in self._ids)

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents with these ids; those outside the sample are left out."""
        return self._source.get_many(self._ids.intersection(ids))

    def fingerprint(self) -> str:
        """Return the fingerprint of the chosen ids with the source's."""
        digest = hashlib.sha256(
            "\n".join(sorted(self._ids)).encode(errors="surrogatepass")
        ).hexdigest()
        # What differs comes first: errors show the beginning.
        return f"sample of {len(self._ids)}, sha256:{digest}, of {self._source.fingerprint()}"


def sampled(collection: Collection, size: int) -> Collection:
    """Return a collection of ``size`` of the documents, the same ones whatever their order.

    The documents judged relevant (grade 1 or more) to the queries come first, the rest by the
    SHA-256 of their ids. Where the relevant ones are more than ``size``, those queries are kept,
    in order, whose relevant documents still fit. Other judged documents outside the sample lose
    their judgements, and a query that has none left is left out, as are candidate runs, which are
    of all documents. A note says what is left. A collection that is not larger comes back as it
    is. Raises InvalidInputError when the relevant documents of no query fit, and when no
    judgement is left of those there were.
    """
    judged = {doc_id for grades in collection.qrels.values() for doc_id in grades}
    present: set[str] = set()
    total = 0

    def hashed() -> Iterator[tuple[bytes, str]]:
        nonlocal total
        for document in collection.documents:
            total += 1
            if document.id in judged:
                present.add(document.id)
            yield hashlib.sha256(document.id.encode(errors="surrogatepass")).digest(), document.id

    by_hash = heapq.nsmallest(size, hashed())
    if total <= size:
        return collection
    queries, relevant = _fitting(collection, present, size)
    others = (doc_id for _, doc_id in by_hash if doc_id not in relevant)
    ids = frozenset(relevant.union(islice(others, size - len(relevant))))
    kept = {query.id for query in queries}
    qrels = Qrels(
        Judgement(query_id, doc_id, grade)
        for query_id, grades in collection.qrels.items()
        if query_id in kept
        for doc_id, grade in grades.items()
        if doc_id in ids or grade > 0
    )
    if collection.qrels:
        queries = [query for query in queries if query.id in qrels]
    if not queries:
        raise InvalidInputError(
            f"collection {collection.name!r}: a sample of {size} documents has none that is "
            "judged, and none is judged relevant to the queries; take a larger one"
        )
    return dataclasses.replace(
        collection,
        name=f"{collection.name} (sample of {size})",
        documents=SampledDocuments(collection.documents, ids),
        queries=queries,
        qrels=qrels,
        candidate_runs={},
        notes=(
            *collection.notes,
            f"a sample: {size} of {total} documents, {len(queries)} of "
            f"{len(collection.queries)} queries; figures cannot be compared with published ones",
        ),
    )


def _fitting(collection: Collection, present: set[str], size: int) -> tuple[list[Query], set[str]]:
    """Return the queries whose relevant documents fit in together, and those documents."""
    queries: list[Query] = []
    relevant: set[str] = set()
    smallest: int | None = None
    for query in collection.queries:
        grades = collection.qrels.get(query.id, {})
        of_query = {doc_id for doc_id, grade in grades.items() if grade > 0 and doc_id in present}
        # What is new of few documents: all that is relevant is too much to copy for each query.
        if len(relevant) + len(of_query - relevant) <= size:
            queries.append(query)
            relevant |= of_query
        smallest = len(of_query) if smallest is None else min(smallest, len(of_query))
    if not queries:
        raise InvalidInputError(
            f"collection {collection.name!r}: a sample of {size} documents is too small for the "
            f"relevant documents of any query; the smallest that is not has {smallest}"
        )
    return queries, relevant
