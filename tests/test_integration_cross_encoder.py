"""The methods of sentence-transformers' CrossEncoder, and its own evaluator and signatures."""

from __future__ import annotations

import inspect
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from tests.stand_in_rerankers import HOSTILE, Given, Overlap

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.rerank.base import RankedDocument, Ranking
from ranklens.rerank.integrations.cross_encoder import RanklensCrossEncoder

pytest_plugins = ["integration_fixtures"]

BREAD, SOIL = "bread oven", "soil tomatoes"
TEXTS = ["tomatoes", "bread oven", "bread"]
SCORES = [-0.01, 1.98, 0.99]
NO_OPTION: dict[str, Any] = {"processing_kwargs": {}}


@pytest.fixture
def overlap() -> Overlap:
    return Overlap()


@pytest.fixture
def encoder(overlap: Overlap) -> RanklensCrossEncoder:
    return RanklensCrossEncoder(overlap)


@pytest.mark.parametrize("method", ["rank", "predict"])
def test_arguments_and_defaults_are_those_of_a_cross_encoder(method: str) -> None:
    def arguments(kind: type) -> dict[str, Any]:
        found = inspect.signature(inspect.unwrap(getattr(kind, method))).parameters
        return {name: one.default for name, one in found.items() if one.kind != one.VAR_KEYWORD}

    assert list(arguments(RanklensCrossEncoder).items()) == list(arguments(CrossEncoder).items())


def test_rank_is_sorted_and_says_positions(encoder: RanklensCrossEncoder) -> None:
    texts = list(TEXTS)
    found = encoder.rank(BREAD, texts)
    assert found == [
        {"corpus_id": 1, "score": 1.98},
        {"corpus_id": 2, "score": 0.99},
        {"corpus_id": 0, "score": -0.01},
    ]
    assert {type(entry["score"]) for entry in found} == {float}
    assert texts == TEXTS
    best = encoder.rank(BREAD, tuple(texts), top_k=1, return_documents=True)
    assert best == [{"corpus_id": 1, "score": 1.98, "text": "bread oven"}]
    assert encoder.rank(BREAD, []) == []
    twice = encoder.rank(BREAD, ["bread", "bread", ""])
    assert [entry["corpus_id"] for entry in twice] == [0, 1, 2]


def test_predict_puts_pairs_of_a_query_together_and_back(
    encoder: RanklensCrossEncoder, overlap: Overlap
) -> None:
    pairs = [
        (BREAD, "tomatoes"), (SOIL, "soil"), (BREAD, "bread oven"), [SOIL, "tomatoes soil"],
        (BREAD, "bread"), (SOIL, "soil"),
    ]  # fmt: skip
    found = encoder.predict(pairs)
    assert overlap.asked == [(BREAD, TEXTS), (SOIL, ["soil", "tomatoes soil", "soil"])]
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert found == pytest.approx([-0.01, 0.99, 1.98, 1.98, 0.99, 0.99])
    as_array = encoder.predict(np.array([list(pair) for pair in pairs]))
    np.testing.assert_array_equal(found, as_array)


def test_predict_returns_what_is_asked_for(encoder: RanklensCrossEncoder) -> None:
    pairs = [(BREAD, text) for text in TEXTS]
    tensor = encoder.predict(pairs, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert (tensor.shape, tensor.dtype) == ((3,), torch.float32)
    listed = encoder.predict(pairs, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert [float(one) for one in listed] == pytest.approx(SCORES)
    assert all(isinstance(one, torch.Tensor) and one.ndim == 0 for one in listed)
    for single in ((BREAD, "bread"), [BREAD, "bread"], np.array([BREAD, "bread"])):
        one = encoder.predict(single)
        assert isinstance(one, np.float32)
        assert one == pytest.approx(0.99)
    alone = encoder.predict((BREAD, "bread"), convert_to_tensor=True)
    assert isinstance(alone, torch.Tensor)
    assert alone.ndim == 0
    empty = encoder.predict([])
    assert isinstance(empty, np.ndarray)
    assert empty.shape == (0,)
    assert encoder.predict([], convert_to_numpy=False) == []
    nothing = encoder.predict([], convert_to_tensor=True, activation_fn=torch.nn.Sigmoid())
    assert isinstance(nothing, torch.Tensor)
    assert nothing.shape == (0,)


def test_an_activation_is_applied_to_scores(encoder: RanklensCrossEncoder) -> None:
    found = encoder.predict([(BREAD, text) for text in TEXTS], activation_fn=torch.nn.Sigmoid())
    assert found == pytest.approx(1 / (1 + np.exp(-np.array(SCORES))), abs=1e-6)
    falling = encoder.rank(BREAD, TEXTS, activation_fn=torch.neg)
    assert [entry["corpus_id"] for entry in falling] == [0, 2, 1]
    assert {type(entry["score"]) for entry in falling} == {float}
    with pytest.raises(InvalidInputError, match=r"scores \[3, 1\] into \[3, 2\]"):
        encoder.rank(BREAD, TEXTS, activation_fn=lambda scores: scores.expand(-1, 2))


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"prompt": "Instruct: "}, "prompt is part of the reranker"),
        ({"prompt_name": "query"}, "prompt is part of the reranker"),
        ({"device": "cpu"}, "loaded already"),
        ({"device": ["cpu", "cpu"]}, "loaded already"),
        ({"pool": {}}, "one after another"),
        ({"chunk_size": 8}, "never split"),
        ({"apply_softmax": True}, "softmax over one label"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    encoder: RanklensCrossEncoder, option: dict[str, Any], reason: str
) -> None:
    (name,) = option
    with pytest.raises(UsageError, match=f"{name}=.*overlap:test: .*{reason}"):
        encoder.predict([(BREAD, "bread")], **option)
    if name != "apply_softmax":
        with pytest.raises(UsageError, match=reason):
            encoder.rank(BREAD, TEXTS, **option)
    with pytest.raises(TypeError, match="processing_kwargs"):
        encoder.predict([(BREAD, "bread")], **NO_OPTION)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("one text", "inputs must be pairs"),
        (3, "inputs must be pairs"),
        ([("a", "b"), ("a",)], "pair 1 must be"),
        ([("a", "b", "c")], "pair 0 must be"),
        (["a", "b", "c"], "pair 0 must be"),
        ([("a", "b"), ("a", None)], "pair 1's document must be a str, got NoneType"),
        ([(1, "b")], "query of pair 0 must be a str, got int"),
        ([("", "b")], "query is empty"),
    ],
)
def test_inputs_that_are_no_pairs_of_texts_are_refused(
    encoder: RanklensCrossEncoder, inputs: Any, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        encoder.predict(inputs)


def test_rank_refuses_what_it_cannot_rank(encoder: RanklensCrossEncoder) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((BREAD, TEXTS), {"top_k": 0}, "top_k must be at least 1"),
        ((BREAD, TEXTS), {"batch_size": 0}, "batch_size must be at least 1"),
        ((BREAD, "text"), {}, "got one str"),
        ((BREAD, ["a", None]), {}, "document 1 must be a str"),
        ((" ", TEXTS), {}, "query is empty"),
        ((None, TEXTS), {}, "query must be a str"),
    ]
    for positional, named, message in calls:
        with pytest.raises(InvalidInputError, match=message):
            encoder.rank(*positional, **named)
    with pytest.raises(NumericalError):
        RanklensCrossEncoder(Given(NumericalError("NaN"))).rank(BREAD, TEXTS)
    infinite = Given(Ranking([RankedDocument(0, "0", float("inf"))]))
    with pytest.raises(NumericalError):
        RanklensCrossEncoder(infinite).predict([(BREAD, "bread")])


