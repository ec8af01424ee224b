"""Tests, corrections and effect of scores per topic, against scipy, statsmodels and enumeration."""

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.eval.stats.corrections import CORRECTIONS, adjust
from ranklens.eval.stats.tests import (
    TESTS,
    bootstrap,
    differences,
    p_values,
    paired_t,
    randomisation,
    wilcoxon,
)
from ranklens.eval.stats.tukey import randomised_tukey

ALL = {"t": paired_t, "wilcoxon": wilcoxon, "randomisation": randomisation, "bootstrap": bootstrap}


def scores(topics: int, seed: int, shift: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    a = generator.random(topics)
    return a, a + shift + generator.normal(0, 0.2, topics)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topics", [2, 7, 43, 200])
def test_t_and_wilcoxon_are_scipys(topics: int, seed: int) -> None:
    a, b = scores(topics, seed)
    assert paired_t(a, b) == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert paired_t(b, a) == paired_t(a, b)
    method = "exact" if topics <= 50 else "asymptotic"
    expected = scipy.stats.wilcoxon(a, b, method=method).pvalue
    assert wilcoxon(a, b) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_drops_topics_without_a_difference() -> None:
    a, b = scores(20, 3)
    padded = wilcoxon(np.append(a, [0.4] * 9), np.append(b, [0.4] * 9))
    assert padded == wilcoxon(a, b)
    # Nine topics differ, several by the same size: every way to give nine signs is tried.
    rows = np.array([0.1, 0.1, 0.1, 0.2, 0.2, 0.3, -0.1, -0.2, 0.4, 0, 0, 0, 0, 0, 0])
    kept = rows[rows != 0]
    ranks = scipy.stats.rankdata(np.abs(kept))
    sums = [abs((ranks * signs).sum()) for signs in itertools.product((-1, 1), repeat=9)]
    expected = np.mean([s >= abs((ranks * np.sign(kept)).sum()) for s in sums])
    assert wilcoxon(rows, rows * 0) == pytest.approx(expected, rel=1e-12)
    many = np.resize(kept, 36)
    expected = scipy.stats.wilcoxon(many, method="asymptotic").pvalue
    assert wilcoxon(np.append(many, 0), np.zeros(37)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_randomisation_of_few_topics_is_exact(seed: int) -> None:
    a, b = scores(9, seed, shift=0.15)

    def mean(x: Any, y: Any, axis: int) -> Any:
        return np.mean(x - y, axis=axis)

    exact = scipy.stats.permutation_test(
        (a, b), mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert randomisation(a, b) == pytest.approx(exact.pvalue, rel=1e-12)
    # With fewer permutations than the 512 ways, chance decides: four standard errors.
    p = exact.pvalue
    assert randomisation(a, b, permutations=511) == pytest.approx(
        p, abs=4 * np.sqrt(p * (1 - p) / 511) + 1 / 512
    )


def test_randomisation_by_chance_is_near_the_t_test_and_never_zero() -> None:
    a, b = scores(60, 1, shift=0.06)
    p = paired_t(a, b)
    assert 0.01 < p < 0.2
    error = 4 * np.sqrt(p / 10_000) + 0.01
    assert randomisation(a, b) == pytest.approx(p, abs=error)
    assert bootstrap(a, b) == pytest.approx(p, abs=error)
    assert randomisation(a, a + 1) == 1 / 10_001
    assert bootstrap(a, a + np.linspace(1, 2, 60)) == 1 / 10_001
    assert randomisation(a, b, seed=1) != randomisation(a, b, seed=2)
    assert randomisation(a, b, seed=1) == randomisation(b, a, seed=1)


def test_the_bootstrap_of_three_topics_by_enumeration() -> None:
    row = np.array([0.1, 0.5, 0.9])
    means = [np.mean(draw) for draw in itertools.product(row - row.mean(), repeat=3)]
    exact = np.mean([abs(mean) >= row.mean() - 1e-12 for mean in means])
    assert exact == 0
    row = np.array([-0.1, 0.2, 0.5])
    means = [np.mean(draw) for draw in itertools.product(row - row.mean(), repeat=3)]
    exact = np.mean([abs(mean) >= row.mean() - 1e-12 for mean in means])
    assert 0.2 < exact < 0.4
    error = 4 * np.sqrt(exact * (1 - exact) / 10_000)
    assert bootstrap(row, np.zeros(3)) == pytest.approx(exact, abs=error)


@pytest.mark.parametrize("name", TESTS)
def test_no_difference_and_one_topic_show_nothing(name: str) -> None:
    a = np.array([0.1, 0.2, 0.7])
    assert ALL[name](a, a) == 1
    # 0.3 - 0.2 is not 0.1 in binary: no difference, all the same.
    assert ALL[name](np.array([0.3 - 0.2, 0.7]), np.array([0.1, 0.7])) == 1
    assert ALL[name]([0.1], [0.9]) == 1


def test_differences_that_are_all_the_same() -> None:
    a = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert paired_t(a, a + 0.1) == 0
    # All six signs alike: 2 of the 64 ways.
    assert wilcoxon(a, a + 0.1) == randomisation(a, a + 0.1) == 2 / 64
    assert bootstrap(a, a + 0.1) == 1 / 10_001


@pytest.mark.parametrize("name", TESTS)
def test_many_pairs_at_once_are_the_pairs_one_by_one(name: str) -> None:
    generator = np.random.default_rng(5)
    table = generator.integers(0, 6, (8, 30)) / 5 * generator.integers(0, 2, (8, 30))
    table[1, 12:] = table[0, 12:]
    table[2] = table[0]
    first, second = np.triu_indices(8, 1)
    together = p_values(name, differences(table[first], table[second]))
    single = [ALL[name](table[i], table[j]) for i, j in zip(first, second, strict=True)]
    assert together == pytest.approx(np.array(single), rel=1e-12)
    assert together[1] == 1


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        ([0.1, 0.2], [0.1], "same topics"),
        ([], [], "at least one topic"),
        ([0.1, float("nan")], [0.1, 0.2], "finite"),
        ([[0.1, 0.2]], [[0.1, 0.3]], "one score a topic"),
    ],
)
def test_scores_that_cannot_be_tested(a: list[float], b: list[float], said: str) -> None:
    for test in ALL.values():
        with pytest.raises(InvalidInputError, match=said):
            test(a, b)
    with pytest.raises(UsageError, match="unknown test 'z'"):
        p_values("z", np.ones((1, 2)))
    with pytest.raises(UsageError, match="at least one sample"):
        randomisation([0.1, 0.2], [0.2, 0.5], permutations=0)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [("bonferroni", "bonferroni"), ("holm", "holm"), ("bh", "fdr_bh"), ("by", "fdr_by")],
)
def test_corrections_are_statsmodels(method: str, theirs: str) -> None:
    generator = np.random.default_rng(2)
    for count in (1, 2, 10, 703):
        # Rounded: ties among them.
        values = np.round(generator.beta(0.4, 2, count), 3)
        expected = multipletests(values, method=theirs)[1]
        assert adjust(values, method) == pytest.approx(expected, abs=1e-12)
    assert adjust([], method).shape == (0,)


