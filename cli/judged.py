"""Judged lists from collections, for commands that learn or measure on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    from ranklens.rerank.heads.examples import JudgedList


def load_judged_lists(
    collections: Sequence[str], candidates: str | None, depth: int, limit: int | None
) -> list[JudgedList]:
    """Return the judged lists of collections.

    Candidates are those of a name or file where ``candidates`` is given, else the collection's
    own ``bm25``, else BM25's. ``limit`` takes that many judged queries of each. Raises
    InvalidInputError when a collection has no list to learn from.
    """
    from ranklens.cli.output import note, warn
    from ranklens.cli.specs import find_candidates
    from ranklens.cli.stages import fetch_texts, retrieve
    from ranklens.data.load import load_collection
    from ranklens.rerank.heads.examples import judged_lists

    found: list[JudgedList] = []
    for spec in collections:
        loaded = load_collection(spec)
        warn(loaded.notes)
        queries = [query for query in loaded.queries if query.id in loaded.qrels][:limit]
        if not queries:
            raise InvalidInputError(f"collection {loaded.name!r} judges none of its queries")
        if candidates is None and "bm25" not in loaded.candidate_files:
            first = retrieve(loaded, "bm25", depth, queries)
        else:
            first = find_candidates(loaded, candidates or "bm25", queries)
        queries = [query for query in queries if query.id in first]
        texts = fetch_texts(loaded, first, depth, queries)
        lists = judged_lists(loaded.name, queries, first, texts, loaded.qrels, depth)
        note(
            f"{loaded.name}: {len(lists)} of {len(queries)} queries have relevant and other "
            f"documents in their first {depth}"
        )
        if not lists:
            raise InvalidInputError(
                f"no query of {loaded.name!r} has both relevant and other documents among its "
                f"first {depth} candidates; use a larger --depth or other candidates"
            )
        found += lists
    return found