def test_hostile_texts_are_texts(encoder: RanklensCrossEncoder) -> None:
    texts = [*HOSTILE, "half a character: \ud800"]
    found = encoder.rank("bread \ud800", texts, return_documents=True)
    assert sorted(entry["text"] for entry in found) == sorted(texts)
    assert [entry["text"] for entry in found] == [texts[entry["corpus_id"]] for entry in found]


def test_a_shuffle_is_of_what_is_read_and_not_of_what_comes_back(overlap: Overlap) -> None:
    plain, shuffled = RanklensCrossEncoder(overlap), RanklensCrossEncoder(overlap, shuffle=1)
    texts = [f"bread {'x ' * i}" for i in range(8)]
    pairs = [(BREAD, text) for text in texts]
    np.testing.assert_array_equal(plain.predict(pairs), shuffled.predict(pairs))
    assert plain.rank(BREAD, texts) == shuffled.rank(BREAD, texts)
    (_, given), (_, drawn), *_ = overlap.asked
    assert given == texts
    assert drawn != texts
    assert sorted(drawn) == sorted(texts)
    assert overlap.asked[1] == overlap.asked[3], "the same order for lists of as many"


def test_the_evaluator_of_sentence_transformers_runs(overlap: Overlap) -> None:
    samples: list[dict[str, Any]] = [
        {"query": BREAD, "positive": ["bread oven"], "documents": [*TEXTS[:1], "bread oven"]},
        {"query": SOIL, "positive": ["x y z"], "documents": ["soil", "x y z"]},
        {"query": BREAD, "positive": ["oven"], "negative": ["tomatoes", "warm"]},
    ]
    encoder: Any = RanklensCrossEncoder(overlap, shuffle=0)
    evaluator = CrossEncoderRerankingEvaluator(samples[:2], name="tiny", write_csv=False)
    found = evaluator(encoder)
    # First stage: both positives second. Reranked: first, and second of two.
    assert found["tiny_base_mrr@10"] == pytest.approx(0.5)
    assert found["tiny_mrr@10"] == pytest.approx(0.75)
    assert set(encoder.model_card_data.metrics) == {"tiny"}
    negatives = CrossEncoderRerankingEvaluator(samples[2:], name="n", write_csv=False)
    assert negatives(encoder)["n_mrr@10"] == 1


def test_threads_and_progress(
    encoder: RanklensCrossEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [(query, text) for query in (BREAD, SOIL) for text in TEXTS]
    alone = encoder.predict(pairs)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(encoder.predict, [pairs] * 8):
            np.testing.assert_array_equal(alone, found)
    assert capsys.readouterr().err == ""
    encoder.predict(pairs, show_progress_bar=True)
    assert "2/2" in capsys.readouterr().err


def test_a_spec_is_loaded_once_with_its_settings(
    loads: list[tuple[str, dict[str, Any]]],
) -> None:
    encoder = RanklensCrossEncoder("cross-encoder:some", device="cpu")
    encoder.rank(BREAD, TEXTS)
    encoder.predict([(BREAD, "bread")])
    assert loads == [("cross-encoder:some", {"device": "cpu"})]


def test_without_torch_arrays_are_made_and_tensors_told_of(
    encoder: RanklensCrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert encoder.predict((BREAD, "bread")) == pytest.approx(0.99)
    assert encoder.rank(BREAD, TEXTS, top_k=1)[0]["corpus_id"] == 1
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[llm\]'"):
        encoder.predict((BREAD, "bread"), convert_to_tensor=True)
