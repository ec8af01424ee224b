"""Calibration and pooling against a re-computation in numpy, token by token and head by head.

The reference below follows the formulas of the profile's fields with plain loops and shares no
code with ``ranklens.rerank.scores``. What is small enough is checked by hand as well.
"""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ranklens.rerank.engine import TokenSignal
from ranklens.rerank.plan import plan_signal
from ranklens.rerank.profile import CalibrationChoice, PoolingChoice, Profile, SignalChoice
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout, Tail
from ranklens.rerank.scores import document_scores, pool

Array = np.ndarray[Any, np.dtype[np.float64]]
ICR = load_profile("icr")
HEADS = {"0-0": 1.0, "0-2": 0.5, "1-1": 2.0}
QUERIES = 2

# Spans in another order than they lie in, with gaps between; lengths 6, 1, 0, 9, 2, 4. The
# document of four is all one token and, below, all one value.
SPANS = ((12, 18), (3, 4), (19, 19), (21, 30), (5, 7), (8, 12))
SHARED = [0, 0, 0, *(7, 1, 3, 4), 0, *(9, 9, 9, 9), *(3, 5, 7, 7, 2, 5), 0, 0, 0]
SHARED += [3, 5, 5, 6, 3, 2, 2, 4, 3, 0, 0]
ALIKE = SPANS[5]


def layout(tails: int) -> PromptLayout:
    return PromptLayout(
        shared=SHARED,
        tails=(Tail([1, 2], (0, 2)),) * tails,
        queries=QUERIES,
        spans=SPANS,
        tokens_cut=(0,) * len(SPANS),
    )


def profile(
    pooling: PoolingChoice, calibration: CalibrationChoice, combine: str = "tokens"
) -> Profile:
    signal: Any = {"rows": "query", "heads": HEADS, "combine": combine}
    return dataclasses.replace(
        ICR, pooling=pooling, calibration=calibration, signal=SignalChoice(**signal)
    )


def tails_of(calibration: CalibrationChoice) -> int:
    sides = 2 if 0 < calibration.instruction_share < 1 else 1
    return QUERIES + sides * len(calibration.nulls)


def masses(tails: int, seed: int = 3) -> Array:
    """Make one positive mass [heads, tails, shared], like attention skewed towards few tokens."""
    made = np.random.default_rng(seed).gamma(0.3, size=(len(HEADS), tails, len(SHARED)))
    made[:, :, ALIKE[0] : ALIKE[1]] = made[:, :, ALIKE[0] : ALIKE[0] + 1]
    return made


def signal_of(mass: Array, chosen: Profile) -> TokenSignal:
    """Put masses per head into the form that the profile's combination reads."""
    model = SimpleNamespace(num_hidden_layers=2, num_attention_heads=3, model_type="none")
    plan = plan_signal(chosen.signal, model)
    assert [f"{layer}-{head}" for layer, head in plan.heads] == list(HEADS)
    if chosen.signal.combine == "documents":
        return TokenSignal(torch.from_numpy(mass), plan)
    layers = np.stack([mass[0] + 0.5 * mass[1], 2.0 * mass[2]])
    return TokenSignal(torch.from_numpy(layers), plan)


def scored(mass: Array, chosen: Profile) -> list[list[float]]:
    return document_scores(signal_of(mass, chosen), layout(mass.shape[1]), chosen)


def pooled_by_hand(values: list[float], tokens: list[int], choice: PoolingChoice) -> float:
    if choice.idf:
        documents = [set(SHARED[first:end]) for first, end in SPANS]
        n = len(documents) + 1
        df = [sum(token in document for document in documents) for token in tokens]
        values = [v * math.log(n / f) / math.log(n) for v, f in zip(values, df, strict=True)]
    if choice.drop_below_stds is not None:
        if len(values) < 2 or len(set(values)) == 1:
            return 0.0
        low = np.mean(values) - choice.drop_below_stds * np.std(values, ddof=1)
        values = [v for v in values if v > low]
    if not values:
        return 0.0
    if choice.reduce == "sum":
        score = sum(values) / float(len(values) ** choice.length_exponent)
    elif choice.reduce == "mean":
        score = float(np.mean(values))
    else:
        score = float(np.mean(sorted(values)[-(choice.top_k or 0) :]))
    if choice.entropy and len(values) > 1:
        shares = np.abs(values) / np.sum(np.abs(values))
        evenness = -sum(p * math.log(p) for p in shares if p > 0) / math.log(len(values))
        score *= float(evenness**choice.entropy)
    return score


