"""What training minimises: losses over one query's scores s of a list's documents.

    infonce     −log( Σ_{d relevant} e^{s_d/τ} / Σ_d e^{s_d/τ} )        BlockRank's L_aux, τ 0.05
    graded      −Σ_d y_d log softmax(s/τ)_d,   y ∝ 2^grade − 1           list-wise cross-entropy
    kl          KL( softmax(t/τ) ‖ softmax(s) )                          a teacher's scores t
    margin-mse  mean_{d<e} ( (s_d − s_e) − (t_d − t_e)/τ )²              the same, by pairs
    next-token  −mean_k log p(answer_k)                                  BlockRank's L_NTP

Documents that nobody judged count as grade 0. An objective is a sum of terms,
``graded + 0.5*kl(minilm-l6, 0.05)``; what a query cannot tell (no judgement, no relevant document,
a teacher that did not score it, a list of one document) has no part in its loss. BlockRank's own
(arXiv 2510.05396) is ``next-token + 0.1*infonce``.

Each loss of scores is the same for s + c. That of kl divides the teacher's scores alone by τ, since
the student's scale is learned. Margin-MSE (arXiv 2010.02666) is the mean squared error between a
student's and a teacher's margin over triples of a query, a relevant and a non-relevant document;
here over all pairs of a list, since teachers are asked where nobody judged. It is a mean there, as
here, so that a longer list does not weigh more.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.training.lists import TrainingQuery

Kind = Literal["infonce", "graded", "kl", "margin-mse", "next-token"]
_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TERM = re.compile(
    rf"\s*(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<name>[a-z-]+)\s*(?:\((?P<given>[^()]*)\))?\s*"
)
_TAUGHT = ("kl", "margin-mse")
_SHARP = 0.05
"""τ of BlockRank's L_aux, and of teachers whose scores are cosines."""
_TAU = {"infonce": _SHARP, "kl": _SHARP, "margin-mse": _SHARP}
_MOST_GRADES = 1000
"""2 to the power of more than 1,023 is no number."""


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

    def loss(
        self, scores: torch.Tensor, query: TrainingQuery, answer: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return the factor times the loss of scores [documents]; None where it has no say.

        ``answer``: the loss of ``next-token``, which is not one of scores. Raises
        InvalidInputError for a teacher's scores that are not finite.
        """
        if self.kind == "next-token":
            return None if answer is None else self.factor * answer
        target = self._target(query) if len(scores) > 1 else None
        if target is None:
            return None
        import torch

        known = torch.tensor(target, dtype=scores.dtype, device=scores.device)
        return self.factor * _LOSSES[self.kind](scores, known, self.tau)

    def _target(self, query: TrainingQuery) -> Sequence[float] | None:
        if self.teacher is not None:
            return self._taught(query, self.teacher)
        if query.grades is None:
            return None
        level = self.level if self.kind == "infonce" else 1
        grades = [max(0, grade or 0) for grade in query.grades]
        highest = max(grades)
        if highest < level:
            return None
        if self.kind == "infonce":
            return [float(grade >= level) for grade in grades]
        # Relative to the highest, or 2^grade could exceed any number.
        none = 2.0 ** max(-_MOST_GRADES, -highest)
        return [2.0 ** max(-_MOST_GRADES, grade - highest) - none for grade in grades]

    def _taught(self, query: TrainingQuery, teacher: str) -> Sequence[float] | None:
        taught = query.teachers.get(teacher)
        if taught is not None and not all(map(math.isfinite, taught)):
            wrong = next(place for place, score in enumerate(taught) if not math.isfinite(score))
            raise InvalidInputError(
                f"query {query.id!r}: teacher {teacher!r} gives document {wrong} (counted from 0) "
                f"the score {taught[wrong]}; scores must be finite"
            )
        return taught


@dataclass(frozen=True, slots=True)
class Objective:
    """A sum of terms, as ``parse_objective`` reads it."""

    terms: tuple[Term, ...]

    @property
    def asks_for_answers(self) -> bool:
        """Whether the model is to write answers, which takes all its layers."""
        return any(term.kind == "next-token" for term in self.terms)

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of the teachers, sorted, each once."""
        return tuple(sorted({term.teacher for term in self.terms if term.teacher is not None}))

    def loss(
        self, scores: torch.Tensor, query: TrainingQuery, answer: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Return the sum for one query's scores [documents]; None where no term has a say.

        ``answer`` is the mean −log p of the answer's tokens, where one was asked for. Raises
        InvalidInputError for a teacher's scores that are not finite.
        """
        parts = [
            part for term in self.terms if (part := term.loss(scores, query, answer)) is not None
        ]
        return sum(parts[1:], parts[0]) if parts else None


def parse_objective(text: str) -> Objective:
    """Read ``[FACTOR*]NAME[(TEACHER][, TAU)] + …``; only kl and margin-mse have a teacher.

    Raises UsageError for anything else, and for a term that stands there twice.
    """
    terms = []
    place = 0
    while True:
        match = _TERM.match(text, place)
        if match is None or (match.end() < len(text) and text[match.end()] != "+"):
            raise _unknown(text, _shown(text, place))
        terms.append(_term(match, text))
        if match.end() == len(text):
            break
        place = match.end() + 1
    ((term, times),) = Counter((t.kind, t.teacher, t.tau) for t in terms).most_common(1)
    if times > 1:
        raise UsageError(
            f"objective {text!r} has {term[0]} {times} times; give it a factor instead, "
            f"as in '{times}*{term[0]}'"
        )
    return Objective(tuple(terms))


def _term(match: re.Match[str], text: str) -> Term:
    part = match[0].strip()
    kind = _KINDS.get(match["name"])
    if kind is None:
        raise _unknown(text, part)
    given = [value.strip() for value in match["given"].split(",")] if match["given"] else []
    if kind == "next-token" and match["given"] is not None:
        raise UsageError(f"objective {text!r}: next-token takes nothing in parentheses")
    teacher = given.pop(0) if kind in _TAUGHT and given else None
    if kind in _TAUGHT and not teacher:
        raise UsageError(f"objective {text!r}: {kind} needs a teacher, as in '{kind}(minilm-l6)'")
    try:
        factor = float(match["factor"] or 1)
        tau = float(given.pop(0)) if given else _TAU.get(kind, 1.0)
    except ValueError:
        raise UsageError(f"objective {text!r}: {part!r} has no number where one stands") from None
    if given or not (0 < factor < math.inf and 0 < tau < math.inf):
        raise UsageError(f"objective {text!r}: {part!r} needs one positive τ and factor")
    return Term(kind, factor, teacher, tau)


def _unknown(text: str, part: str) -> UsageError:
    return UsageError(
        f"objective {text!r}: {part!r} is no loss; expected {', '.join(_KINDS)}, as in "
        "'graded + 0.5*kl(minilm-l6, 0.05)'"
    )


def _shown(text: str, place: int) -> str:
    """Return what stands at a place up to the next plus behind it."""
    end = text.find("+", place)
    return text[place:end].strip() if end >= 0 else text[place:].strip()


def _infonce(scores: torch.Tensor, relevant: torch.Tensor, tau: float) -> torch.Tensor:
    scaled = scores / tau
    return scaled.logsumexp(0) - scaled[relevant > 0].logsumexp(0)


def _graded(scores: torch.Tensor, gains: torch.Tensor, tau: float) -> torch.Tensor:
    return -(gains / gains.sum() * (scores / tau).log_softmax(0)).sum()


def _kl(scores: torch.Tensor, taught: torch.Tensor, tau: float) -> torch.Tensor:
    import torch

    target = (taught / tau).softmax(0)
    found: torch.Tensor = torch.special.xlogy(target, target) - target * scores.log_softmax(0)
    return found.sum()


def _margin_mse(scores: torch.Tensor, taught: torch.Tensor, tau: float) -> torch.Tensor:
    # Over pairs d < e of n documents, Σ (x_d − x_e)² = n Σ (x − mean)², and there are n(n − 1)/2.
    error = scores - taught / tau
    total: torch.Tensor = (error - error.mean()).square().sum()
    return total / ((len(error) - 1) / 2)


_LOSSES: dict[Kind, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "infonce": _infonce,
    "graded": _graded,
    "kl": _kl,
    "margin-mse": _margin_mse,
}
_KINDS: dict[str, Kind] = {kind: kind for kind in (*_LOSSES, "next-token")}
