"""What a measure's name leaves open: the order of a run, and which queries and documents count.

Two policies have names, after the programs whose values they give with ``-c``:

* ``trec_eval-9``, the default: scores are compared in single precision, equal ones are ordered by
  document id, descending; a judged query that the run lacks counts as 0. What pytrec_eval,
  ir_measures and the published TREC, BEIR and MTEB figures rest on.
* ``trec_eval-10``: scores are compared in double precision, so that 20.000000002 and 20.000000001
  are no longer equal, and a share of the relevant documents becomes a count by rounding where
  version 9 added 0.9 and cut off (``IPrec``): 30% of 2 relevant documents are 1 in both, 25% of 5
  are 1 now and were 2.

Everything else is a change to one of them: ``replace(TREC_EVAL_9, missing="skip")``, in text
``trec_eval-9, missing=skip``.

The steps come in this order: documents are sorted, documents with the query's own id are removed,
the list is cut at the depth, documents without a judgement are removed. It is trec_eval's order
of ``-M`` before ``-J``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

from ranklens.data.errors import UsageError
from ranklens.data.files import shown
from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run, single_precision

Orders = Mapping[str, Sequence[str]]
"""Document ids by query, best first."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a run is read before it is measured.

    ``scores``: the precision in which scores are compared.
    ``ties``: ``docno``, equal scores by document id, descending; ``rank``, the run's own order.
    ``missing``: judged queries that the run lacks count as ``zero``, or are left out (``skip``).
    ``unjudged``: documents without a judgement are not relevant (``zero``), or are ``removed``
    from the run (trec_eval's ``-J``; a negative grade is no judgement there).
    ``depth``: only the first so many documents of a query count (trec_eval's ``-M``).
    ``self_documents``: ``remove`` takes out documents that have the id of their query.
    ``recall_levels``: how a share of the relevant documents becomes a count: ``truncated`` after
    adding 0.9, or ``rounded``.

    Raises UsageError for any other value.
    """

    scores: Literal["float32", "float64"] = "float32"
    ties: Literal["docno", "rank"] = "docno"
    missing: Literal["zero", "skip"] = "zero"
    unjudged: Literal["zero", "removed"] = "zero"
    depth: int | None = None
    self_documents: Literal["keep", "remove"] = "keep"
    recall_levels: Literal["truncated", "rounded"] = "truncated"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(f"policy: {name} is {value!r}; choose {' or '.join(choices)}")
        if self.depth is not None and (type(self.depth) is not int or self.depth < 1):
            raise UsageError(
                f"policy: depth must be an integer of at least 1, got {shown(self.depth)}"
            )

    def __str__(self) -> str:
        """The named policy that this one is or comes from, and what differs."""
        name, base = max(
            POLICIES.items(), key=lambda item: len(_shared(self, item[1])) - (item[1] != self) / 2
        )
        changes = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name not in _shared(self, base)
        ]
        return ", ".join([name, *changes])

    def order(
        self, query_id: str, docs: Sequence[ScoredDoc], grades: Mapping[str, int]
    ) -> list[str]:
        """Return the document ids of one query that count, best first."""
        ranked = [doc.doc_id for doc in self._sorted(docs)]
        if self.self_documents == "remove":
            ranked = [doc_id for doc_id in ranked if doc_id != query_id]
        ranked = ranked[: self.depth]
        if self.unjudged == "removed":
            ranked = [doc_id for doc_id in ranked if grades.get(doc_id, -1) >= 0]
        return ranked

    def tied_queries(self, run: Run) -> tuple[str, ...]:
        """Return the queries in which the order of equal scores is this policy's choice."""
        if self.ties == "rank":
            return ()
        if self.scores == "float32":
            return run.tied_queries
        return tuple(
            query_id
            for query_id, docs in run.items()
            if any(one.score == other.score for one, other in pairwise(docs))
        )

    def _sorted(self, docs: Sequence[ScoredDoc]) -> Sequence[ScoredDoc]:
        if self.ties == "rank":
            return docs
        if self.scores == "float64":
            # By id first: the second sort keeps it among equal scores.
            by_id = sorted(docs, key=lambda doc: doc.doc_id, reverse=True)
            return sorted(by_id, key=lambda doc: -doc.score)
        return trec_order(docs)


def trec_order(docs: Sequence[ScoredDoc]) -> list[ScoredDoc]:
    """Return documents in trec_eval 9's order: float32 score, then id, both descending."""
    scores = single_precision(doc.score for doc in docs)
    if (scores[1:] < scores[:-1]).all():
        return list(docs)
    rows = zip(scores.tolist(), docs, strict=True)
    ranked = sorted(rows, key=lambda row: (row[0], row[1].doc_id), reverse=True)
    return [doc for _, doc in ranked]


def parse_policy(text: str) -> Policy:
    """Return a policy from what ``str`` makes of one: ``trec_eval-9, missing=skip, depth=100``.

    Raises UsageError for a name, a field or a value that does not exist.
    """
    name, *changes = [part.strip() for part in text.split(",")]
    if name not in POLICIES:
        raise UsageError(f"unknown policy {name!r}; choose {' or '.join(POLICIES)}")
    values: dict[str, Any] = {}
    for change in changes:
        key, _, value = change.partition("=")
        if key not in _shared(DEFAULT, DEFAULT):
            known = ", ".join(_shared(DEFAULT, DEFAULT))
            raise UsageError(f"policy: {change!r} is no change; give NAME=VALUE of {known}")
        values[key] = int(value) if key == "depth" and _NUMBER.fullmatch(value) else value
    return replace(POLICIES[name], **values)


def _shared(one: Policy, other: Policy) -> list[str]:
    names = [field.name for field in fields(Policy)]
    return [name for name in names if getattr(one, name) == getattr(other, name)]


# int() reads other digits too, and fails at thousands of them.
_NUMBER = re.compile("[0-9]{1,18}")
_CHOICES = {
    "scores": ("float32", "float64"),
    "ties": ("docno", "rank"),
    "missing": ("zero", "skip"),
    "unjudged": ("zero", "removed"),
    "self_documents": ("keep", "remove"),
    "recall_levels": ("truncated", "rounded"),
}
TREC_EVAL_9 = Policy()
TREC_EVAL_10 = Policy(scores="float64", recall_levels="rounded")
POLICIES = {"trec_eval-9": TREC_EVAL_9, "trec_eval-10": TREC_EVAL_10}
DEFAULT = TREC_EVAL_9