def scored_by_hand(mass: Array, chosen: Profile, query: int) -> list[float]:
    calibration = chosen.calibration
    nulls, share = len(calibration.nulls), calibration.instruction_share
    weights = list(HEADS.values())
    if chosen.signal.combine == "tokens":
        mass, weights = np.tensordot(weights, mass, 1)[None], [1.0]
    scores = []
    for first, end in SPANS:
        score = 0.0
        for weight, head in zip(weights, mass, strict=True):
            own, null = [], []
            for token in range(first, end):
                base = 0.0
                for k in range(nulls):
                    if share == 1 or share == 0:
                        base += head[QUERIES + k, token] / nulls
                    else:
                        base += share * head[QUERIES + k, token] / nulls
                        base += (1 - share) * head[QUERIES + nulls + k, token] / nulls
                own.append(float(head[query, token]))
                null.append(float(base))
            tokens = SHARED[first:end]
            if not nulls:
                pooled = pooled_by_hand(own, tokens, chosen.pooling)
                logged = chosen.pooling.scale == "log"
                score += weight * (math.log(max(pooled, 1e-30)) if logged else pooled)
            elif calibration.compare == "difference":
                differences = [a - b for a, b in zip(own, null, strict=True)]
                score += weight * pooled_by_hand(differences, tokens, chosen.pooling)
            else:
                above = pooled_by_hand(own, tokens, chosen.pooling)
                below = pooled_by_hand(null, tokens, chosen.pooling)
                # Nothing over nothing is a ratio of one.
                score += weight * (math.log(above / below) if above or below else 0.0)
        scores.append(score)
    if calibration.temperature is not None:
        powers = [math.exp(score / calibration.temperature) for score in scores]
        scores = [power / sum(powers) for power in powers]
    return scores


REDUCTIONS: dict[str, dict[str, Any]] = {
    "sum": {"reduce": "sum"},
    "length-half": {"reduce": "sum", "length_exponent": 0.5},
    "length-one": {"reduce": "sum", "length_exponent": 1.0},
    "mean": {"reduce": "mean"},
    "top-1": {"reduce": "top-k-mean", "top_k": 1},
    "top-3": {"reduce": "top-k-mean", "top_k": 3},
    "top-beyond-every-document": {"reduce": "top-k-mean", "top_k": 50},
}
FILTERS: list[tuple[float | None, dict[str, Any]]] = [
    (None, {}),
    (None, {"idf": True}),
    (2.0, {}),
    (1.0, {"entropy": 1.0}),
    (0.0, {"idf": True, "entropy": 0.5}),
]
CALIBRATIONS = {
    "none": CalibrationChoice(()),
    "difference": CalibrationChoice(("N/A",)),
    "difference-three-nulls": CalibrationChoice(("N/A", "none", "?")),
    "bare": CalibrationChoice(("N/A",), instruction_share=0.0),
    "bare-two-nulls": CalibrationChoice(("N/A", "none"), instruction_share=0.0),
    "mixed": CalibrationChoice(("N/A",), instruction_share=0.5),
    "mixed-two-nulls": CalibrationChoice(("N/A", "none"), instruction_share=0.25),
    "log-ratio": CalibrationChoice(("N/A",), compare="log-ratio"),
    "log-ratio-mixed": CalibrationChoice(
        ("N/A", "none"), instruction_share=0.5, compare="log-ratio"
    ),
    "none-temperature": CalibrationChoice((), temperature=0.7),
    "difference-temperature": CalibrationChoice(("N/A",), temperature=5.0),
}


@pytest.mark.parametrize("calibrated", CALIBRATIONS)
@pytest.mark.parametrize("reduced", REDUCTIONS)
@pytest.mark.parametrize("combine", ["tokens", "documents"])
def test_every_variant_equals_the_loops(reduced: str, calibrated: str, combine: str) -> None:
    calibration = CALIBRATIONS[calibrated]
    mass = masses(tails_of(calibration))
    for drop, extra in FILTERS:
        pooling = PoolingChoice(drop, **(REDUCTIONS[reduced] | extra))
        chosen = profile(pooling, calibration, combine)
        found = scored(mass, chosen)
        assert len(found) == QUERIES
        for query, scores in enumerate(found):
            expected = scored_by_hand(mass, chosen, query)
            np.testing.assert_allclose(
                scores, expected, rtol=1e-10, atol=1e-10, err_msg=f"{pooling}"
            )


