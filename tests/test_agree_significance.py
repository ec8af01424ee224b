from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, matthews_corrcoef

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.score_table import ScoreTable
from ranklens.eval.agree.significance import Cells, Method, cells, decisions
from ranklens.eval.agree.top_systems import top_system


def table(values: NDArray[np.float64]) -> ScoreTable:
    systems = tuple(f"s{n}" for n in range(values.shape[0]))
    topics = tuple(f"t{n}" for n in range(values.shape[1]))
    return ScoreTable("m", systems, topics, values)


def two_tables(seed: int = 1, systems: int = 12) -> tuple[ScoreTable, ScoreTable]:
    generator = np.random.default_rng(seed)
    strength = generator.normal(0, 0.1, (systems, 1))
    gold = 0.5 + strength + generator.normal(0, 0.1, (systems, 30))
    lift = generator.normal(0, 0.06, (systems, 1))
    return table(gold), table(gold + lift + generator.normal(0, 0.1, (systems, 30)))


def test_cells_against_a_loop_over_pairs() -> None:
    gold, judge = two_tables()
    pairs = list(itertools.combinations(range(12), 2))

    def decided(values: NDArray[np.float64]) -> list[tuple[bool, bool]]:
        result = []
        for i, j in pairs:
            p = stats.ttest_rel(values[i], values[j]).pvalue
            result.append((p * len(pairs) < 0.05, values[i].mean() > values[j].mean()))
        return result

    expected = dict.fromkeys(asdict(Cells(0, 0, 0, 0, 0, 0, 0, 0)), 0)
    for (g, g_up), (j, j_up) in zip(decided(gold.values), decided(judge.values), strict=True):
        same = g_up == j_up
        name = ("aa" if same else "ad") if g and j else ("pa" if same else "pd")
        if g != j:
            name = ("ma" if same else "md") + ("_g" if g else "_j")
        expected[name] += 1
    method = Method("t", "bonferroni")
    found = cells(decisions(gold, method), decisions(judge, method))
    assert asdict(found) == expected
    assert found.pairs == 66
    assert sum(value > 0 for value in expected.values()) >= 5, "the case tells the cells apart"


def test_rates_by_their_denominators() -> None:
    found = Cells(aa=10, ad=1, ma_g=4, ma_j=3, md_g=2, md_j=1, pa=20, pd=5)
    assert found.pairs == 46
    rates = found.rates
    assert rates["PAA"].value == 20 / 31
    assert rates["PPA"].value == 40 / 55
    assert rates["precision"].value == 10 / 15
    assert rates["recall"].value == 10 / 17
    assert rates["FPR"].value == 4 / 29
    assert rates["publication bias"].value == pytest.approx(1 - 10 / 15)
    assert [(rates[name].count) for name in ("PAA", "FPR", "precision")] == [31, 29, 15]
    assert rates["FPR"].denominator == "MA_j + MD_j + PA + PD"
    # AD is a miss and a false claim at once: 47 outcomes of 46 pairs.
    truth = [1] * 10 + [1] * 7 + [0] * 5 + [0] * 25
    claim = [1] * 10 + [0] * 7 + [1] * 5 + [0] * 25
    assert rates["BAC"].value == pytest.approx(balanced_accuracy_score(truth, claim))
    assert rates["MCC"].value == pytest.approx(matthews_corrcoef(truth, claim))
    assert rates["MCC"].count == 47


def test_rates_of_nothing_are_undefined() -> None:
    silent = Cells(aa=0, ad=0, ma_g=0, ma_j=0, md_g=0, md_j=0, pa=3, pd=0).rates
    values = {name: rate.value for name, rate in silent.items()}
    assert values["FPR"] == 0
    assert values["PPA"] == 1
    undefined = {name for name, value in values.items() if value is None}
    assert undefined == {"PAA", "precision", "recall", "publication bias", "BAC", "MCC"}


@pytest.mark.parametrize(
    "method",
    [Method(), Method("wilcoxon", "bh"), Method("randomisation", "none"), Method(None, "tukey")],
    ids=str,
)
def test_a_judge_that_is_the_gold_agrees_throughout(method: Method) -> None:
    gold, _ = two_tables()
    found = cells(decisions(gold, method), decisions(gold, method))
    assert found.aa > 0
    assert found.aa + found.pa == found.pairs == 66


def test_equal_means_are_not_significant_and_of_the_same_sign() -> None:
    gold = table(np.array([[0.1, 0.3, 0.2], [0.3, 0.2, 0.1]]))
    worse = table(np.array([[0.1, 0.1, 0.1], [0.8, 0.9, 0.7]]))
    method = Method("t", "none")
    found = cells(decisions(gold, method), decisions(worse, method))
    assert asdict(found) == {**dict.fromkeys(asdict(found), 0), "ma_j": 1}


def test_methods_that_do_not_exist() -> None:
    for wrong in (("z", "holm"), ("t", "sidak"), ("t", "tukey"), (None, "holm")):
        with pytest.raises(UsageError):
            Method(*wrong)
    assert str(Method()) == "t test, holm correction"
    with pytest.raises(InvalidInputError, match="two systems"):
        decisions(table(np.ones((1, 3))), Method())


def test_the_top_system_against_a_loop() -> None:
    for seed in range(4):
        gold, judge = two_tables(seed)
        top = int(judge.values.sum(axis=1).argmax())
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for other in range(12):
            if other != top:
                wins = []
                for values in (gold.values, judge.values):
                    test = stats.ttest_rel(values[top], values[other], alternative="greater")
                    wins.append(bool(test.pvalue < 0.05 / 11))
                counts[wins[0], wins[1]] += 1
        found = top_system(gold, judge)
        assert found.system == f"s{top}"
        tp, fn = counts[True, True], counts[True, False]
        fp, tn = counts[False, True], counts[False, False]
        assert (found.tp, found.fn, found.fp, found.tn) == (tp, fn, fp, tn)
        assert found.fpr == (fp / (fp + tn) if fp + tn else None)
        assert found.fnr == (fn / (fn + tp) if fn + tp else None)


def test_the_top_system_without_spread() -> None:
    # By a constant gap the win is certain; by none there is none; one topic shows nothing.
    gold = table(np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]))
    found = top_system(gold, gold)
    assert (found.system, found.tp, found.fp, found.fn, found.tn) == ("s0", 1, 0, 0, 1)
    one = table(np.array([[0.9], [0.1]]))
    assert (top_system(one, one).tn, top_system(one, one).fnr) == (1, None)
