"""What training minimises: losses over one query's scores s of a list's documents.

    infonce     −log( Σ_{d relevant} e^{s_d/τ} / Σ_d e^{s_d/τ} )        BlockRank's L_aux, τ 0.05
    graded      −Σ_d y_d log softmax(s)_d,   y ∝ 2^grade − 1             list-wise cross-entropy
    kl          KL( softmax(t/τ) ‖ softmax(s) )                          a teacher's scores t
    margin-mse  mean_{d<e} ( (s_d − s_e) − (t_d − t_e)/τ )²              the same, by pairs

Documents that nobody judged count as grade 0. An objective is a sum of terms,
``graded + 0.5*kl(minilm-l6, 0.05)``; what a query cannot tell (no judgement, a relevant document
that is not there, a teacher that did not score it) has no part in its loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.training.lists import TrainingQuery

Kind = Literal["infonce", "graded", "kl", "margin-mse"]
_TERM = re.compile(r"(?:([0-9.eE+-]+)\s*\*\s*)?([a-z-]+)(?:\(([^()]*)\))?")
_TAU = {"infonce": 0.05, "kl": 0.05, "margin-mse": 0.05}


@dataclass(frozen=True, slots=True)
class Term:
    """One loss, its factor, and the teacher and temperature τ it goes by.

    ``level``: the grade from which a document is relevant to ``infonce``.
    """

    kind: Kind
    factor: float = 1.0
    teacher: str | None = None
    tau: float = 1.0
    level: int = 1

    def loss(self, scores: torch.Tensor, query: TrainingQuery) -> torch.Tensor | None:
        """Return the factor times the loss of scores [documents]; None where it has no say."""
        target = self._target(query)
        if target is None:
            return None
        import torch

        known = torch.tensor(target, dtype=scores.dtype, device=scores.device)
        return self.factor * _LOSSES[self.kind](scores, known, self.tau)

    def _target(self, query: TrainingQuery) -> Sequence[float] | None:
        if self.teacher is not None:
            return query.teachers.get(self.teacher)
        if query.grades is None:
            return None
        level = self.level if self.kind == "infonce" else 1
        grades = [max(0, grade or 0) for grade in query.grades]
        if max(grades) < level:
            return None
        if self.kind == "infonce":
            return [float(grade >= level) for grade in grades]
        return [2.0**grade - 1 for grade in grades]


@dataclass(frozen=True, slots=True)
class Objective:
    """A sum of terms, as ``parse_objective`` reads it."""

    terms: tuple[Term, ...]

    def loss(self, scores: torch.Tensor, query: TrainingQuery) -> torch.Tensor | None:
        """Return the sum for one query's scores [documents]; None where no term has a say."""
        parts = [part for term in self.terms if (part := term.loss(scores, query)) is not None]
        return sum(parts[1:], parts[0]) if parts else None


def parse_objective(text: str) -> Objective:
    """Read ``[FACTOR*]NAME[(TEACHER][, TAU)] + …``; infonce and graded have no teacher.

    Raises UsageError for anything else.
    """
    return Objective(tuple(_term(part.strip(), text) for part in text.split("+")))


def _term(part: str, text: str) -> Term:
    match = _TERM.fullmatch(part)
    names = ", ".join(_LOSSES)
    if match is None or match[2] not in _LOSSES:
        raise UsageError(
            f"objective {text!r}: {part!r} is no loss; expected {names}, as in "
            "'graded + 0.5*kl(minilm-l6, 0.05)'"
        )
    kind: Kind = match[2]  # type: ignore[assignment]
    taught = kind in ("kl", "margin-mse")
    given = [value.strip() for value in match[3].split(",")] if match[3] else []
    teacher = given.pop(0) if taught and given else None
    if taught and not teacher:
        raise UsageError(f"objective {text!r}: {kind} needs a teacher, as in '{kind}(minilm-l6)'")
    try:
        factor = float(match[1] or 1)
        tau = float(given.pop(0)) if given else _TAU.get(kind, 1.0)
    except ValueError:
        raise UsageError(f"objective {text!r}: {part!r} has no number where one stands") from None
    if given or not (0 < factor < math.inf and 0 < tau < math.inf):
        raise UsageError(f"objective {text!r}: {part!r} needs one positive τ and factor")
    return Term(kind, factor, teacher, tau)


def _infonce(scores: torch.Tensor, relevant: torch.Tensor, tau: float) -> torch.Tensor:
    scaled = scores / tau
    return scaled.logsumexp(0) - scaled[relevant > 0].logsumexp(0)


def _graded(scores: torch.Tensor, gains: torch.Tensor, tau: float) -> torch.Tensor:
    return -(gains / gains.sum() * (scores / tau).log_softmax(0)).sum()


def _kl(scores: torch.Tensor, taught: torch.Tensor, tau: float) -> torch.Tensor:
    import torch

    target = (taught / tau).softmax(0)
    return (torch.special.xlogy(target, target) - target * scores.log_softmax(0)).sum()


def _margin_mse(scores: torch.Tensor, taught: torch.Tensor, tau: float) -> torch.Tensor:
    # Over pairs d < e of n documents, Σ (x_d − x_e)² = n Σ (x − mean)².
    if len(scores) < 2:
        raise InvalidInputError("margins need two documents")
    error = scores - taught / tau
    return 2 * ((error - error.mean()) ** 2).sum() / (len(error) - 1)


_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "infonce": _infonce,
    "graded": _graded,
    "kl": _kl,
    "margin-mse": _margin_mse,
}
