"""Objectives: values by hand, gradients by finite differences, and how they are written."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
import torch

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.rerank.training.lists import TrainingQuery
from ranklens.rerank.training.objectives import Objective, Term, parse_objective

TAUGHT = (0.9, 0.1, 0.4)


def query(
    grades: tuple[int | None, ...] | None = (2, 0, 1), taught: tuple[float, ...] | None = TAUGHT
) -> TrainingQuery:
    return TrainingQuery("q", "text", grades, {} if taught is None else {"t": taught})


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def value(text: str, given: torch.Tensor, asked: TrainingQuery, **answer: Any) -> float:
    loss = parse_objective(text).loss(given, asked, **answer)
    assert loss is not None
    return loss.item()


def test_infonce_is_the_share_of_what_is_relevant() -> None:
    """s/τ = log 3, log 1, log 4, of which the first and the last are relevant: −log(7/8)."""
    given = scores(0.05 * math.log(3), 0.0, 0.05 * math.log(4))
    assert value("infonce", given, query()) == pytest.approx(math.log(8 / 7))
    assert value("infonce(1)", scores(0, 0, 0), query((1, 0, 0))) == pytest.approx(math.log(3))
    highest = Objective((Term("infonce", tau=0.05, level=2),)).loss(given, query())
    assert highest is not None
    assert highest.item() == pytest.approx(math.log(8 / 3))


def test_graded_is_a_cross_entropy_with_gains() -> None:
    """Gains 3, 0, 1 are shares ¾, 0, ¼; softmax is ½, ¼, ¼: ¾ log 2 + ¼ log 4."""
    given = scores(math.log(2), 0.0, 0.0)
    expected = 0.75 * math.log(2) + 0.25 * math.log(4)
    assert value("graded", given, query()) == pytest.approx(expected)
    assert value("graded(2)", 2 * given, query()) == pytest.approx(expected)


def test_kl_is_zero_where_the_teacher_is_met() -> None:
    """Shares ½, ½ taught and ¾, ¼ given: ½ log(⅔) + ½ log 2."""
    taught = query(None, (0.3, 0.3))
    expected = 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert value("kl(t)", scores(math.log(3), 0.0), taught) == pytest.approx(expected)
    met = scores(*(score / 0.05 for score in TAUGHT)) + 7
    assert value("kl(t)", met, query()) == pytest.approx(0.0, abs=1e-12)


def test_margin_mse_is_the_mean_over_pairs() -> None:
    given = scores(1.0, -2.0, 0.5)
    margins = [
        (float(given[d] - given[e]) - (TAUGHT[d] - TAUGHT[e]) / 0.1) ** 2
        for d, e in combinations(range(3), 2)
    ]
    expected = sum(margins) / len(margins)
    assert value("margin-mse(t, 0.1)", given, query()) == pytest.approx(expected)
    assert value("margin-mse(t, 1)", scores(*TAUGHT) - 3, query()) == pytest.approx(0, abs=1e-12)


def test_terms_are_summed_by_their_factors() -> None:
    given = scores(0.2, 0.1, -0.3)
    parts = [value(text, given, query()) for text in ("graded", "kl(t)", "infonce")]
    whole = value("graded + 0.5*kl(t) + 1e+1 * infonce", given, query())
    assert whole == pytest.approx(parts[0] + 0.5 * parts[1] + 10 * parts[2])
    answer = torch.tensor(2.0, dtype=torch.float64)
    found = value("next-token + 0.1*infonce", given, query(), answer=answer)
    assert found == pytest.approx(2 + 0.1 * parts[2])
    assert value("3*next-token + infonce", given, query()) == pytest.approx(parts[2])


@pytest.mark.parametrize("text", ["infonce", "graded", "kl(t)", "margin-mse(t)"])
def test_losses_take_no_notice_of_a_shift_and_have_their_gradients(text: str) -> None:
    objective = parse_objective(text)
    given = scores(0.03, -0.01, 0.02).requires_grad_()

    def loss(values: torch.Tensor) -> torch.Tensor:
        found = objective.loss(values, query())
        assert found is not None
        return found

    assert torch.autograd.gradcheck(loss, [given])
    (slope,) = torch.autograd.grad(loss(given), given)
    assert slope.abs().max() > 1e-3
    assert slope.sum().item() == pytest.approx(0, abs=1e-9)
    assert loss(given + 5).item() == pytest.approx(loss(given).item())


@pytest.mark.parametrize("text", ["infonce", "graded", "kl(t)", "margin-mse(t)"])
@pytest.mark.parametrize("given", [(0, 0, 0), (1e4, -1e4, 0), (1e-30, 0, -1e-30)])
def test_equal_and_distant_scores_have_finite_losses(
    text: str, given: tuple[float, float, float]
) -> None:
    values = torch.tensor(given, dtype=torch.float32).requires_grad_()
    loss = parse_objective(text).loss(values, query())
    assert loss is not None
    (slope,) = torch.autograd.grad(loss, values)
    assert loss.isfinite()
    assert slope.isfinite().all()


def test_grades_of_any_size_are_gains() -> None:
    """2^2000 is no float; of what is so far apart the highest has everything."""
    given = scores(0.0, 0.0, 0.0)
    assert value("graded", given, query((2000, 5, 0))) == pytest.approx(math.log(3))
    assert value("graded", given, query((-3, None, 1))) == pytest.approx(math.log(3))
    loss = parse_objective("graded").loss(scores(0.0, math.log(2), 0.0), query((2000, 1999, 0)))
    assert loss is not None
    assert loss.item() == pytest.approx(math.log(4) - math.log(2) / 3)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("graded + infonce", query(None)),
        ("graded + infonce", query((0, None, 0))),
        ("kl(other) + margin-mse(other)", query()),
        ("next-token", query()),
    ],
)
def test_what_a_query_cannot_tell_has_no_part(text: str, asked: TrainingQuery) -> None:
    assert parse_objective(text).loss(scores(1, 2, 3), asked) is None


@pytest.mark.parametrize("text", ["graded", "infonce", "kl(t)", "margin-mse(t)"])
def test_a_list_of_one_document_has_nothing_to_tell(text: str) -> None:
    assert parse_objective(text).loss(scores(1), query((1,), (0.3,))) is None


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_teachers_that_give_no_number_are_named(wrong: float) -> None:
    asked = query(taught=(0.5, wrong, 0.1))
    with pytest.raises(InvalidInputError, match=r"'q'.*'t'.*document 1 .*finite"):
        parse_objective("graded + kl(t)").loss(scores(1, 2, 3), asked)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("graded", (Term("graded"),)),
        (" 1e+3 * graded( 2 )+kl( a b , 5e-2 ) ", (
            Term("graded", 1000.0, None, 2.0), Term("kl", 1.0, "a b", 0.05))),
        (".5*margin-mse(minilm-l6)", (Term("margin-mse", 0.5, "minilm-l6", 0.05),)),
        ("2.*kl(a+b)", (Term("kl", 2.0, "a+b", 0.05),)),
        ("kl(t)+0.1*kl(t, 1)", (Term("kl", 1.0, "t", 0.05), Term("kl", 0.1, "t", 1.0))),
        ("next-token + 0.1*infonce", (Term("next-token"), Term("infonce", 0.1, None, 0.05))),
    ],
)  # fmt: skip
def test_objectives_are_read(text: str, terms: tuple[Term, ...]) -> None:
    objective = parse_objective(text)
    assert objective.terms == terms
    assert objective.asks_for_answers is ("next-token" in text)


def test_teachers_are_listed_once_in_order() -> None:
    assert parse_objective("kl(b) + kl(a) + margin-mse(b) + graded").teachers == ("a", "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no loss; expected infonce, graded, kl, margin-mse, next-token"),
        ("graded +", "'' is no loss"),
        ("graded ++ infonce", "'' is no loss"),
        ("graded - infonce", "'graded - infonce' is no loss"),
        ("graded + mse", "'mse' is no loss"),
        ("graded + -1*infonce", r"'-1\*infonce' is no loss"),
        ("nan*graded", r"'nan\*graded' is no loss"),
        ("graded infonce", "'graded infonce' is no loss"),
        ("kl(t", "no loss"),
        ("kl", "kl needs a teacher"),
        ("margin-mse()", "margin-mse needs a teacher"),
        ("kl(, 0.1)", "kl needs a teacher"),
        ("kl(t, x)", "no number"),
        ("kl(t, 0.1, 2)", "one positive"),
        ("kl(t, 0)", "one positive"),
        ("graded(nan)", "one positive"),
        ("0*graded", "one positive"),
        ("1e999*graded", "one positive"),
        ("infonce(t)", "no number"),
        ("next-token(0.1)", "nothing in parentheses"),
        ("graded + infonce + graded", r"graded 2 times.*'2\*graded'"),
        ("kl(t) + 3*kl(t, 0.05)", "kl 2 times"),
    ],
)
def test_what_is_no_objective_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_objective(text)
