"""PyTerrier: the transformer against frames by hand, in pipelines and in an experiment."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pyterrier as pt
import pytest
from tests.stand_in_rerankers import HOSTILE, Given, Overlap

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    RanklensError,
    UsageError,
)
from ranklens.rerank.base import RankedDocument, Ranking
from ranklens.rerank.integrations.pyterrier import RanklensTransformer

pytest_plugins = ["integration_fixtures"]
# What PyTerrier itself calls by names that pandas 3 is about to change.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The inplace keyword::pyterrier"),
    # An experiment's advice on how to be faster.
    pytest.mark.filterwarnings("ignore:There are shared pipeline components:UserWarning"),
]

COLUMNS = ["qid", "query", "docno", "text", "score", "rank"]
ROWS: list[list[Any]] = [
    ["q2", "bread oven", "d1", "tomatoes", 3.0, 0],
    ["q1", "tomatoes soil", "d1", "tomatoes", 9.0, 0],
    ["q2", "bread oven", "d2", "bread oven", 2.0, 1],
    ["q2", "bread oven", "d3", "bread", 1.0, 2],
    ["q1", "tomatoes soil", "d4", "soil tomatoes", 8.0, 1],
]


@pytest.fixture
def results() -> pd.DataFrame:
    return pd.DataFrame(ROWS, columns=COLUMNS)


def run(transformer: pt.Transformer, frame: Any) -> Any:
    """Call a transformer as pipelines do; its type says that a frame may come back as records."""
    return transformer(frame)


def test_rows_are_reranked_by_query_and_ranked_from_zero(results: pd.DataFrame) -> None:
    results.index = pd.Index([7, 7, 3, 2, 1])
    results["source"] = list("abcde")
    before = results.copy(deep=True)
    found = run(RanklensTransformer(Overlap()), results)
    pd.testing.assert_frame_equal(results, before)
    assert found[["qid", "docno", "score", "rank", "source"]].to_numpy().tolist() == [
        ["q2", "d2", 1.98, 0, "c"],
        ["q2", "d3", 0.99, 1, "d"],
        ["q2", "d1", -0.01, 2, "a"],
        ["q1", "d4", 1.98, 0, "e"],
        ["q1", "d1", 0.99, 1, "b"],
    ]
    assert set(found.columns) == set(before.columns)
    assert (found["score"].dtype, found["rank"].dtype.kind) == ("float64", "i")
    records = run(RanklensTransformer(Overlap()), results.to_dict(orient="records"))
    assert records == found.to_dict(orient="records")
    assert type(records[0]["score"]) is float


def test_queries_with_the_same_words_are_two_lists(results: pd.DataFrame) -> None:
    results["query"] = "bread oven"
    words = Overlap()
    found = run(RanklensTransformer(words), results)
    assert [len(texts) for _, texts in words.asked] == [3, 2]
    assert found["qid"].tolist() == ["q2"] * 3 + ["q1"] * 2
    assert found.groupby("qid")["rank"].min().tolist() == [0, 0]


def test_a_document_twice_and_equal_texts_are_all_kept() -> None:
    rows = [["q", "bread", "d", text] for text in ("oven", "bread", "bread", "")]
    found = run(RanklensTransformer(Overlap()), pd.DataFrame(rows, columns=COLUMNS[:4]))
    assert found["text"].tolist() == ["bread", "bread", "", "oven"]
    assert found["rank"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("column", ["rank", "score"])
def test_lists_are_read_in_the_order_of_the_stage_before(
    results: pd.DataFrame, column: str
) -> None:
    words = Overlap()
    other = "score" if column == "rank" else "rank"
    shuffled = results.sample(frac=1, random_state=3).drop(columns=other)
    run(RanklensTransformer(words), shuffled)
    assert dict(words.asked) == {
        "bread oven": ["tomatoes", "bread oven", "bread"],
        "tomatoes soil": ["tomatoes", "soil tomatoes"],
    }


@pytest.mark.parametrize("scored", [True, False])
def test_an_empty_frame_has_the_output_columns(results: pd.DataFrame, scored: bool) -> None:
    empty = results.iloc[:0] if scored else results.iloc[:0][COLUMNS[:4]]
    found = run(RanklensTransformer(Overlap()), empty)
    assert list(found.columns) == COLUMNS
    assert len(found) == 0
    transformer = RanklensTransformer(Overlap())
    assert pt.inspect.transformer_outputs(transformer, COLUMNS[:4]) == COLUMNS


def test_what_is_missing_or_no_text_is_refused(results: pd.DataFrame) -> None:
    transformer = RanklensTransformer(Overlap())
    for column in COLUMNS[:4]:
        with pytest.raises(pt.validate.InputValidationError, match=column):
            run(transformer, results.drop(columns=column))
    for column, value, message in (
        ("text", None, "document 'd1' of qid 'q2' has no text in column 'text'"),
        ("text", float("nan"), "get_text"),
        ("query", "other words", "qid 'q2' has 2 different queries"),
        ("query", "", "qid 'q2' has 2 different"),
        ("qid", None, "row 0 has no qid"),
    ):
        broken = results.copy()
        broken[column] = broken[column].astype(object)
        broken.loc[0, column] = value
        with pytest.raises(InvalidInputError, match=message):
            run(transformer, broken)
    with pytest.raises(InvalidInputError, match="query is empty"):
        run(transformer, results.assign(query=" "))


def test_another_text_column_and_hostile_texts(results: pd.DataFrame) -> None:
    hostile = [*HOSTILE[2:6], "half a character: \ud800"]
    frame = results.assign(body=pd.Series(hostile, dtype=object)).drop(columns="text")
    found = run(RanklensTransformer(Overlap(), text_field="body"), frame)
    assert sorted(found["body"]) == sorted(hostile)
    assert "text" not in found.columns


def test_in_a_pipeline_with_cutoff_and_in_an_experiment(results: pd.DataFrame) -> None:
    first = pt.Transformer.from_df(results)
    words = Overlap()
    reranked = first % 2 >> RanklensTransformer(words)
    topics = pd.DataFrame([["q1", "tomatoes soil"], ["q2", "bread oven"]], columns=["qid", "query"])
    assert [len(texts) for _, texts in words.asked] == []
    found = run(reranked, topics)
    assert [len(texts) for _, texts in words.asked] == [2, 2]
    assert found[found["rank"] == 0].set_index("qid")["docno"].to_dict() == {"q1": "d4", "q2": "d2"}
    qrels = pd.DataFrame([["q1", "d4", 1], ["q2", "d2", 1]], columns=["qid", "docno", "label"])
    table = pt.Experiment(
        [first, reranked], topics, qrels, ["recip_rank", "ndcg"], names=["first", "reranked"]
    )
    values = table.set_index("name")["recip_rank"]
    assert values.to_dict() == {"first": 0.5, "reranked": 1.0}
    assert not pt.java.started()
    assert (
        run(reranked % 1, topics)["docno"].tolist() == found[found["rank"] == 0]["docno"].tolist()
    )


def test_threads_have_the_results_of_calls_one_after_another(results: pd.DataFrame) -> None:
    transformer = RanklensTransformer(Overlap())
    alone = run(transformer, results)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(transformer, [results] * 8):
            pd.testing.assert_frame_equal(found, alone)


def test_a_spec_is_loaded_once_with_its_settings(
    loads: list[tuple[str, dict[str, Any]]], results: pd.DataFrame
) -> None:
    transformer = RanklensTransformer("attention:some", profile="icr", device=None)
    run(transformer, results)
    run(transformer, results)
    assert loads == [("attention:some", {"profile": "icr"})]
    assert repr(transformer) == "RanklensTransformer('attention:some')"


def test_errors_of_the_reranker_come_through(results: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="unknown reranker 'bogus'"):
        RanklensTransformer("bogus")
    with pytest.raises(UsageError, match="profile"):
        RanklensTransformer(Overlap(), profile="icr")
    for answer, kind in (
        (NumericalError("layer 3"), NumericalError),
        (Ranking([RankedDocument(0, "0", 1.0)]), RanklensError),
    ):
        with pytest.raises(kind):
            run(RanklensTransformer(Given(answer)), results)


def test_without_pyterrier_the_install_line_is_told(
    uninstall: Callable[[str, str], None],
) -> None:
    module = "ranklens.rerank.integrations.pyterrier"
    uninstall("pyterrier", module)
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[pyterrier\]'"):
        importlib.import_module(module)
