"""UDCG_θ: weights for each position, fitted to how well a reader answers.

    UDCG_θ = σ( Σ_{i=1..k} α_i · u⁺_i  +  Σ_{i=1..k} β_i · u⁻_i )        θ = (α, β), 2k numbers

(arXiv 2510.21440.) There is no other discount and no ideal list: α and β are the discount. θ
belongs to one reader and one k. It is the logistic regression, without an intercept, of answer
accuracy on the 2k utilities: it minimises

    −Σ_q [ y_q · log p_q + (1 − y_q) · log(1 − p_q) ]  +  (l2 / 2) · |θ|²

for accuracies y in [0, 1]. Positions beyond a list's end, and passages with something missing,
have no utility.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.files import read_text, write_json
from ranklens.eval.udcg.utility import PassageUtility

Vector = NDArray[np.float64]

FORMAT = 1
L2 = 1.0
_KIND = "udcg-learned"
_GRADIENT = 1e-8


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures on questions that the weights did not see, in ``folds`` folds.

    Spearman's correlation with accuracy (None where one of the two is constant) and mean
    log-loss, for the learned metric, for the practical one on the same questions, and the
    log-loss of always predicting the mean accuracy of the other folds.
    """

    folds: int
    spearman: float | None
    log_loss: float
    practical_spearman: float | None
    practical_log_loss: float
    constant_log_loss: float


@dataclass(frozen=True, slots=True)
class LearnedUdcg:
    """Fitted weights, and what they were fitted on.

    ``alpha`` and ``beta`` have k weights each. ``data`` is the checksum of the file they come
    from, ``target`` the accuracy in it. Raises InvalidInputError for weights that are not of
    one length, or not finite.
    """

    model: str
    alpha: tuple[float, ...]
    beta: tuple[float, ...]
    l2: float
    target: str
    data: str
    examples: int
    held_out: HeldOut

    def __post_init__(self) -> None:
        if not self.alpha or len(self.alpha) != len(self.beta):
            raise InvalidInputError(
                "a learned UDCG has as many weights alpha as beta, at least 1; got "
                f"{len(self.alpha)} and {len(self.beta)}"
            )
        if not all(map(math.isfinite, (*self.alpha, *self.beta))):
            raise InvalidInputError("a learned UDCG has a weight that is not finite")

    @property
    def k(self) -> int:
        """The number of positions: the only depth these weights can judge."""
        return len(self.alpha)

    def value(self, passages: Sequence[PassageUtility], depth: int | None = None) -> float:
        """Return UDCG_θ of the first k passages; UsageError for a depth other than k."""
        if depth is not None and depth != self.k:
            raise UsageError(
                f"this learned UDCG was fitted for k = {self.k} and cannot judge depth {depth}; "
                "fit one for that depth"
            )
        [logit] = features([passages], self.k) @ np.array((*self.alpha, *self.beta))
        return float(_sigmoid(np.array([logit]))[0])

    def warnings(self, model: str) -> tuple[str, ...]:
        """Return what to tell somebody who uses the weights with p_abs of ``model``."""
        if model == self.model:
            return ()
        return (
            f"the learned UDCG was fitted with {self.model}, not {model}: its weights are "
            "specific to the reader",
        )


def features(lists: Sequence[Sequence[PassageUtility]], k: int) -> Vector:
    """Return the matrix [questions, 2k] of u⁺ at positions 1 to k, then u⁻ at 1 to k."""
    matrix = np.zeros((len(lists), 2 * k))
    for row, passages in enumerate(lists):
        for position, passage in enumerate(passages[:k]):
            matrix[row, position] = passage.gain
            matrix[row, k + position] = passage.loss
    return matrix


def loss_and_gradient(
    theta: Vector, matrix: Vector, accuracy: Vector, l2: float
) -> tuple[float, Vector]:
    """Return the penalised loss of the module's formula and its gradient by θ."""
    logits = matrix @ theta
    # −y log σ(z) − (1 − y) log(1 − σ(z)), in the form that does not overflow.
    loss = np.sum(np.logaddexp(0, logits) - accuracy * logits) + l2 / 2 * theta @ theta
    return float(loss), matrix.T @ (_sigmoid(logits) - accuracy) + l2 * theta


def fit_weights(matrix: Vector, accuracy: Vector, l2: float = L2) -> Vector:
    """Return the θ of least penalised loss, [2k]; NumericalError where it is not found.

    The loss is strictly convex for l2 > 0, so there is one.
    """
    from scipy.optimize import minimize

    def hessian(theta: Vector, *_: object) -> Vector:
        p = _sigmoid(matrix @ theta)
        return (matrix.T * (p * (1 - p))) @ matrix + l2 * np.eye(len(theta))

    found = minimize(
        loss_and_gradient,
        np.zeros(matrix.shape[1]),
        args=(matrix, accuracy, l2),
        jac=True,
        hess=hessian,
        method="trust-exact",
        options={"gtol": _GRADIENT},
    )
    gradient = loss_and_gradient(found.x, matrix, accuracy, l2)[1]
    # Near the end rounding keeps the loss from falling before the gradient is that small.
    if not np.abs(gradient).max() <= 1e-5 * max(1, len(accuracy)):
        raise NumericalError(f"the fit of a learned UDCG did not settle: {found.message}")
    return np.asarray(found.x, dtype=np.float64)


