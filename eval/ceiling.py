"""The candidate-pool ceiling: the best that any reranker could do with these candidates."""

from __future__ import annotations

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
        grades = qrels.get(query_id, {})
        head = sorted(docs[:depth], key=lambda doc: -max(grades.get(doc.doc_id, 0), 0))
        order = [*head, *docs[depth:]]
        rankings[query_id] = [
            ScoredDoc(doc.doc_id, float(len(order) - position))
            for position, doc in enumerate(order)
        ]
    return Run(rankings, tag="ceiling")
