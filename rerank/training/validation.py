"""How well a student ranks lists that it is not trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.rerank.training.lists import TrainingList

if TYPE_CHECKING:
    from ranklens.rerank.training.objectives import Objective
    from ranklens.rerank.training.student import Student

MEASURE = "nDCG@10"


@dataclass(frozen=True, slots=True)
class Validation:
    """What a validation found: mean nDCG@10, and the objective's mean where it has a say.

    Answers are not asked for: of an objective with ``next-token`` it is the other terms.
    """

    step: int
    ndcg: float
    loss: float | None


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Lists to validate on, and what an ideal ranking is measured by.

    ``judged``: every positive grade of each query by its id, in the list or not, as trec_eval's
    ideal has them; a query without any then counts as 0, and so do ``unanswered`` more queries,
    which have no list. None: the ideal is that of the list's own documents, which is kinder, and
    queries without a relevant document in their list are left out. ``origin`` names the lists.

    Raises InvalidInputError when nothing can be measured.
    """

    lists: tuple[TrainingList, ...]
    origin: str
    judged: Mapping[str, tuple[int, ...]] | None = None
    unanswered: int = 0

    def __post_init__(self) -> None:
        if not self.queries:
            raise InvalidInputError(
                f"no query of {self.origin} has a document that is judged relevant: there is "
                "nothing to validate on"
            )

    @property
    def queries(self) -> int:
        """The number of rankings that the mean is over."""
        return self.unanswered + sum(
            self._ideal(query.id, query.grades) is not None
            for x in self.lists
            for query in x.queries
        )

    @property
    def measured_by(self) -> str:
        """What the figure is, for whoever reads it."""
        ideal = "each list's own documents" if self.judged is None else "all judged documents"
        return f"{MEASURE} of {self.queries} rankings of {self.origin}; the ideal is of {ideal}"

    @property
    def digest(self) -> str:
        """A SHA-256 of the lists and grades."""
        digest = hashlib.sha256()
        judged = None if self.judged is None else {q: list(g) for q, g in self.judged.items()}
        digest.update(json.dumps([judged, self.unanswered], sort_keys=True).encode())
        for part in self.lists:
            documents = [(x.id, x.title, x.text) for x in part.documents]
            queries = [(q.id, q.text, q.grades, dict(q.teachers)) for q in part.queries]
            digest.update(json.dumps([documents, queries], sort_keys=True).encode())
        return digest.hexdigest()

    def validate(self, student: Student, objective: Objective, step: int) -> Validation:
        """Rank every list by the student's scores, without gradients.

        Equal scores are ranked by document id, the last first, as trec_eval does. Raises
        NumericalError naming the query whose scores are not finite.
        """
        import torch

        values: list[float] = [0.0] * self.unanswered
        losses: list[float] = []
        with torch.no_grad():
            for part in self.lists:
                rows = student.scores([query.text for query in part.queries], part.documents)
                for query, row in zip(part.queries, rows.cpu(), strict=True):
                    if not bool(row.isfinite().all()):
                        raise NumericalError(
                            f"step {step}: query {query.id!r} of {self.origin} has scores that "
                            "are NaN or infinite"
                        )
                    loss = objective.loss(row, query)
                    losses += [] if loss is None else [float(loss)]
                    ideal = self._ideal(query.id, query.grades)
                    if ideal is not None:
                        ids = [document.id for document in part.documents]
                        values.append(_ndcg(row.tolist(), ids, query.grades, ideal))
        return Validation(
            step, sum(values) / len(values), sum(losses) / len(losses) if losses else None
        )

    def _ideal(self, query_id: str, grades: Iterable[int | None] | None) -> tuple[int, ...] | None:
        """Return the grades that an ideal ranking is made of; None: not to be measured."""
        if self.judged is not None:
            return self.judged.get(query_id, ())
        found = tuple(grade for grade in grades or () if grade is not None and grade > 0)
        return found or None


def _ndcg(
    scores: list[float],
    ids: list[str],
    grades: tuple[int | None, ...] | None,
    ideal: tuple[int, ...],
) -> float:
    import numpy as np

    from ranklens.rerank.heads.listwise import ndcg

    if not ideal:
        return 0.0
    order = sorted(range(len(ids)), key=lambda place: ids[place], reverse=True)
    known = grades or (None,) * len(ids)
    gains = np.array([max(0, known[place] or 0) for place in order])
    ranked = np.array([[scores[place] for place in order]])
    return float(ndcg(ranked, gains, judged=np.array(ideal))[0])
