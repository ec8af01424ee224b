"""Grades of short answers, and correlation with them."""

from __future__ import annotations

import numpy as np
import pytest

from ranklens.data.errors import InvalidInputError
from ranklens.eval.udcg.answers import grade, normalised
from ranklens.eval.udcg.correlation import correlation, spearman


@pytest.mark.parametrize(
    ("answer", "golds", "exact_match", "f1"),
    [
        ("The  Eiffel Tower!", ["eiffel tower"], 1.0, 1.0),
        ("Eiffel", ["the Eiffel Tower"], 0.0, 2 / 3),
        ("in Paris, France", ["Paris"], 0.0, 0.5),
        ("Hall", ["G. Stanley Hall", "Hall"], 1.0, 1.0),
        ("stanley stanley", ["G. Stanley Hall"], 0.0, 0.4),
        ("London", ["Paris"], 0.0, 0.0),
        # Nothing is left of the gold answer: only nothing equals it.
        ("The", ["A"], 1.0, 1.0),
        ("words", ["the"], 0.0, 0.0),
    ],
)
def test_grades(answer: str, golds: list[str], exact_match: float, f1: float) -> None:
    found = grade(answer, golds)
    assert (found.exact_match, found.abstained) == (exact_match, False)
    assert found.f1 == pytest.approx(f1)


def test_normalisation_takes_articles_as_words_only() -> None:
    assert normalised("An  Anthem: the\tThe-atre, a.k.a. A") == "anthem theatre aka"


@pytest.mark.parametrize(
    "answer", ["NO-RESPONSE", "no-response.", '"No response"', "Sorry: NO_RESPONSE", "", " \n"]
)
def test_abstention_has_no_figures(answer: str) -> None:
    found = grade(answer, ["no response"])
    assert (found.exact_match, found.f1, found.abstained) == (0.0, 0.0, True)


@pytest.mark.parametrize("answer", ["no", "No responses were given", "Norse ponse"])
def test_an_answer_that_begins_alike_is_no_abstention(answer: str) -> None:
    assert not grade(answer, ["no"]).abstained


def test_a_question_without_gold_answers_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no gold answer"):
        grade("x", [])


def test_spearman_is_scipys_with_ties() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for size in (2, 5, 60):
        a, b = generator.integers(0, 6, size) * 1.0, generator.normal(size=size)
        a[0], a[1] = 7.0, 8.0
        found = spearman(a.tolist(), b.tolist())
        assert found == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


@pytest.mark.parametrize("side", [[], [1.0], [2.0, 2.0, 2.0]])
def test_a_constant_side_has_no_correlation(side: list[float]) -> None:
    other = [float(i) for i in range(len(side))]
    assert spearman(side, other) is None
    assert spearman(other, side) is None
    found = correlation(side, other)
    assert (found.rho, found.ci95, found.questions) == (None, None, len(side))


def test_the_interval_is_that_of_resampled_questions() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(1)
    a = generator.normal(size=50)
    b = (a + 1.5 * generator.normal(size=50) > 0.5).astype(float)
    found = correlation(a.tolist(), b.tolist())
    assert found.rho is not None
    assert found.ci95 is not None
    oracle = stats.bootstrap(
        (a, b),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.ci95 == pytest.approx((oracle.low, oracle.high), abs=0.04)
    assert found == correlation(a.tolist(), b.tolist())


def test_resamples_without_a_correlation_are_left_out() -> None:
    # Of the resamples, a third lack the only question that was answered.
    found = correlation([float(i) for i in range(20)], [0.0] * 19 + [1.0])
    assert found.ci95 is not None
    assert 0 < found.ci95[0] <= found.ci95[1] <= 1


def test_sides_of_two_lengths_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="2 values cannot be correlated with 3"):
        spearman([1, 2], [1, 2, 3])