def test_corrections_by_hand_and_what_they_refuse() -> None:
    values = [0.04, 0.01, 0.03]
    assert adjust(values, "none").tolist() == values
    assert adjust(values, "bonferroni") == pytest.approx([0.12, 0.03, 0.09])
    assert adjust(values, "holm") == pytest.approx([0.06, 0.03, 0.06])
    assert adjust(values, "bh") == pytest.approx([0.04, 0.03, 0.04])
    with pytest.raises(UsageError, match="unknown correction 'fdr'; they are none, bonferroni"):
        adjust(values, "fdr")
    for method in CORRECTIONS:
        with pytest.raises(InvalidInputError, match=r"lie in \[0, 1\]"):
            adjust([0.1, float("nan")], method)


def test_tukey_of_two_systems_is_the_randomisation_test() -> None:
    a, b = scores(8, 4, shift=0.1)
    row = a - b
    sums = [abs((row * signs).sum()) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean([s >= abs(row.sum()) - 1e-12 for s in sums])
    assert 0.05 < exact < 0.6
    matrix = randomised_tukey([a, b])
    assert matrix[0, 1] == matrix[1, 0]
    assert np.diag(matrix).tolist() == [1, 1]
    assert matrix[0, 1] == pytest.approx(exact, abs=4 * np.sqrt(exact / 10_000))


def test_tukey_of_three_systems_by_every_order_of_every_topic() -> None:
    table = np.array([[0.9, 0.7, 0.8, 0.4], [0.5, 0.6, 0.5, 0.3], [0.1, 0.6, 0.2, 0.2]])
    ranges = []
    for orders in itertools.product(itertools.permutations(range(3)), repeat=4):
        shuffled = np.stack([table[list(order), q] for q, order in enumerate(orders)])
        ranges.append(np.ptp(shuffled.mean(axis=0)))
    assert len(ranges) == 6**4
    gaps = np.abs(np.subtract.outer(table.mean(axis=1), table.mean(axis=1)))
    exact = np.array([[np.mean(np.array(ranges) >= gap - 1e-12) for gap in row] for row in gaps])
    assert sorted(np.unique(exact))[0] < 0.1
    found = randomised_tukey(table, permutations=20_000, seed=3)
    assert found == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 20_000))


