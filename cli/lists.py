"""Queries with their candidates' texts, for commands that look at single rankings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    from ranklens.data.collection import Collection
    from ranklens.data.records import Document, Query
    from ranklens.rerank.heads.examples import JudgedList


def candidate_lists(
    spec: str,
    candidates: str | None,
    depth: int,
    *,
    limit: int | None = None,
    query_id: str | None = None,
    judged: bool = False,
    windows: int = 1,
) -> tuple[Collection, list[tuple[Query, list[Document]]]]:
    """Return a collection, and the first ``depth`` candidates of its queries.

    With ``windows`` > 1 a query has further lists, of the next ``depth`` candidates each.
    Candidates are those of a name or file where given, else the collection's own ``bm25``, else
    BM25's, less documents with the query's own id where that is no answer; ``judged`` takes only
    queries with judgements. Raises InvalidInputError for a query id
    that the collection lacks, or that has no candidates, and where nothing is judged although
    ``judged`` asks for it.
    """
    from ranklens.cli.output import warn
    from ranklens.cli.retrievers import RetrieverSpec
    from ranklens.cli.stages import fetch_texts, given_candidates, retrieve
    from ranklens.data.load import load_collection

    loaded = load_collection(spec)
    warn(loaded.notes)
    queries = list(loaded.queries)
    if query_id is not None:
        queries = [query for query in queries if query.id == query_id]
        if not queries:
            raise InvalidInputError(
                f"collection {loaded.name!r} has no query {query_id!r} "
                f"(it has {loaded.queries[0].id!r}, …)"
            )
    if judged:
        grades = loaded.judgements("this command")
        queries = [query for query in queries if query.id in grades]
        if not queries:
            raise InvalidInputError(f"collection {loaded.name!r} judges none of its queries")
    if candidates is None and "bm25" not in loaded.candidate_runs:
        queries = queries[:limit]
        first = retrieve(
            loaded, RetrieverSpec(), depth * windows, queries, remove_query=loaded.remove_query
        )
    else:
        first = given_candidates(loaded, candidates or "bm25", queries)
    queries = [query for query in queries if first.get(query.id)][:limit]
    texts = fetch_texts(loaded, first, depth * windows, queries)
    found = []
    for query in queries:
        for start in range(0, depth * windows, depth):
            window = first[query.id][start : start + depth]
            if window:
                found.append((query, [texts[doc.doc_id] for doc in window]))
    return loaded, found


def load_judged_lists(
    collections: Sequence[str],
    candidates: str | None,
    depth: int,
    limit: int | None,
    windows: int = 1,
) -> list[JudgedList]:
    """Return the judged lists of collections, ``limit`` judged queries of each.

    A collection may name candidates of its own behind an ``@``.

    Raises InvalidInputError when a collection has no list to learn from.
    """
    from ranklens.cli.output import note
    from ranklens.rerank.heads.examples import judged_lists

    found: list[JudgedList] = []
    for given in collections:
        spec, wanted = with_candidates(given)
        source = wanted or candidates
        loaded, read = candidate_lists(
            spec, source, depth, limit=limit, judged=True, windows=windows
        )
        name = Path(source or "bm25").name
        lists = judged_lists(loaded.name, read, loaded.qrels, name)
        note(
            f"{loaded.name}: {len(lists)} of {len(read)} lists of {depth} have relevant and "
            "other documents"
        )
        if not lists:
            raise InvalidInputError(
                f"no query of {loaded.name!r} has both relevant and other documents among its "
                f"first {depth * windows} candidates; use a larger --depth or other candidates"
            )
        found += lists
    return found


def with_candidates(given: str) -> tuple[str, str | None]:
    """Split ``COLLECTION@CANDIDATES``; a folder's own name may hold an ``@``."""
    spec, at, candidates = given.rpartition("@")
    if not at or Path(given).expanduser().exists():
        return given, None
    return spec, candidates
