"""What every adapter does, and scores in [0, 1]."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from tests.stand_in_rerankers import Given, Overlap

from ranklens.data.errors import InvalidInputError, NumericalError, RanklensError, UsageError
from ranklens.data.score_map import ScoreMap
from ranklens.rerank.base import RankedDocument, Ranking, Reranker
from ranklens.rerank.integrations.ranked import DEFAULT, described, loaded, ranked
from ranklens.rerank.scales import score_map_of, unit_interval

pytest_plugins = ["integration_fixtures"]

TEXTS = ["a b", "b c", "a b", "c d"]


def ranking(*scores: float) -> Ranking:
    rows = [RankedDocument(place, str(place), score) for place, score in enumerate(scores)]
    return Ranking(sorted(rows, key=lambda row: -row.score))


def test_a_spec_is_loaded_with_the_settings_that_are_given(
    loads: list[tuple[str, dict[str, Any]]],
) -> None:
    assert loaded(DEFAULT, device=None, profile="icr").name == DEFAULT
    assert loads == [(DEFAULT, {"profile": "icr"})]


def test_an_object_is_returned_as_it_is_and_takes_no_settings() -> None:
    reranker, wrong = Overlap(), cast("Reranker", 7)
    assert loaded(reranker, device=None) is reranker
    with pytest.raises(UsageError, match=r"device: settings are for a reranker .* this Overlap"):
        loaded(reranker, device="cpu")
    with pytest.raises(UsageError, match=r"or a ranklens\.Reranker, got int"):
        loaded(wrong)


def test_an_object_is_written_as_what_no_spec_is() -> None:
    assert described(DEFAULT) == DEFAULT
    with pytest.raises(UsageError, match="unknown reranker '<Overlap overlap:test>'"):
        loaded(described(Overlap()))


def test_all_texts_are_ranked_before_the_list_is_cut() -> None:
    reranker = Overlap()
    best = ranked(reranker, "a b", TEXTS, 2)
    assert [one.index for one in best] == [0, 2]
    assert reranker.asked == [("a b", TEXTS)]
    assert [one.index for one in ranked(reranker, "a b", TEXTS)] == [0, 2, 1, 3]


def test_no_texts_are_no_error_and_ask_nobody() -> None:
    reranker = Overlap()
    assert ranked(reranker, "", []) == []
    assert reranker.asked == []
    with pytest.raises(InvalidInputError, match="top_n must be at least 1, or None for all: 0"):
        ranked(reranker, "a", [], 0)


@pytest.mark.parametrize(
    "wrong", [ranking(1.0), ranking(1.0, 0.5, 0.2), Ranking(ranking(1.0)[:1] * 2)]
)
def test_a_ranking_that_is_none_of_these_texts_is_refused(wrong: Ranking) -> None:
    with pytest.raises(RanklensError, match=f"Given ranked {len(wrong)} documents of 2 given"):
        ranked(Given(wrong), "a", ["a", "b"])


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    wrong = Ranking([RankedDocument(1, "1", 0.5), RankedDocument(0, "0", score)])
    with pytest.raises(NumericalError, match=f"gave document 0 the score {score}"):
        ranked(Given(wrong), "a", ["a", "b"])


def test_numbers_of_other_libraries_become_python_floats() -> None:
    import numpy

    score = cast("float", numpy.float32(0.5))
    rows = [RankedDocument(0, "0", score)]
    assert [type(one.score) for one in ranked(Given(Ranking(rows)), "a", ["a"])] == [float]


def test_scores_in_0_to_1_without_a_map_say_how_far_a_document_stands_out() -> None:
    # The median is 2 and the spread 1.4826: z is 0, and ±1 / 1.4826.
    found = unit_interval(ranking(3.0, 2.0, 1.0))
    high = 1 / (1 + math.exp(-1 / 1.4826))
    assert found == pytest.approx([high, 0.5, 1 - high])
    assert unit_interval(ranking(7.0)) == [0.5]
    assert unit_interval(Ranking()) == []
    extreme = unit_interval(ranking(1e300, 1e-300, 0.0, -1e300))
    assert extreme == sorted(extreme, reverse=True)
    assert all(0 <= value <= 1 for value in extreme)


def test_scores_in_0_to_1_are_probabilities_where_there_is_a_map() -> None:
    found = unit_interval(ranking(2.0, 0.0), ScoreMap("platt", slope=1.0, intercept=0.0))
    assert found == pytest.approx([1 / (1 + math.exp(-2)), 0.5])
    assert score_map_of(Overlap()) is None
