"""The stage before a reranker: its own figures, and what its candidates allow at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ranklens.data.qrels import Qrels
from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.ceiling import ceiling_run
from ranklens.eval.measures import Evaluation, Rankings, evaluate
from ranklens.eval.policy import Orders, Policy


@dataclass(frozen=True, slots=True)
class FirstStage:
    """A first stage, evaluated.

    ``ceiling`` has each measure's value with the first ``depth`` candidates best first;
    ``candidates`` are these for each judged query, in the first stage's order.
    """

    evaluation: Evaluation
    ceiling: Mapping[str, float]
    depth: int
    candidates: Orders

    def left(self, qrels: Qrels, run: Run) -> list[str]:
        """Return the judged queries of a run whose first documents are not all candidates.

        The ceiling does not bound these: they are no reranking of the first ``depth``.
        """
        orders = _orders(qrels, run, self.evaluation.policy)
        return [
            query_id
            for query_id, order in orders.items()
            if not set(order[: self.depth]) <= set(self.candidates.get(query_id, ()))
        ]


def first_stage(
    qrels: Qrels, run: Run, depth: int | None, measures: Sequence[str], policy: Policy
) -> FirstStage:
    """Evaluate a first stage and the ceiling of its first ``depth`` documents, all if None.

    Raises as ``evaluate`` does.
    """
    evaluation = evaluate(qrels, run, measures, policy)
    orders = _orders(qrels, run, policy)
    depth = depth or max(map(len, orders.values()))
    ordered = Run(
        {
            query_id: [ScoredDoc(doc_id, -float(rank)) for rank, doc_id in enumerate(order)]
            for query_id, order in orders.items()
        },
        run.tag,
    )
    best = evaluate(qrels, ceiling_run(ordered, qrels, depth), measures, policy)
    return FirstStage(
        evaluation,
        {name: result.value for name, result in best.measures.items()},
        depth,
        {query_id: order[:depth] for query_id, order in orders.items()},
    )


def _orders(qrels: Qrels, run: Run, policy: Policy) -> Orders:
    """Return the documents as a reranker sees them: all that the policy takes out of its result."""
    whole = replace(policy, depth=None, unjudged="zero", self_documents="keep")
    return Rankings(qrels, run, whole).order()
