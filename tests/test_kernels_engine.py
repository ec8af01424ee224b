"""The kernels in place of the engine's attention function: the same output and the same mass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.kernel_cases import DEVICE, check, randn

from ranklens.rerank.attention import AttentionRun, branch_attention
from ranklens.rerank.kernels.dispatch import block_attention, column_mass
from ranklens.rerank.kernels.layout import Blocks, Sweep
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.prompt import PromptLayout, Tail

pytest_plugins = ["kernel_fixtures"]

PREFIX, SHARED, ROWS = 5, 41, 10
SPANS = ((7, 28), (32, 41))
DOCUMENTS = ((5, 30), (30, 41))
# Random states are of different tokens: of equal ones the engine computes one.
TAILS = (Tail(list(range(50, 57)), (2, 7)), Tail(list(range(60, 63)), (0, 3)))
HEADS = {1: 0.5, 2: 2.0}
SCALE = 0.25


def layout_of(*, blocked: bool) -> PromptLayout:
    shared = list(range(SHARED))
    if not blocked:
        return PromptLayout(shared, TAILS, 1, SPANS, (0, 0))
    positions = (*range(PREFIX), *(PREFIX + n for a, b in DOCUMENTS for n in range(b - a)))
    return PromptLayout(shared, TAILS, 1, SPANS, (0, 0), DOCUMENTS, positions, None, 30)


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("over", ["all-keys", "without-sink", "documents"])
@pytest.mark.parametrize("blocked", [False, True])
def test_the_engine_finds_the_same(over: str, blocked: bool) -> None:
    layout = layout_of(blocked=blocked)
    # The second layer is the last one read, so that the first returns its output.
    plan = SignalPlan({0: HEADS, 1: {0: 1.0}}, "weights", over, per_head=False)
    run = AttentionRun(layout, plan, torch.device(DEVICE))
    query, key, value = (randn(n, SHARED + ROWS, 16, seed=n) for n in (4, 2, 2))
    layer: Any = SimpleNamespace(layer_idx=0, is_causal=True)
    expected, _ = branch_attention(
        layer, query[None], key[None], value[None], None, SCALE, attention_run=run
    )

    shared = ((0, PREFIX, 0), *((a, b, PREFIX) for a, b in DOCUMENTS))
    tails = ((SHARED, SHARED + 7, SHARED), (SHARED + 7, SHARED + ROWS, SHARED))
    blocks = Blocks((*(shared if blocked else ((0, SHARED, 0),)), *tails))
    sweep = Sweep.of_tails(
        SHARED, [len(tail.ids) for tail in TAILS], [tail.rows for tail in TAILS], SPANS
    )
    counted = None
    if over != "all-keys":
        counted = torch.zeros(SHARED + ROWS, dtype=torch.bool, device=DEVICE)
        for start, end in SPANS if over == "documents" else ((1, SHARED + ROWS),):
            counted[start:end] = True
    attended = block_attention(query, key, value, blocks, scale=SCALE, backend="triton")
    mass = column_mass(
        query[:, SHARED:], key, sweep, scale=SCALE, counted=counted,
        head_weights=torch.tensor([HEADS.get(head, 0.0) for head in range(4)]),
        lse=None if counted is not None else attended.lse[:, SHARED:], backend="triton",
    )  # fmt: skip

    check(attended.output.transpose(0, 1)[None], expected.double())
    assert mass.tokens is not None
    read = torch.ones(SHARED, dtype=torch.bool) if counted is None else counted[:SHARED]
    check(mass.tokens[:, read], run.mass[0].double()[:, read])
    assert not mass.tokens[:, ~read].any()


@pytest.mark.usefixtures("triton")
def test_nan_in_a_key_is_not_swallowed() -> None:
    """The engine names layer and document for it, which takes that it shows."""
    query, key, value = (randn(n, SHARED + ROWS, 16, seed=n) for n in (2, 1, 1))
    key[0, 9] = torch.nan
    blocks = Blocks(((0, SHARED, 0), (SHARED, SHARED + ROWS, SHARED)))
    attended = block_attention(query, key, value, blocks, scale=SCALE, backend="triton")
    assert attended.output[:, :9].isfinite().all()
    assert attended.output[:, 9:].isnan().all()
    assert attended.lse[:, 9:].isnan().all()
    sweep = Sweep.of_tails(SHARED, (ROWS,), ((0, ROWS),))
    mass = column_mass(query[:, SHARED:], key, sweep, scale=SCALE, backend="triton")
    assert mass.tokens is not None
    assert mass.tokens.isnan().all()
