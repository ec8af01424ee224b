"""Finding heads: on features with a planted good head, and on a tiny model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra llm is not installed")

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query
from ranklens.data.score_map import ScoreMap
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine, TokenSignal
from ranklens.rerank.heads.detect import METHODS, detect_heads, overlap
from ranklens.rerank.heads.examples import JudgedList, judged_lists
from ranklens.rerank.heads.features import (
    FeatureStore,
    HeadFeatures,
    every_head,
    read_features,
)
from ranklens.rerank.heads.learn import _folds, exits, learn_heads
from ranklens.rerank.heads.listwise import first_stage, ndcg
from ranklens.rerank.heads.needle import needle_heads
from ranklens.rerank.heads.picture import head_map
from ranklens.rerank.heads.profiles import origin_of, profile_of_heads
from ranklens.rerank.profile import Origin
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.scores import document_scores

GOOD = (1, 2)
LAYERS, HEADS, DOCUMENTS = 4, 3, 8


def planted(lists: int, strength: float = 1.5, seed: int = 0) -> list[HeadFeatures]:
    """Features of noise, but that one head pays more to documents of higher grade."""
    random = np.random.default_rng(seed)
    heads = np.array([(layer, head) for layer in range(LAYERS) for head in range(HEADS)])
    good = [tuple(head) for head in heads.tolist()].index(GOOD)
    found = []
    for number in range(lists):
        grades = np.array([2, 1, 0, 0, 0, 0, 0, 0])[random.permutation(DOCUMENTS)]
        null = random.uniform(0.05, 0.1, (len(heads), DOCUMENTS))
        ratio = random.normal(0, 0.3, null.shape)
        ratio[good] += strength * grades
        mass = null * np.exp(ratio)
        found.append(
            HeadFeatures("planted", f"q{number}", grades, heads, mass, null, mass - null,
                         np.full(DOCUMENTS, 9))
        )  # fmt: skip
    return found


def test_ndcg_equals_the_definition() -> None:
    random = np.random.default_rng(3)
    grades = np.array([0, 3, 1, 0, 2, 0, 0, 1, 0, 0, 0, 2])
    scores = random.normal(size=(5, len(grades)))
    for row, value in zip(scores, ndcg(scores, grades, k=4), strict=True):
        ranked = sorted(range(len(grades)), key=lambda i: -row[i])[:4]
        gain = sum(grades[i] / math.log2(rank + 2) for rank, i in enumerate(ranked))
        ideal = sum(g / math.log2(r + 2) for r, g in enumerate([3, 2, 2, 1]))
        assert value == pytest.approx(gain / ideal, abs=1e-12)
    tied = ndcg(np.zeros((1, 3)), np.array([0, 1, 0]))
    assert tied[0] == pytest.approx(1 / math.log2(3)), "ties keep the order of the list"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_planted_head(method: str) -> None:
    scores = detect_heads(planted(30), method)
    assert next(iter(scores)) == GOOD
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert len(scores) == LAYERS * HEADS


def test_core_is_the_contrastive_formula_and_does_not_overflow() -> None:
    (judged,) = planted(1)
    t = 0.05
    m = judged.mass[5]
    negative = sum(math.exp(m[i] / t) for i in range(DOCUMENTS) if judged.grades[i] == 0)
    expected = np.mean([
        math.exp(m[i] / t) / (math.exp(m[i] / t) + negative)
        for i in range(DOCUMENTS) if judged.grades[i] > 0
    ])  # fmt: skip
    head = (int(judged.heads[5][0]), int(judged.heads[5][1]))
    assert detect_heads([judged], "core", temperature=t)[head] == pytest.approx(expected, rel=1e-9)
    huge = dataclasses.replace(judged, mass=judged.mass * 1e4)
    assert all(0 <= v <= 1 for v in detect_heads([huge], "core", temperature=0.001).values())


def test_detection_refuses_what_it_cannot_use() -> None:
    lists = planted(2)
    with pytest.raises(InvalidInputError, match="unknown method 'best'"):
        detect_heads(lists, "best")
    with pytest.raises(InvalidInputError, match="temperature must be positive: 0"):
        detect_heads(lists, "core", temperature=0)
    with pytest.raises(InvalidInputError, match="no list of the 2 has both"):
        detect_heads(lists, "qrhead", level=3)
    assert overlap(["1-2", "3-4"], ["3-4", "5-6"]) == 1


def test_learning_finds_the_planted_head_and_stops_at_its_layer() -> None:
    lists = planted(40)
    learned = learn_heads(lists, last_layers=[0, 1, 3])
    assert learned.setting.last_layer == GOOD[0], "later layers add nothing"
    assert max(learned.weights, key=lambda name: learned.weights[name]) == "1-2"
    assert learned.held_out.mean() > 0.95
    assert learned.held_out.mean() > first_stage(lists).mean() + 0.2
    assert learn_heads(lists, last_layers=[0, 1, 3]).weights == learned.weights
    at_zero = [v for s, v in learned.tried.items() if s.last_layer == 0]
    assert max(at_zero) < learned.held_out.mean() - 0.1, "held-out figures can be bad too"


def test_learning_from_noise_does_not_look_good() -> None:
    lists = planted(40, strength=0.0)
    learned = learn_heads(lists, last_layers=[3])
    assert learned.held_out.mean() < first_stage(lists).mean() + 0.15


def test_lists_of_one_query_are_held_out_together() -> None:
    """Or a query's grades would be known from its other lists."""
    lists = [x for x in planted(23) for _ in range(3)]
    folds = _folds(lists, 0).reshape(23, 3)
    assert (folds == folds[:, :1]).all()
    assert sorted(np.bincount(folds[:, 0])) == [4, 4, 5, 5, 5]
    other = [dataclasses.replace(x, collection="other") for x in lists]
    assert len(_folds(lists + other, 0)) == 138


