from __future__ import annotations

import warnings
from collections.abc import Mapping

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement
from ranklens.eval.agree.labels import Scale, label_agreement


def qrels(labels: Mapping[tuple[str, str], int]) -> Qrels:
    return Qrels(Judgement(query, doc, grade) for (query, doc), grade in labels.items())


def of_list(labels: list[int]) -> Qrels:
    return qrels({("q", f"d{n:04}"): label for n, label in enumerate(labels)})


@pytest.mark.parametrize("seed", range(12))
def test_kappa_and_alpha_are_those_of_sklearn_and_krippendorff(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scale = Scale(*[(0, 3), (0, 1), (1, 5), (0, 4)][seed % 4])
    size = int(generator.integers(2, 200))
    gold = generator.integers(scale.lowest, scale.highest + 1, size)
    other = generator.integers(scale.lowest, scale.highest + 1, size)
    judge = np.where(generator.random(size) < 0.4, gold, other)
    found = label_agreement(of_list(gold.tolist()), of_list(judge.tolist()), scale).overall
    labels = list(scale.labels)
    assert found.kappa == pytest.approx(cohen_kappa_score(gold, judge, labels=labels), abs=1e-12)
    assert list(found.binary) == labels[1:]
    for grade, value in found.binary.items():
        expected = cohen_kappa_score(gold >= grade, judge >= grade)
        assert value == pytest.approx(expected, abs=1e-12)
    alpha = krippendorff.alpha(
        np.array([gold, judge]), level_of_measurement="ordinal", value_domain=labels
    )
    assert found.alpha == pytest.approx(alpha, abs=1e-12)
    assert found.exact == pytest.approx((gold == judge).mean())
    assert found.signed_error == pytest.approx((judge - gold).mean())


def test_only_pairs_of_both_count_and_the_rest_is_told() -> None:
    gold = qrels({("q1", "a"): 0, ("q1", "b"): 1, ("q2", "a"): 1, ("q3", "a"): 1})
    judge = qrels({("q1", "a"): 1, ("q1", "b"): 1, ("q2", "b"): 0, ("q4", "a"): 0})
    found = label_agreement(gold, judge, Scale.of(gold))
    assert (found.gold_pairs, found.judge_pairs, found.overall.pairs) == (4, 4, 2)
    assert found.confusion.tolist() == [[0, 1], [0, 1]]
    assert (found.gold_histogram, found.judge_histogram) == ({0: 1, 1: 1}, {0: 0, 1: 2})
    assert (found.overall.exact, found.overall.signed_error) == (0.5, 0.5)


def test_labels_beyond_the_scale_are_clipped_and_counted() -> None:
    gold, judge = of_list([0, 1, 2, 3, -1]), of_list([-2, 5, 5, 10, 0])
    found = label_agreement(gold, judge, Scale(0, 3))
    assert found.judge_clipped == {-2: 1, 5: 2, 10: 1}
    assert found.gold_clipped == {-1: 1}
    expected = label_agreement(of_list([0, 1, 2, 3, 0]), of_list([0, 3, 3, 3, 0]), Scale(0, 3))
    assert found.overall == expected.overall
    assert not expected.gold_clipped


def test_degenerate_labels_have_no_figure_or_a_defined_one() -> None:
    same = label_agreement(of_list([1, 1, 1]), of_list([1, 1, 1]), Scale(0, 3)).overall
    assert (same.kappa, same.alpha, same.exact) == (None, None, 1.0)
    assert set(same.binary.values()) == {None}
    constants = label_agreement(of_list([0, 0]), of_list([2, 2]), Scale(0, 3)).overall
    assert constants.kappa == 0
    # Above chance by nothing: with n − 1 for n, two pairs that disagree lie below 0.
    assert constants.alpha == pytest.approx(-0.5)
    one = label_agreement(of_list([0]), of_list([2]), Scale(0, 3)).overall
    assert (one.kappa, one.alpha) == (0.0, 0.0)
    half = label_agreement(of_list([0, 3, 1]), of_list([2, 2, 2]), Scale(0, 3)).overall
    assert half.kappa == 0
    assert half.binary[3] == 0


def test_no_pair_in_common_names_both_sides() -> None:
    with pytest.raises(InvalidInputError, match=r"gold: 'q1' 'a', judge: 'q1' 'A'"):
        label_agreement(qrels({("q1", "a"): 1}), qrels({("q1", "A"): 1}), Scale(0, 1))


def test_agreement_by_length_puts_pairs_in_bins_of_equal_size() -> None:
    labels = list(range(4)) * 10
    gold, judge = of_list(labels), of_list(labels[:20] + [0] * 20)
    words = {f"d{n:04}": 10 + n for n in range(40)}
    rows = label_agreement(gold, judge, Scale(0, 3), words=words).by_length
    assert [(row.shortest, row.longest) for row in rows] == [(10, 19), (20, 29), (30, 39), (40, 49)]
    assert [row.agreement.pairs for row in rows] == [10, 10, 10, 10]
    assert [row.agreement.exact for row in rows[:2]] == [1, 1]
    # 20 to 29 of the repeated labels hold 0 three times, 30 to 39 twice.
    assert [row.agreement.exact for row in rows[2:]] == [0.3, 0.2]
    [alone] = label_agreement(gold, judge, Scale(0, 3), words=dict.fromkeys(words, 7)).by_length
    assert (alone.shortest, alone.longest, alone.agreement.pairs) == (7, 7, 40)
    few = label_agreement(gold, judge, Scale(0, 3), words={"d0000": 5}).by_length
    assert [row.agreement.pairs for row in few] == [1]
    with pytest.raises(InvalidInputError, match="none of the labelled documents"):
        label_agreement(gold, judge, Scale(0, 3), words={"other": 5})


def test_nothing_warns_on_the_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        label_agreement(of_list([0]), of_list([0]), Scale(0, 3), words={"d0000": 0})


@pytest.mark.parametrize("text", ["3", "0..3", "3-0", "2-2", "-1-3", "a-b", ""])
def test_a_scale_is_lowest_and_highest(text: str) -> None:
    assert Scale.parse(" 1-5 ") == Scale(1, 5)
    with pytest.raises(UsageError, match="scale"):
        Scale.parse(text)


def test_the_scale_of_gold_labels_ends_with_their_highest() -> None:
    assert Scale.of(of_list([0, 2, -1])) == Scale(0, 2)
    assert Scale.of(of_list([0, 0])) == Scale(0, 1)
