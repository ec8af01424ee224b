"""Learned UDCG: the optimum is the one of an independent solver, and known weights come back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.eval.udcg.learned import (
    HeldOut,
    LearnedUdcg,
    cross_validated,
    features,
    fit_learned,
    fit_weights,
    loss_and_gradient,
    read_learned,
    write_learned,
)
from ranklens.eval.udcg.utility import PassageUtility

ALPHA, BETA = (3.0, 1.5, 0.5), (2.0, 1.0, 0.2)
FIT = LearnedUdcg("m", ALPHA, BETA, 1.0, "f1", "sha256:0", 9, HeldOut(3, None, 0.5, 0.25, 0.7, 0.6))


def simulated(questions: int, seed: int = 0) -> tuple[list[list[PassageUtility]], Any]:
    generator = np.random.default_rng(seed)
    lists = [
        [PassageUtility(float(generator.random()), bool(generator.random() < 0.5)) for _ in ALPHA]
        for _ in range(questions)
    ]
    logits = features(lists, len(ALPHA)) @ np.array((*ALPHA, *BETA))
    return lists, 1 / (1 + np.exp(-logits))


def test_features_hold_gains_then_losses_by_position() -> None:
    lists = [
        [PassageUtility(0.25, relevant=True), PassageUtility(0.5, relevant=False)],
        [PassageUtility(None, relevant=True)],
        [PassageUtility(0.0, relevant=True)] * 5,
    ]
    assert features(lists, 3).tolist() == [
        [0.75, 0, 0, 0, -0.5, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
    ]


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    lists, accuracy = simulated(40)
    matrix = features(lists, 3)
    generator = np.random.default_rng(1)
    for _ in range(3):
        theta = generator.normal(size=6)
        _, gradient = loss_and_gradient(theta, matrix, accuracy, 0.7)
        for i in range(6):
            step = np.zeros(6)
            step[i] = 1e-5
            up, down = (
                loss_and_gradient(theta + sign * step, matrix, accuracy, 0.7)[0] for sign in (1, -1)
            )
            assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("l2", [0.05, 1.0, 20.0])
def test_the_weights_are_those_of_scikit_learn(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    lists, probability = simulated(150)
    labels = (np.random.default_rng(2).random(150) < probability).astype(int)
    matrix = features(lists, 3)
    oracle = linear_model.LogisticRegression(
        C=1 / l2, fit_intercept=False, tol=1e-10, max_iter=10_000
    ).fit(matrix, labels)
    found = fit_weights(matrix, labels.astype(float), l2)
    assert found == pytest.approx(oracle.coef_[0], abs=1e-5)


def test_known_weights_come_back() -> None:
    lists, accuracy = simulated(400)
    # Accuracies without noise: with hardly any penalty the weights are those that made them.
    assert fit_weights(features(lists, 3), accuracy, 1e-6) == pytest.approx(
        np.array((*ALPHA, *BETA)), abs=1e-3
    )
    # Answers that are right or wrong: near them, as far as 4,000 questions tell.
    lists, accuracy = simulated(4000)
    labels = (np.random.default_rng(4).random(4000) < accuracy).astype(float)
    assert fit_weights(features(lists, 3), labels) == pytest.approx(
        np.array((*ALPHA, *BETA)), abs=0.5
    )


def test_a_question_is_predicted_without_being_seen() -> None:
    lists, accuracy = simulated(30)
    matrix = features(lists, 3)
    before, constant = cross_validated(matrix, accuracy, 1.0, 5)
    changed = accuracy.copy()
    changed[7] = 1 - changed[7]
    after, _ = cross_validated(matrix, changed, 1.0, 5)
    # Only the fold of question 7 has the predictions it had: its weights saw none of its own.
    same = np.flatnonzero(before == after)
    assert 7 in same
    assert len(same) == 6
    assert len(set(constant.tolist())) == 5


def test_a_fit_beats_the_practical_metric_where_positions_matter() -> None:
    lists, accuracy = simulated(300)
    fitted = fit_learned(lists, accuracy.tolist(), 3, model="m", target="f1", data="sha256:0")
    held_out = fitted.held_out
    assert held_out.spearman is not None
    assert held_out.practical_spearman is not None
    assert held_out.spearman > held_out.practical_spearman > 0.5
    assert held_out.log_loss < held_out.constant_log_loss
    assert held_out.log_loss < held_out.practical_log_loss
    assert (fitted.k, fitted.examples, held_out.folds) == (3, 300, 5)
    again = fit_learned(lists, accuracy.tolist(), 3, model="m", target="f1", data="sha256:0")
    assert again == fitted


def test_a_value_is_the_formula() -> None:
    listed = [PassageUtility(0.25, relevant=True), PassageUtility(0.5, relevant=False)]
    logit = 3.0 * 0.75 + 1.0 * -0.5
    assert FIT.value(listed) == pytest.approx(1 / (1 + np.exp(-logit)))
    assert FIT.value(listed, depth=3) == FIT.value([*listed, PassageUtility(None, None)])
    with pytest.raises(UsageError, match="fitted for k = 3 and cannot judge depth 5"):
        FIT.value(listed, depth=5)


def test_another_reader_is_warned_of() -> None:
    assert FIT.warnings("m") == ()
    [warning] = FIT.warnings("other")
    assert "fitted with m, not other" in warning


def test_weights_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "fit.json"
    write_learned(FIT, path)
    assert read_learned(path) == FIT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "profile"}, "no weights of a learned UDCG"),
        ({"format": 2}, "in format 1"),
        ({"k": 4}, "'k' is 4, but there are 3 weights"),
        ({"gamma": 0.3}, "the key 'gamma' is unknown"),
        ({"alpha": [1, "x", 2]}, "'alpha' is of another kind"),
        ({"alpha": [1, 2]}, "as many weights alpha as beta"),
        ({"l2": None}, "'l2' is of another kind"),
        ({"held_out": {}}, "the key 'folds' is missing"),
    ],
)
def test_a_file_that_was_changed_is_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "fit.json"
    write_learned(FIT, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInputError, match=message):
        read_learned(path)


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="not finite"):
        replace(FIT, alpha=(1.0, float("nan"), 0.0))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k": 0}, UsageError, "k must be at least 1"),
        ({"l2": 0.0}, UsageError, "l2 must be positive"),
        ({"folds": 11}, InvalidInputError, "10 questions cannot be held out in 11 folds"),
        ({"accuracy": [0.0] * 10}, InvalidInputError, "every question has the accuracy 0"),
        ({"accuracy": [2.0] + [0.0] * 9}, InvalidInputError, r"outside \[0, 1\]"),
    ],
)
def test_what_cannot_be_fitted_is_said(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    lists, accuracy = simulated(10)
    arguments: dict[str, Any] = {
        "accuracy": accuracy.tolist(), "k": 3, "model": "m", "target": "f1", "data": "",
    }  # fmt: skip
    with pytest.raises(error, match=message):
        fit_learned(lists, **(arguments | changes))
