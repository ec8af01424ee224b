"""The stages that commands are made of: retrieve, fetch candidate texts, rerank."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ranklens.cli.language import Watched
from ranklens.cli.output import note, warn
from ranklens.cli.progress import progress
from ranklens.cli.specs import find_candidates
from ranklens.data.documents import DocumentSource, missing_documents
from ranklens.data.errors import InvalidInputError, PartialError
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.data.runs import Run, check_run_query

if TYPE_CHECKING:
    from ranklens.cli.retrievers import RetrieverSpec
    from ranklens.data.collection import Collection
    from ranklens.rerank.base import Ranking, Reranker
    from ranklens.retrieval.base import Retriever


def retrieve(
    collection: Collection,
    retriever: RetrieverSpec,
    k: int,
    queries: Sequence[Query],
    *,
    remove_query: bool = False,
    index: Path | None = None,
    overwrite: bool = False,
) -> Run:
    """Index the collection and search it; InvalidInputError when no query finds anything.

    ``remove_query`` leaves out documents with the query's own id. The index is kept in the folder
    ``index`` and used again, or built anew with ``overwrite``; without one it goes with the call.
    """
    for query in queries:
        # Found out before the work, not when the run is written.
        check_run_query(query.id)
    with contextlib.closing(retriever.build()) as engine:
        if retriever.prebuilt is None:
            documents = Watched(collection.documents)
            _index(engine, collection.name, documents, index, overwrite)
            if retriever.watches:
                warn(documents.warnings)
        note(f"searching {len(queries)} queries, top {k}")
        # One more than asked for, where the query itself may be among them.
        found = engine.search(queries, k + remove_query)
    if remove_query:
        found = without_queries(found, k)
    empty = [query for query in queries if not found.get(query.id)]
    if len(empty) == len(queries):
        raise InvalidInputError(
            f"no document of {collection.name!r} has a word of any query "
            f"(first query: {queries[0].text!r})"
        )
    if empty:
        warn([f"{len(empty)} queries find no document (first: {empty[0].id!r})"])
    return found


def _index(
    engine: Retriever, name: str, documents: DocumentSource, folder: Path | None, overwrite: bool
) -> None:
    from ranklens.retrieval.index_folder import open_index

    if folder is None:
        note(f"indexing {name}")
        engine.index(documents)
        return
    try:
        opened = open_index(engine, folder, documents, overwrite=overwrite)
    except KeyboardInterrupt:
        if not engine.resumes:
            raise
        raise PartialError(
            f"interrupted; what is encoded is kept, and the same command goes on ({folder})"
        ) from None
    how = "built" if opened.built else "used again"
    note(f"index {folder}: {opened.facts['documents']} documents, {how}")


def check_index(collection: Collection, retriever: RetrieverSpec, folder: Path) -> None:
    """Raise InvalidInputError for an index that ``retrieve`` would not use."""
    from ranklens.retrieval.index_folder import check_index

    with contextlib.closing(retriever.build()) as engine:
        check_index(engine, folder, collection.documents)


def without_queries(run: Run, k: int | None = None) -> Run:
    """Return a run without documents that have their query's id, the first ``k`` of the rest."""
    others = {q: [doc for doc in docs if doc.doc_id != q] for q, docs in run.items()}
    left_out = sum(map(len, run.values())) - sum(map(len, others.values()))
    note(f"documents with their query's own id: {left_out} left out")
    return Run({q: docs[:k] for q, docs in others.items()}, tag=run.tag)


def given_candidates(collection: Collection, candidates: str, queries: Sequence[Query]) -> Run:
    """Return what ``find_candidates`` finds, less what a retrieval would leave out.

    These are documents with their query's own id, where that is no answer.
    """
    found = find_candidates(collection, candidates, queries)
    return without_queries(found) if collection.remove_query else found


def fetch_texts(
    collection: Collection, candidates: Run, depth: int, queries: Sequence[Query]
) -> dict[str, Document]:
    """Return the documents to be reranked; InvalidInputError when the collection lacks some."""
    wanted = {
        doc.doc_id: query.id for query in queries for doc in candidates.get(query.id, ())[:depth]
    }
    found = collection.documents.get_many(wanted)
    missing_documents(found, wanted)
    return found


def request_numbers(collection: Collection) -> dict[str, int]:
    """Return each query's place in its collection, by id.

    What is still to be ranked, or has candidates, has no part: a query keeps its number, so that
    a profile that shuffles by it ranks the same in a resumed run and in one that was not.
    """
    return {query.id: number for number, query in enumerate(collection.queries)}


def rerank(
    reranker: Reranker,
    candidates: Run,
    texts: dict[str, Document],
    depth: int,
    queries: Sequence[Query],
    numbers: Mapping[str, int],
) -> Iterator[tuple[Query, Ranking | None]]:
    """Yield each query's ranking of its first ``depth`` candidates; None for one without any.

    ``numbers`` are ``request_numbers`` of the collection, which only attention asks for. Answers
    of a model that were no clean order are warned of at the end.
    """
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.listwise.generated import ListwiseReranker

    def ranked(query: Query, documents: Sequence[Document]) -> Ranking:
        if isinstance(reranker, AttentionReranker):
            return reranker.rank(query, documents, request=numbers[query.id])
        return reranker.rank(query, documents)

    total = sum(len(candidates.get(query.id, ())[:depth]) for query in queries)
    with progress("reranking", total, "docs") as advance:
        for query in queries:
            documents = [texts[doc.doc_id] for doc in candidates.get(query.id, ())[:depth]]
            yield query, ranked(query, documents) if documents else None
            advance(len(documents))
    if isinstance(reranker, ListwiseReranker) and reranker.faulty:
        warn(
            [
                f"{reranker.faulty} of {reranker.answers} answers of {reranker.name} were no clean "
                "order; what they left out kept the order of the candidates"
            ]
        )


def merged(
    reranked: Sequence[tuple[str, float]], candidates: Sequence[ScoredDoc]
) -> list[ScoredDoc]:
    """Return a query's full ranking: the reranked documents, then the other candidates.

    Candidates below the depth keep their order; their scores continue downwards in steps of
    one, because scores of two stages cannot be compared.
    """
    head = [ScoredDoc(doc_id, score) for doc_id, score in reranked]
    seen = {doc.doc_id for doc in head}
    lowest = head[-1].score if head else 0.0
    below = [doc for doc in candidates if doc.doc_id not in seen]
    return head + [
        ScoredDoc(doc.doc_id, lowest - position) for position, doc in enumerate(below, start=1)
    ]