@pytest.mark.parametrize("reduced", REDUCTIONS)
@pytest.mark.parametrize("combine", ["tokens", "documents"])
def test_logarithms_equal_the_loops(reduced: str, combine: str) -> None:
    mass = masses(QUERIES)
    for drop, extra in FILTERS:
        settings: dict[str, Any] = REDUCTIONS[reduced] | extra
        pooling = PoolingChoice(drop, scale="log", **settings)
        chosen = profile(pooling, CALIBRATIONS["none"], combine)
        for query, scores in enumerate(scored(mass, chosen)):
            expected = np.array(scored_by_hand(mass, chosen, query))
            # All three heads leave out the same documents: their weights add up to 3.5.
            nothing = expected < (3.4 if combine == "documents" else 0.99) * math.log(1e-30)
            assert nothing[SPANS.index((19, 19))]
            expected[nothing] = expected[~nothing].min()
            np.testing.assert_allclose(scores, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_document_without_attention_is_last_whatever_weights_add_up_to(sign: float) -> None:
    mass = masses(1)
    chosen = profile(PoolingChoice(None, "sum", scale="log"), CALIBRATIONS["none"], "documents")
    signal = dataclasses.replace(
        chosen.signal, heads={head: sign * weight for head, weight in HEADS.items()}
    )
    chosen = dataclasses.replace(chosen, signal=signal)
    lay = dataclasses.replace(layout(1), queries=1)
    [scores] = document_scores(signal_of(mass, chosen), lay, chosen)
    empty = SPANS.index((19, 19))
    assert scores[empty] == min(score for i, score in enumerate(scores) if i != empty)
    # Of one head alone it is a number like any other.
    first, end = SPANS[0]
    mass[0, 0, first:end] = 0
    [less] = document_scores(signal_of(mass, chosen), lay, chosen)
    assert (less[0] - scores[0]) * sign < -10
    # With nothing anywhere nothing is told apart.
    [none] = document_scores(signal_of(np.zeros_like(mass), chosen), lay, chosen)
    assert len(set(none)) == 1


def test_a_factor_on_a_head_moves_all_logarithms_alike() -> None:
    mass = masses(QUERIES)
    chosen = profile(PoolingChoice(None, "sum", scale="log"), CALIBRATIONS["none"], "documents")
    before = np.array(scored(mass, chosen))[:, [0, 1, 3, 4, 5]]
    mass[2] *= 1000
    after = np.array(scored(mass, chosen))[:, [0, 1, 3, 4, 5]]
    np.testing.assert_allclose(after - before, HEADS["1-1"] * math.log(1000), rtol=1e-10)


def one(values: list[float], choice: PoolingChoice) -> float:
    tokens = torch.tensor([values], dtype=torch.float64)
    return float(pool(tokens, [(0, len(values))], choice))


@pytest.mark.parametrize(
    ("values", "choice", "expected"),
    [
        ([1.0, 2.0, 6.0], PoolingChoice(None, "sum"), 9.0),
        ([1.0, 2.0, 6.0], PoolingChoice(None, "mean"), 3.0),
        ([1.0, 2.0, 6.0], PoolingChoice(None, "top-k-mean", top_k=2), 4.0),
        ([1.0, 2.0, 6.0], PoolingChoice(None, "top-k-mean", top_k=9), 3.0),
        ([-3.0, -1.0], PoolingChoice(None, "top-k-mean", top_k=1), -1.0),
        ([1.0, 2.0, 6.0, 7.0], PoolingChoice(None, "sum", length_exponent=0.5), 8.0),
        # Mean 2, std 2: only 0 is not above 2 − 1 · 2, and 0 is dropped because > is strict.
        ([0.0, 2.0, 4.0], PoolingChoice(1.0, "sum"), 6.0),
        ([0.0, 2.0, 4.0], PoolingChoice(1.0, "mean"), 3.0),
        ([0.0, 2.0, 4.0], PoolingChoice(1.0, "top-k-mean", top_k=3), 3.0),
        # Shares 1/2, 1/4, 1/4 have an entropy of 1.5 bits of log2(3) possible.
        ([2.0, -1.0, 1.0], PoolingChoice(None, "sum", entropy=1.0), 2 * 1.5 / math.log2(3)),
        ([2.0, 2.0], PoolingChoice(None, "sum", entropy=3.0), 4.0),
        ([2.0, 0.0], PoolingChoice(None, "sum", entropy=0.5), 0.0),
        ([2.0], PoolingChoice(None, "sum", entropy=1.0), 2.0),
    ],
)
def test_pooling_by_hand(values: list[float], choice: PoolingChoice, expected: float) -> None:
    assert one(values, choice) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("length", [2, 3, 5, 7, 10, 100])
@pytest.mark.parametrize("value", [0.0, 0.1, -0.1, 0.3, 0.7, 1e-9])
def test_equal_tokens_leave_nothing_whatever_their_mean_rounds_to(
    value: float, length: int
) -> None:
    # 0.1 + 0.1 + 0.1 is above 0.3 in binary: without care some lengths would keep every token.
    assert one([value] * length, PoolingChoice(2.0, "sum")) == 0.0
    assert one([value] * length, PoolingChoice(None, "sum")) == pytest.approx(length * value)


@pytest.mark.parametrize("value", [0.25, -0.25])
def test_one_token_is_dropped_by_the_filter_and_stays_without(value: float) -> None:
    assert one([value], PoolingChoice(2.0, "sum")) == 0.0
    assert one([value], PoolingChoice(None, "sum")) == value


@pytest.mark.parametrize("reduced", REDUCTIONS)
@pytest.mark.parametrize("calibrated", CALIBRATIONS)
def test_a_document_without_tokens_scores_zero_and_never_nan(reduced: str, calibrated: str) -> None:
    empty = SPANS.index((19, 19))
    calibration = CALIBRATIONS[calibrated]
    mass = masses(tails_of(calibration))
    for drop in (None, 2.0):
        pooling = PoolingChoice(drop, **REDUCTIONS[reduced], entropy=1.0, idf=True)
        [scores, _] = scored(mass, profile(pooling, calibration))
        assert all(map(math.isfinite, scores))
        if calibration.temperature is None:
            assert scores[empty] == 0.0


def test_documents_without_mass_in_a_log_ratio() -> None:
    mass = masses(3)
    starved, gained, neither = 0, 3, 4
    for number, tails in ((starved, [0]), (gained, [2]), (neither, [0, 1, 2])):
        first, end = SPANS[number]
        mass[:, tails, first:end] = 0.0
    chosen = profile(PoolingChoice(None, "sum"), CALIBRATIONS["log-ratio"])
    [scores, _] = scored(mass, chosen)
    assert all(map(math.isfinite, scores))
    assert scores[neither] == 0.0, "nothing with either query: a ratio of one"
    rest = [s for i, s in enumerate(scores) if i not in (starved, gained)]
    assert scores[starved] < min(rest)
    assert scores[gained] > max(rest)


def test_instruction_share_goes_straight_from_one_null_to_the_other() -> None:
    mass = masses(QUERIES + 2)
    pooling = PoolingChoice(None, "sum")

    def at(share: float, tails: list[int]) -> Array:
        choice = CalibrationChoice(("N/A",), instruction_share=share)
        return np.array(scored(mass[:, tails], profile(pooling, choice)))

    with_instruction, without = at(1.0, [0, 1, 2]), at(0.0, [0, 1, 3])
    assert not np.allclose(with_instruction, without)
    for share in (0.25, 0.5, 0.9):
        np.testing.assert_allclose(
            at(share, [0, 1, 2, 3]), share * with_instruction + (1 - share) * without, atol=1e-12
        )


def test_a_temperature_keeps_the_order_and_makes_shares() -> None:
    mass = masses(QUERIES + 1)
    pooling = PoolingChoice(2.0, "sum")
    [plain, _] = scored(mass, profile(pooling, CALIBRATIONS["difference"]))
    [shares, _] = scored(mass, profile(pooling, CALIBRATIONS["difference-temperature"]))
    assert sum(shares) == pytest.approx(1.0)
    assert np.argsort(shares).tolist() == np.argsort(plain).tolist()
    # A softmax of large scores at a low temperature must not overflow.
    cold = CalibrationChoice(("N/A",), temperature=1e-6)
    [coldest, _] = scored(mass, profile(pooling, cold))
    assert coldest[int(np.argmax(plain))] == pytest.approx(1.0)


def test_the_query_s_own_null_scores_zero() -> None:
    mass = masses(QUERIES + 1)
    mass[:, QUERIES] = mass[:, 0]
    for name in ("difference", "log-ratio"):
        chosen = profile(PoolingChoice(None, "sum"), CALIBRATIONS[name], "documents")
        [own, other] = scored(mass, chosen)
        assert own == [0.0] * len(SPANS)
        assert any(other)


def test_idf_is_one_for_a_token_of_one_document_and_least_for_one_of_all() -> None:
    tails = (Tail([1], (0, 1)),)
    three = PromptLayout([7, 1, 7, 2, 7, 2], tails, 1, ((0, 2), (2, 4), (4, 6)), (0, 0, 0))
    chosen = profile(PoolingChoice(None, "sum", idf=True), CALIBRATIONS["none"])
    mass = np.zeros((3, 1, 6))
    mass[0] = [1, 10, 0, 0, 0, 100]
    [scores] = document_scores(signal_of(mass, chosen), three, chosen)
    assert scores == pytest.approx(
        [10 + math.log(4 / 3) / math.log(4), 0.0, 100 * math.log(4 / 2) / math.log(4)]
    )
    alone = PromptLayout([7, 1], tails, 1, ((0, 2),), (0,))
    [score] = document_scores(signal_of(mass[:, :, :2], chosen), alone, chosen)
    assert score == pytest.approx([11.0]), "with one document nothing is frequent"
