"""The candidate-pool ceiling: the best that any reranker could do with these candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ranklens.data.errors import UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run


def ceiling_run(run: Run, qrels: Qrels, depth: int) -> Run:
    """Return the run with each query's first ``depth`` documents ordered by grade, descending.

    The documents below keep their place. Documents of equal grade keep their order, and
    unjudged ones count as grade 0, as the measures count them. Raises UsageError for a depth
    below 1.
    """
    if depth < 1:
        raise UsageError(f"depth must be at least 1, got {depth}")
    rankings = {}
    for query_id, docs in run.items():
        order = best_first([doc.doc_id for doc in docs], qrels.get(query_id, {}), depth)
        rankings[query_id] = [
            ScoredDoc(doc_id, float(len(order) - position)) for position, doc_id in enumerate(order)
        ]
    return Run(rankings, tag="ceiling")


def best_first(doc_ids: Sequence[str], grades: Mapping[str, int], depth: int) -> list[str]:
    """Return one query's documents as ``ceiling_run`` orders them."""
    head = sorted(doc_ids[:depth], key=lambda doc_id: -max(grades.get(doc_id, 0), 0))
    return [*head, *doc_ids[depth:]]