def test_tukey_pairs_the_topics() -> None:
    # Topics differ by far more than the systems: a test of independent groups sees nothing.
    generator = np.random.default_rng(0)
    a = generator.random(50)
    b = a + 0.02 + generator.normal(0, 0.01, 50)
    assert scipy.stats.tukey_hsd(a, b).pvalue[0, 1] > 0.7
    assert randomised_tukey([a, b])[0, 1] == 1 / 10_001
    assert paired_t(a, b) < 1e-15
    assert wilcoxon(a, b) < 1e-10
    assert randomisation(a, b) == bootstrap(a, b) == 1 / 10_001


def test_tukey_at_its_edges() -> None:
    same = randomised_tukey([[0.1, 0.5]] * 3)
    assert same.tolist() == [[1.0] * 3] * 3
    assert randomised_tukey([[0.1], [0.9]]).tolist() == [[1, 1], [1, 1]]
    for table, said in (([[0.1, 0.2]], "two systems"), ([[], []], "two systems")):
        with pytest.raises(InvalidInputError, match=said):
            randomised_tukey(table)
    with pytest.raises(InvalidInputError, match="finite"):
        randomised_tukey([[0.1, float("nan")], [0.2, 0.3]])
    with pytest.raises(UsageError, match="at least one sample"):
        randomised_tukey([[0.1, 0.2], [0.2, 0.3]], permutations=0)


def test_where_nothing_differs_few_families_have_a_false_finding() -> None:
    # 300 families of six systems without any difference, at the level 5%. With that rate, more
    # than 26 families (8.7%) have a finding in less than 1 of 200 repetitions of this test.
    generator = np.random.default_rng(11)
    first, second = np.triu_indices(6, 1)
    found = {"none": 0, "holm": 0, "tukey": 0}
    for family in range(300):
        topics = generator.random(30)
        table = topics + generator.normal(0, 0.1, (6, 30))
        raw = p_values("t", differences(table[first], table[second]))
        found["none"] += bool((raw < 0.05).any())
        found["holm"] += bool((adjust(raw, "holm") < 0.05).any())
        found["tukey"] += bool((randomised_tukey(table, 400, seed=family) < 0.05).any())
    assert 1 <= found["holm"] <= 26
    assert 1 <= found["tukey"] <= 26
    assert found["none"] > 60, "without a correction about a third have one"
