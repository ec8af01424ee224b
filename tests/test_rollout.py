"""Attention rollout against dense matrices of an eager model, one branch at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from ranklens.data.errors import UsageError
from ranklens.data.records import Document
from ranklens.rerank import rollout as module
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout
from ranklens.rerank.rollout import rollout

MakeModel = Callable[..., Path]
DOCUMENTS = [
    Document("paris", "Paris is the capital of France.", title="Paris"),
    Document("cell", "The mitochondrion is the powerhouse of the cell."),
    Document("berlin", "Berlin is the capital of Germany."),
]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_hidden_layers": 3}),
    # A window shorter than the prompt in every other layer, and soft caps.
    "gemma2": (
        "gemma2",
        {"num_hidden_layers": 4, "head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8},
    ),
    # A logit per head that takes attention and is no token.
    "gpt-oss": (
        "gpt_oss",
        {"head_dim": 8, "sliding_window": 64, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
}


def reranker(folder: Path) -> AttentionReranker:
    return AttentionReranker.from_pretrained(
        folder, profile=load_profile("icr"), device="cpu", dtype="float32"
    )


def dense(folder: Path, layout: PromptLayout, upto: int) -> list[Any]:
    """Return for each tail its rows' shares of all tokens, by full matrices in float64."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    found = []
    for tail in layout.tails:
        ids = [*layout.shared, *tail.ids]
        with torch.no_grad():
            attentions = model.eval()(torch.tensor([ids]), output_attentions=True).attentions
        first, end = (len(layout.shared) + row for row in tail.rows)
        share = np.zeros(len(ids))
        share[first:end] = 1 / (end - first)
        product = np.eye(len(ids))
        for attention in attentions[: upto + 1]:
            mean = attention[0].double().mean(0).numpy()
            product = (0.5 * mean + 0.5 * np.eye(len(ids))) @ product
        found.append(share @ product)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_the_dense_product(
    name: str, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks that end inside the shared part and inside a tail.
    monkeypatch.setattr(module, "_BLOCK", 37)
    kind, settings = MODELS[name]
    folder = tiny_model(kind=kind, **settings)
    ours = reranker(folder)
    layout = ours.layout(["capital of France", "what is a cell"], DOCUMENTS)
    assert len(layout.shared) > 64, "longer than the windows"
    for upto in range(ours.engine.config.num_hidden_layers):
        found = rollout(ours.engine, layout, upto)
        assert found.shape == (3, len(layout.shared))
        expected = [row[: len(layout.shared)] for row in dense(folder, layout, upto)]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5, rtol=0)
        assert found.max() > 1e-3, "the tolerance means something"


def test_one_layer_is_half_of_the_mean_attention(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model())
    layout = ours.layout("capital", DOCUMENTS)
    signal = ours.read(layout)
    heads = ours.engine.config.num_attention_heads
    expected = signal.mass[0].double() / heads / 2
    np.testing.assert_allclose(rollout(ours.engine, layout, 0), expected, atol=1e-7)


def test_a_query_that_is_the_null_query_has_its_shares(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model())
    layout = ours.layout(["N/A", "capital", "N/A"], DOCUMENTS)
    found = rollout(ours.engine, layout, 1)
    assert found.shape[0] == 4
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])


def test_the_engine_reads_afterwards_as_before(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model())
    before = ours.rank("capital", DOCUMENTS)
    rollout(ours.engine, ours.layout("capital", DOCUMENTS), 0)
    assert ours.engine.model.config._attn_implementation == "ranklens"
    assert ours.rank("capital", DOCUMENTS) == before


@pytest.mark.parametrize("upto", [-1, 2])
def test_a_layer_that_the_model_does_not_have(tiny_model: MakeModel, upto: int) -> None:
    ours = reranker(tiny_model())
    with pytest.raises(UsageError, match=f"upto_layer must lie in 0 to 1: {upto}"):
        rollout(ours.engine, ours.layout("capital", DOCUMENTS), upto)
