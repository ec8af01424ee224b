"""Scores people can use: scales, thresholds, margins, maps to probabilities."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.records import Document
from ranklens.data.score_map import FittedOn, ScoreMap, fit_score_map, held_out
from ranklens.eval.reliability import reliability
from ranklens.rerank.base import Ranking
from ranklens.rerank.margin import FEWEST, margin, scores_have_null
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.scales import SCALES, keep, probabilities, rescaled, softmax, z


def ranking(*scores: float) -> Ranking:
    documents = [Document(str(index), "text") for index in range(len(scores))]
    return Ranking.from_scores(documents, scores, [0] * len(scores))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def drawn(slope: float, intercept: float, count: int, seed: int = 0) -> list[tuple[float, bool]]:
    """Draw documents whose relevance has the probability of a known Platt map."""
    source = random.Random(seed)
    scores = [source.gauss(3.0, 2.0) for _ in range(count)]
    return [(s, source.random() < sigmoid(slope * s + intercept)) for s in scores]


def test_softmax_by_hand() -> None:
    shares = softmax(ranking(math.log(6), math.log(3), 0.0), temperature=1.0)
    assert shares == pytest.approx([0.6, 0.3, 0.1])
    # In units of the list's own spread, scores in another unit have the same shares.
    assert softmax(ranking(3.0, 2.0, 1.0)) == pytest.approx(softmax(ranking(3e-6, 2e-6, 1e-6)))
    assert softmax(ranking(1.0, 1.0)) == [0.5, 0.5]
    assert softmax(ranking(1e308, -1e308), temperature=1.0) == [1.0, 0.0]
    assert softmax(ranking()) == []


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_softmax_refuses_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(InvalidInputError, match="temperature"):
        softmax(ranking(1.0), temperature)


def test_z_by_hand() -> None:
    # Median 3, absolute deviations 0 1 1 2 97: their median is 1.
    assert z(ranking(100.0, 4.0, 3.0, 2.0, 1.0)) == pytest.approx(
        [97 / 1.4826, 1 / 1.4826, 0, -1 / 1.4826, -2 / 1.4826]
    )
    # More than half alike: the standard deviation (here 0.4) takes over.
    assert z(ranking(1.0, 0.0, 0.0, 0.0, 0.0)) == pytest.approx([2.5, 0, 0, 0, 0])
    assert z(ranking(7.0, 7.0)) == [0.0, 0.0]
    assert z(ranking(7.0)) == [0.0]
    assert z(ranking()) == []


def test_z_of_a_list_is_not_moved_by_its_relevant_documents() -> None:
    source = random.Random(1)
    noise = [source.gauss(0, 1) for _ in range(40)]
    rest = dict(enumerate(z(ranking(*noise))))
    with_relevant = z(ranking(*noise, 50.0, 60.0))
    assert with_relevant[0] > 30
    assert abs(max(rest.values()) - with_relevant[2]) < 0.5


def test_a_threshold_keeps_what_reaches_it() -> None:
    ranked = ranking(0.1, 3.0, 2.0)
    assert keep(ranked, 2.0).ids == ["1", "2"]
    assert keep(ranked, 9.0) == ()
    assert isinstance(keep(ranked, 2.0), Ranking)
    assert keep(rescaled(ranked, "softmax", temperature=1.0), 0.5).ids == ["1"]
    with pytest.raises(InvalidInputError, match="NaN"):
        keep(ranked, math.nan)


@pytest.mark.parametrize("scale", SCALES)
def test_a_scale_changes_scores_and_nothing_else(scale: Any) -> None:
    ranked = ranking(0.1, 3.0, 2.0, -4.0)
    score_map = ScoreMap("platt", slope=2.0, intercept=-1.0)
    scaled = rescaled(ranked, scale, score_map=score_map)
    assert [(r.id, r.index) for r in scaled] == [(r.id, r.index) for r in ranked]
    assert [r.score for r in scaled] == sorted((r.score for r in scaled), reverse=True)
    assert (scaled == ranked) == (scale == "raw")


def test_scales_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=r"no score_map.*ranklens calibrate"):
        rescaled(ranking(1.0), "probability")
    with pytest.raises(UsageError, match="unknown scale 'logit'; choose raw, softmax"):
        rescaled(ranking(1.0), "logit")  # type: ignore[arg-type]


def test_the_margin_tells_a_planted_document_from_noise() -> None:
    source = random.Random(2)
    noise = [[source.gauss(0.5, 0.2) for _ in range(50)] for _ in range(200)]
    alarms = sum(not margin(ranking(*scores)).nothing_relevant for scores in noise)
    assert 1 <= alarms <= 200 * 0.05 * 2
    planted = [margin(ranking(*scores, 2.0)).nothing_relevant for scores in noise]
    assert sum(planted) == 0


def test_the_margin_against_the_null() -> None:
    found = margin(ranking(5.0, 4.0, 3.0, 2.0, 1.0))
    assert found.above_null == pytest.approx(5 / 1.4826)
    assert found.above_rest == pytest.approx(2 / 1.4826)
    below = ranking(-1.0, *[-100.0 + i for i in range(20)])
    assert margin(below).nothing_relevant
    assert not margin(below, has_null=False).nothing_relevant
    short = margin(ranking(*[1.0] * (FEWEST - 1)))
    assert short.needed is None
    assert not short.nothing_relevant, "a short list is judged by the null alone"
    assert margin(ranking(0.0)).nothing_relevant
    with pytest.raises(InvalidInputError, match="empty"):
        margin(ranking())


def test_which_profiles_have_a_null() -> None:
    assert scores_have_null(load_profile("icr"))
    assert not scores_have_null(load_profile("attention-sorting"))


@pytest.mark.parametrize(("slope", "intercept"), [(1.5, -6.0), (0.4, 0.2), (3.0, -9.0)])
def test_platt_recovers_a_known_map(slope: float, intercept: float) -> None:
    fitted = fit_score_map(drawn(slope, intercept, 20_000))
    assert fitted.slope == pytest.approx(slope, rel=0.06)
    assert fitted.intercept == pytest.approx(intercept, rel=0.06, abs=0.1)


def test_platt_is_the_maximum_of_its_likelihood() -> None:
    pairs = drawn(1.0, -3.0, 60)
    fitted = fit_score_map(pairs)
    positive = sum(label for _, label in pairs)
    high, low = (positive + 1) / (positive + 2), 1 / (60 - positive + 2)

    def loss(a: float, b: float) -> float:
        total = 0.0
        for score, label in pairs:
            p, t = sigmoid(a * score + b), high if label else low
            total -= t * math.log(p) + (1 - t) * math.log(1 - p)
        return total

    assert fitted.slope is not None
    assert fitted.intercept is not None
    best = loss(fitted.slope, fitted.intercept)
    for a, b in itertools.product((-1e-3, 0, 1e-3), repeat=2):
        assert best <= loss(fitted.slope + a, fitted.intercept + b) + 1e-12


def test_platt_stays_finite_where_scores_separate_and_whatever_their_unit() -> None:
    pairs = [(float(s), s > 10) for s in range(20)]
    fitted = fit_score_map(pairs)
    assert 0.5 < fitted(19.0) < 1
    tiny = fit_score_map([(s * 1e-9 + 1e-3, label) for s, label in pairs])
    assert tiny(19e-9 + 1e-3) == pytest.approx(fitted(19.0), abs=1e-6)


def test_a_map_never_turns_the_order_round() -> None:
    pairs = [(float(s), s < 10) for s in range(20)]
    assert fit_score_map(pairs).slope == 0.0
    assert fit_score_map(pairs)(0.0) == fit_score_map(pairs)(19.0) == pytest.approx(0.5)
    assert fit_score_map(pairs, "isotonic").knots == ((0.0, 0.5), (19.0, 0.5))


@pytest.mark.parametrize("seed", range(30))
def test_isotonic_against_brute_force(seed: int) -> None:
    """Least squares under order, over all ways to cut the scores into blocks of means."""
    source = random.Random(seed)
    pairs = [(float(source.randint(0, 5)), source.random() < 0.5) for _ in range(9)]
    pairs += [(0.0, True), (5.0, False)]
    fitted = fit_score_map(pairs, "isotonic")
    levels = sorted({score for score, _ in pairs})
    best = math.inf
    for cuts in itertools.product((False, True), repeat=len(levels) - 1):
        blocks: list[list[float]] = [[levels[0]]]
        for cut, level in zip(cuts, levels[1:], strict=True):
            if cut:
                blocks.append([])
            blocks[-1].append(level)
        groups = [[label for score, label in pairs if score in block] for block in blocks]
        means = [sum(group) / len(group) for group in groups]
        if means == sorted(means):
            errors = zip(groups, means, strict=True)
            best = min(best, sum((label - m) ** 2 for group, m in errors for label in group))
    assert sum((fitted(score) - label) ** 2 for score, label in pairs) == pytest.approx(best)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_map_is_monotone_and_stays_in_0_to_1(method: Any) -> None:
    fitted = fit_score_map(drawn(1.0, -3.0, 300), method)
    values = [fitted(score / 7) for score in range(-700, 700)] + [fitted(1e308)]
    assert values == sorted(values)
    assert 0 <= values[0] <= values[-1] <= 1
    assert fitted(-1e308) <= values[0]


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("pairs", [[], [(1.0, True)], [(1.0, False), (2.0, False)]])
def test_a_fit_needs_both_kinds(method: Any, pairs: list[tuple[float, bool]]) -> None:
    with pytest.raises(InvalidInputError, match="needs relevant and irrelevant"):
        fit_score_map(pairs, method)


def test_a_fit_refuses_nan() -> None:
    with pytest.raises(InvalidInputError, match="NaN"):
        fit_score_map([(math.nan, True), (1.0, False)])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_held_out_probabilities_of_a_true_map_are_reliable(method: Any) -> None:
    pairs = drawn(1.5, -6.0, 4_000, seed=3)
    queries = [pairs[i : i + 20] for i in range(0, 4_000, 20)]
    found = held_out(queries, method)
    assert sorted(label for _, label in found) == sorted(label for _, label in pairs)
    figures = reliability(found)
    truth = reliability([(sigmoid(1.5 * s - 6.0), label) for s, label in pairs])
    assert figures.brier < truth.brier * 1.03
    assert figures.brier < figures.base_brier * 0.75
    assert figures.ece < 0.03
    assert held_out(queries, method) == found, "folds are seeded"


def test_held_out_means_that_the_fold_s_own_labels_play_no_part() -> None:
    queries = [[(float(i + j), j > 2) for j in range(6)] for i in range(10)]
    before = held_out(queries, folds=10)
    order = random.Random(0).sample(range(10), 10)
    queries[order[0]] = [(score, not label) for score, label in queries[order[0]]]
    after = held_out(queries, folds=10)
    assert [p for p, _ in after[:6]] == [p for p, _ in before[:6]]
    assert [p for p, _ in after[6:]] != [p for p, _ in before[6:]]
    with pytest.raises(InvalidInputError, match="10 queries cannot be held out in 11 folds"):
        held_out(queries, folds=11)


def test_reliability_by_hand() -> None:
    figures = reliability([(0.0, False), (0.05, True), (1.0, True), (0.91, False)])
    assert figures.brier == pytest.approx((0.95**2 + 0.91**2) / 4)
    assert figures.base_brier == 0.25
    assert [b.count for b in figures.bins] == [2, 2]
    assert figures.ece == pytest.approx((abs(0.025 - 0.5) + abs(0.955 - 0.5)) / 2)
    for wrong in ([], [(1.5, True)]):
        with pytest.raises(InvalidInputError):
            reliability(wrong)


@pytest.mark.parametrize(
    "score_map",
    [
        ScoreMap("platt", "z", slope=2.0, intercept=-1.0),
        ScoreMap(
            "isotonic",
            knots=((0.0, 0.1), (1.5, 0.4)),
            fitted_on=FittedOn("c", "m", 20, 3, 60, 9, candidates="all", brier=0.1, ece=0.02),
        ),
    ],
)
def test_a_profile_keeps_its_map(score_map: ScoreMap, tmp_path: Path) -> None:
    import dataclasses

    profile = dataclasses.replace(load_profile("icr"), score_map=score_map)
    save_profile(profile, tmp_path / "mine.json")
    assert load_profile(tmp_path / "mine.json") == profile
    ranked = ranking(2.0, 0.0, 1.0)
    at = z(ranked) if score_map.of == "z" else [2.0, 1.0, 0.0]
    assert probabilities(ranked, score_map) == [score_map(value) for value in at]


def test_an_isotonic_map_between_and_beyond_its_knots() -> None:
    score_map = ScoreMap("isotonic", knots=((0.0, 0.1), (1.5, 0.4)))
    assert [score_map(s) for s in (-9.0, 0.0, 0.75, 1.5, 9.0)] == pytest.approx(
        [0.1, 0.1, 0.25, 0.4, 0.4]
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"method": "platt"}, "platt has slope and intercept"),
        ({"method": "platt", "slope": -1.0, "intercept": 0.0}, "slope must not be negative: -1.0"),
        ({"method": "isotonic", "slope": 1.0, "intercept": 0.0}, "platt has slope"),
        ({"method": "isotonic", "knots": []}, "score_map.knots must be"),
        ({"method": "isotonic", "knots": [[0, 0.5], [1, 0.4]]}, "score_map.knots must be"),
        ({"method": "isotonic", "knots": [[0, 0.5], [0, 0.6]]}, "score_map.knots must be"),
        ({"method": "isotonic", "knots": [[0, 0.5], [1, 1.4]]}, "score_map.knots must be"),
        ({"method": "isotonic", "knots": [[0, 0.5, 1]]}, "score_map.knots[0] must have 2 values"),
        ({"method": "beta"}, "score_map.method is 'beta'"),
        ({"method": "platt", "slope": 1, "intercept": 0, "unit": 2}, "field 'score_map.unit'"),
    ],
)
def test_a_map_in_a_profile_file_that_cannot_be_used(
    value: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**load_profile("icr").to_dict(), "score_map": value}))
    with pytest.raises(InvalidInputError) as caught:
        load_profile(path)
    assert message in str(caught.value)