def test_learning_needs_lists() -> None:
    with pytest.raises(InvalidInputError, match="judged lists of 4 queries are too few"):
        learn_heads(planted(4))


def test_judged_lists_leave_out_what_teaches_nothing() -> None:
    texts = [Document(f"d{i}", "text") for i in range(3)]
    qrels = Qrels([Judgement("a", "d1", 2), Judgement("a", "d2", -1), Judgement("b", "d9", 1)])
    lists = [(Query(q, "text"), texts) for q in ("a", "b", "c")]
    (found,) = judged_lists("set", lists, qrels)
    assert found.query.id == "a"
    assert found.grades == (0, 2, 0)


JUDGED = JudgedList(
    "tiny",
    Query("q", "where does bread come from"),
    tuple(
        Document(f"d{i}", text)
        for i, text in enumerate(["bread is baked", "numbers are sorted", "soil and water", ""])
    ),
    (1, 0, 0, 0),
)


def reader(folder: Path) -> AttentionReranker:
    profile = every_head(load_profile("icr"))
    return AttentionReranker.from_pretrained(folder, profile=profile, device="cpu", dtype="float32")


def test_features_are_the_model_s_attention(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model()
    reranker = reader(folder)
    features = read_features(reranker, JUDGED)
    assert features.heads.tolist() == [[layer, head] for layer in (0, 1) for head in range(4)]
    one = dataclasses.replace(
        load_profile("icr"),
        signal=dataclasses.replace(load_profile("icr").signal, heads={"1-2": 1.0}),
        calibration=dataclasses.replace(load_profile("icr").calibration, nulls=()),
        pooling=dataclasses.replace(load_profile("icr").pooling, drop_below_stds=None),
    )
    alone = AttentionReranker.from_pretrained(folder, profile=one, device="cpu", dtype="float32")
    scores = {r.index: r.score for r in alone.rank(JUDGED.query, JUDGED.documents)}
    np.testing.assert_allclose(features.mass[6], [scores[i] for i in range(4)], atol=1e-6)
    assert features.lengths[3] < features.lengths[0]


@pytest.mark.parametrize("compare", ["difference", "log-ratio"])
def test_a_learned_profile_scores_what_was_learned(
    tiny_model: Callable[..., Path], tmp_path: Path, compare: Any
) -> None:
    reranker = reader(tiny_model())
    features = read_features(reranker, JUDGED)
    weights = {f"0-{head}": 0.5 * head - 0.7 for head in range(4)} | {"1-1": 2.0}
    origin = origin_of(reranker, "test", ["tiny"], {})
    profile = profile_of_heads("mine", load_profile("icr"), weights, origin, compare=compare)
    save_profile(profile, tmp_path / "mine.json")
    profile = load_profile(tmp_path / "mine.json")
    x = features.log_ratio() if compare == "log-ratio" else features.mass - features.null
    expected = np.array([*(0.5 * h - 0.7 for h in range(4)), 0, 2.0, 0, 0]) @ x
    learned = AttentionReranker(reranker.engine, profile)
    layout = learned.layout(JUDGED.query.text, JUDGED.documents)
    (scores,) = document_scores(learned.read(layout), layout, profile)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_store_reads_once_and_mends_what_is_damaged(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reranker = reader(tiny_model())
    passes: list[int] = []
    read = reranker.engine.read

    def counted(*arguments: Any) -> TokenSignal:
        passes.append(1)
        return read(*arguments)

    monkeypatch.setattr(reranker.engine, "read", counted)
    store = FeatureStore(tmp_path / "store", reranker)
    first = store.get(JUDGED)
    again = store.get(dataclasses.replace(JUDGED, grades=(0, 1, 1, 0)))
    assert len(passes) == 1
    np.testing.assert_allclose(again.mass, first.mass, rtol=1e-6)
    assert again.grades.tolist() == [0, 1, 1, 0], "judgements are not part of what is stored"
    (file,) = (tmp_path / "store").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_allclose(store.get(JUDGED).mass, first.mass, rtol=1e-6)
    assert len(passes) == 2
    store.get(dataclasses.replace(JUDGED, query=Query("q", "another query")))
    assert len(passes) == 3


def test_the_null_of_features_is_the_profile_s(tiny_model: Callable[..., Path]) -> None:
    """Nulls with and without the instruction are weighted as they are in ranking."""
    icr = load_profile("icr")
    calibration = dataclasses.replace(
        icr.calibration, nulls=("N/A", "nothing"), instruction_share=0.9
    )
    pooling = dataclasses.replace(icr.pooling, drop_below_stds=None)
    mixed = every_head(dataclasses.replace(icr, calibration=calibration, pooling=pooling))
    engine = AttentionEngine.from_pretrained(tiny_model(), device="cpu", dtype="float32")
    features = read_features(AttentionReranker(engine, mixed), JUDGED)
    np.testing.assert_allclose(features.mass - features.null, features.calibrated, atol=1e-9)


def test_other_heads_do_not_inherit_probabilities() -> None:
    mapped = dataclasses.replace(load_profile("icr"), score_map=ScoreMap("platt", "raw", 1.0, 0.0))
    origin = Origin(model="m", method="test")
    assert profile_of_heads("x", mapped, {"0-1": 1.0}, origin).score_map is None


def test_exits_are_layers_that_have_heads() -> None:
    def heads(*layers: int) -> Any:
        return np.array([(layer, head) for layer in layers for head in range(2)])

    assert exits(heads(*range(30))) == [9, 12, 15, 18, 21, 24, 27, 29]
    assert exits(heads(5, 11, 17, 23)) == [11, 23]
    assert exits(heads(5)) == [5]


def test_features_of_a_model_without_a_revision_are_not_kept(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    engine = reader(tiny_model()).engine
    with pytest.raises(InvalidInputError, match="kept by the model's revision"):
        FeatureStore(tmp_path, AttentionReranker(engine, every_head(load_profile("icr"))))


def test_features_need_a_null_query() -> None:
    with pytest.raises(InvalidInputError, match="'attention-sorting' has no content-free query"):
        every_head(load_profile("attention-sorting"))


def test_needle_scores_are_shares(tiny_model: Callable[..., Path]) -> None:
    engine = reader(tiny_model()).engine
    scores = needle_heads(engine, ["soil and water and bread " * 8], depths=(0.5,))
    assert set(scores) == {(layer, head) for layer in (0, 1) for head in range(4)}
    assert all(0 <= value <= 1 for value in scores.values())
    with pytest.raises(InvalidInputError, match="no text"):
        needle_heads(engine, [])
    # A haystack beyond the context is cut to it.
    small = reader(tiny_model(max_position_embeddings=600)).engine
    assert len(needle_heads(small, ["soil and water and bread " * 400], depths=(0.5,))) == 8


@pytest.mark.model
def test_a_trained_model_has_retrieval_heads() -> None:
    reranker = AttentionReranker.from_pretrained(
        "smollm2-135m", profile=every_head(load_profile("icr")), device="cpu", dtype="float32"
    )
    hay = "The weather in the valley changed slowly over the weeks of that autumn. " * 12
    scores = list(needle_heads(reranker.engine, [hay], depths=(0.3,)).values())
    assert scores[0] > 0.5, "copying heads exist in every trained decoder"
    assert np.median(scores) < 0.2, "and they are few"


def test_the_picture_shows_every_head_and_frames_the_chosen() -> None:
    scores = {(layer, head): layer - head for layer in range(3) for head in range(2)}
    root = ElementTree.fromstring(head_map(scores, [(2, 0)], "a < b & c"))
    cells = [r for r in root.iter() if r.tag.endswith("rect") and len(r)]
    assert len(cells) == 6
    assert [c[0].text for c in cells if c.get("stroke")] == ["2-0: 2"]
    assert any((e.text or "") == "a < b & c" for e in root.iter())