def cross_validated(
    matrix: Vector, accuracy: Vector, l2: float, folds: int
) -> tuple[Vector, Vector]:
    """Return the held-out predictions and the mean accuracy of the other folds, [questions] each.

    Questions are dealt into folds at random with a fixed seed: the same file has the same folds.
    """
    dealt = np.random.default_rng(0).permutation(len(accuracy)) % folds
    predicted, constant = np.empty(len(accuracy)), np.empty(len(accuracy))
    for fold in range(folds):
        out = dealt == fold
        theta = fit_weights(matrix[~out], accuracy[~out], l2)
        predicted[out] = _sigmoid(matrix[out] @ theta)
        constant[out] = accuracy[~out].mean()
    return predicted, constant


def fit_learned(
    lists: Sequence[Sequence[PassageUtility]],
    accuracy: Sequence[float],
    k: int,
    *,
    model: str,
    target: str,
    data: str,
    l2: float = L2,
    folds: int = 5,
) -> LearnedUdcg:
    """Fit UDCG_θ on questions with the accuracy of the reader's answers, and check it.

    ``lists`` and ``accuracy`` (in [0, 1]) are by question. Raises UsageError for k below 1 and
    an l2 that is not positive, InvalidInputError for fewer questions than folds, an accuracy
    outside [0, 1], and accuracies that are all the same.
    """
    from ranklens.eval.udcg.correlation import spearman
    from ranklens.eval.udcg.practical import practical_udcg

    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if not (l2 > 0 and math.isfinite(l2)):
        raise UsageError(f"l2 must be positive, got {l2}: without it weights may not be unique")
    y = np.array(accuracy, dtype=np.float64)
    if not 2 <= folds <= len(y):
        raise InvalidInputError(
            f"{len(y)} questions cannot be held out in {folds} folds; take more questions"
        )
    if not np.all((y >= 0) & (y <= 1)):
        raise InvalidInputError("an accuracy lies outside [0, 1]")
    if np.all(y == y[0]):
        raise InvalidInputError(
            f"every question has the accuracy {y[0]:g}: there is nothing to fit; take a target "
            "that varies (f1 for exact_match), other questions or another reader"
        )
    matrix = features(lists, k)
    predicted, constant = cross_validated(matrix, y, l2, folds)
    practical = np.array([practical_udcg(passages, depth=k).value for passages in lists])
    theta = fit_weights(matrix, y, l2).tolist()
    return LearnedUdcg(
        model=model,
        alpha=tuple(theta[:k]),
        beta=tuple(theta[k:]),
        l2=l2,
        target=target,
        data=data,
        examples=len(y),
        held_out=HeldOut(
            folds=folds,
            spearman=spearman(predicted.tolist(), y.tolist()),
            log_loss=log_loss(predicted, y),
            practical_spearman=spearman(practical.tolist(), y.tolist()),
            practical_log_loss=log_loss(practical, y),
            constant_log_loss=log_loss(constant, y),
        ),
    )


def log_loss(predicted: Vector, accuracy: Vector) -> float:
    """Return the mean of −y log p − (1 − y) log(1 − p); probabilities are kept off 0 and 1."""
    p = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean(accuracy * np.log(p) + (1 - accuracy) * np.log1p(-p)))


def write_learned(learned: LearnedUdcg, path: Path) -> None:
    """Write weights and their origin as JSON, whole or not at all."""
    write_json(
        path, {"kind": _KIND, "format": FORMAT, "k": learned.k, **dataclasses.asdict(learned)}
    )


def read_learned(path: Path) -> LearnedUdcg:
    """Read what ``write_learned`` wrote; InvalidInputError names the key that is not as it was."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict) or value.get("kind") != _KIND or value.get("format") != FORMAT:
        raise InvalidInputError(
            f"{path}: no weights of a learned UDCG in format {FORMAT}; `ranklens udcg fit` makes "
            "them"
        )
    del value["kind"], value["format"]
    k = value.pop("k", None)
    values = _checked(path, value, LearnedUdcg)
    values["held_out"] = HeldOut(**_checked(path, values["held_out"], HeldOut))
    for key in ("alpha", "beta"):
        values[key] = tuple(float(weight) for weight in values[key])
    learned = LearnedUdcg(**values)
    if k != learned.k:
        raise InvalidInputError(f"{path}: 'k' is {k!r}, but there are {learned.k} weights alpha")
    return learned


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "tuple[float, ...]": (list,),
    "HeldOut": (dict,),
}


def _checked(path: Path, value: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a dataclass, each of its type; InvalidInputError names the first bad."""
    fields = {field.name: _KINDS[str(field.type)] for field in dataclasses.fields(kind)}
    for name in (*fields, *value):
        if name not in value or name not in fields:
            fault = "is missing" if name not in value else "is unknown"
            raise InvalidInputError(f"{path}: the key {name!r} {fault}")
        found = value[name]
        numbers = found if isinstance(found, list) else ()
        if not isinstance(found, fields[name]) or not all(type(x) in (int, float) for x in numbers):
            raise InvalidInputError(f"{path}: {name!r} is of another kind than expected")
    return dict(value)


def _sigmoid(logits: Vector) -> Vector:
    from scipy.special import expit

    return np.asarray(expit(logits), dtype=np.float64)
