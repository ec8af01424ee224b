from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ranklens.data.errors import InvalidInputError
from ranklens.eval.agree.rankings import rank_agreement, tau_ap


def scores(values: list[float]) -> dict[str, float]:
    return {f"s{n:02}": value for n, value in enumerate(values)}


def test_tau_ap_weighs_the_top_and_is_not_symmetric() -> None:
    assert tau_ap("abc", "bca") == 0
    assert tau_ap("bca", "abc") == -0.5
    assert tau_ap("abc", "abc") == 1
    assert tau_ap("abc", "cba") == -1
    assert tau_ap("a", "a") is None
    # A swap at the top costs more than the same swap at the end.
    at_top, at_end = tau_ap("abcdef", "bacdef"), tau_ap("abcdef", "abcdfe")
    assert at_top == pytest.approx(0.6)
    assert at_end == pytest.approx(1 - 2 / 5 * (1 / 5))


def test_perfect_agreement() -> None:
    values = scores([0.3, 0.9, 0.5, 0.1, 0.7, 0.2, 0.4])
    found = rank_agreement(values, values)
    assert (found.tau, found.tau_ap, found.rbo, found.rho) == pytest.approx((1, 1, 1, 1))
    [top] = found.top
    assert (top.k, top.drop) == (5, 0)
    assert top.tau == pytest.approx(1)
    assert (found.same_winner, found.bias, found.rmse) == (True, 0, 0)


def test_figures_against_loops_and_scipy() -> None:
    generator = np.random.default_rng(5)
    gold = generator.random(30)
    judge = gold + generator.normal(0, 0.2, 30)
    found = rank_agreement(scores(gold.tolist()), scores(judge.tolist()))
    assert found.tau == pytest.approx(stats.kendalltau(gold, judge).statistic)
    assert found.rho == pytest.approx(stats.spearmanr(gold, judge).statistic)
    by_gold = np.argsort(-gold)
    by_judge = np.argsort(-judge).tolist()
    rbo, p = 0.0, 0.9
    for depth in range(1, 31):
        overlap = len(set(by_gold[:depth].tolist()) & set(by_judge[:depth])) / depth
        rbo += (1 - p) * p ** (depth - 1) * overlap
    assert found.rbo == pytest.approx(rbo + p**30)
    assert [top.k for top in found.top] == [5, 10, 20]
    for top in found.top:
        kept = by_gold[: top.k]
        assert top.tau == pytest.approx(stats.kendalltau(gold[kept], judge[kept]).statistic)
        falls = [by_judge.index(system) - rank for rank, system in enumerate(kept)]
        assert top.drop == max(falls)
        assert top.dropped == f"s{kept[int(np.argmax(falls))]:02}"
    assert found.bias == pytest.approx((judge - gold).mean())
    assert found.rmse == pytest.approx(math.sqrt(((judge - gold) ** 2).mean()))
    assert found.same_winner == (by_gold[0] == by_judge[0])
    assert (found.gold_ties, found.judge_ties) == (0, 0)


def test_ties_are_counted_and_broken_by_name() -> None:
    found = rank_agreement(scores([0.5, 0.5, 0.5, 0.1]), scores([0.2, 0.4, 0.3, 0.3]))
    assert (found.gold_ties, found.judge_ties) == (3, 1)
    expected = stats.kendalltau([0.5, 0.5, 0.5, 0.1], [0.2, 0.4, 0.3, 0.3]).statistic
    assert found.tau == pytest.approx(expected)
    assert (found.gold_winner, found.judge_winner) == ("s00", "s01")
    # By gold s00 s01 s02 s03, by judge s01 s02 s03 s00.
    assert found.tau_ap == pytest.approx(2 / 3 * (1 + 1 + 0) - 1)


def test_scores_that_are_all_equal_have_no_correlation() -> None:
    found = rank_agreement(scores([0.5, 0.5]), scores([0.1, 0.2]))
    assert (found.tau, found.rho) == (None, None)
    assert found.top == ()


def test_the_same_systems_two_or_more() -> None:
    with pytest.raises(InvalidInputError, match="two systems or more, got 1"):
        rank_agreement({"a": 1.0}, {"a": 1.0})
    with pytest.raises(InvalidInputError, match="not of the same systems"):
        rank_agreement({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0})
