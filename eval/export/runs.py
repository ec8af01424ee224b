"""Runs whose order every tool reads alike."""

from __future__ import annotations

from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run, strictly_decreasing
from ranklens.eval.policy import trec_order


def normalised(run: Run, tag: str | None = None) -> Run:
    """Return a run in trec_eval's order, its scores strictly decreasing in single precision.

    Tools break ties in ways of their own: by id up or down, by the file's order, by chance. Here
    ties are broken as trec_eval breaks them, once, so that the measures stay what they were.
    """
    rankings = {}
    for query_id, given in run.items():
        docs = trec_order(given)
        scores = strictly_decreasing(doc.score for doc in docs)
        rankings[query_id] = [
            ScoredDoc(doc.doc_id, score) for doc, score in zip(docs, scores, strict=True)
        ]
    return Run(rankings, tag=run.tag if tag is None else tag)
