"""Attention rollout against dense matrices of an eager model, one branch at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document
from ranklens.rerank import rollout
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.plan import full_layers
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.prompt import PromptLayout

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


def rolled(layers: tuple[int, int] | None = None) -> Profile:
    """Return ICR with a rollout for its signal."""
    icr = load_profile("icr")
    signal = dataclasses.replace(icr.signal, values="rollout", layers=layers)
    return dataclasses.replace(icr, signal=signal)


def reranker(folder: Path, profile: Profile) -> AttentionReranker:
    return AttentionReranker.from_pretrained(folder, profile=profile, device="cpu", dtype="float32")


def dense(folder: Path, layout: PromptLayout, first_layer: int, last_layer: int) -> list[Any]:
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
        for attention in attentions[first_layer : last_layer + 1]:
            mean = attention[0].double().mean(0).numpy()
            product = (0.5 * mean + 0.5 * np.eye(len(ids))) @ product
        found.append(share @ product)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_the_dense_product(
    name: str, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks that end inside the shared part and inside a tail.
    monkeypatch.setattr(rollout, "_BLOCK", 37)
    kind, settings = MODELS[name]
    folder = tiny_model(kind=kind, **settings)
    config = reranker(folder, rolled()).engine.config
    layers = config.num_hidden_layers
    for first, last in [*((0, last) for last in range(layers)), (1, layers - 1)]:
        if last < full_layers(config)[0]:
            continue  # A model of sliding layers only is not loaded.
        ours = reranker(folder, rolled((first, last)))
        assert len(ours.engine.model.layers) == last + 1, "what is behind is not loaded"
        layout = ours.layout(["capital of France", "what is a cell"], DOCUMENTS)
        assert len(layout.shared) > 64, "longer than the windows"
        found = ours.read(layout).total()
        assert found.shape == (3, len(layout.shared))
        expected = [row[: len(layout.shared)] for row in dense(folder, layout, first, last)]
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5, rtol=0)
        assert found.max() > 1e-3, "the tolerance means something"


def test_one_layer_is_half_of_the_mean_attention(tiny_model: MakeModel) -> None:
    folder = tiny_model()
    ours, plain = reranker(folder, rolled((0, 0))), reranker(folder, load_profile("icr"))
    layout = ours.layout("capital", DOCUMENTS)
    heads = ours.engine.config.num_attention_heads
    expected = plain.read(layout).mass[0] / heads / 2
    torch.testing.assert_close(ours.read(layout).mass[0], expected, atol=1e-7, rtol=0)


def test_a_query_that_is_the_null_query_has_its_shares(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(), rolled())
    found = ours.read(ours.layout(["N/A", "capital", "N/A"], DOCUMENTS)).total()
    assert found.shape[0] == 4
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])


def test_a_profile_with_a_rollout_is_written_read_and_ranks(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    save_profile(rolled(), tmp_path / "rollout.json")
    folder = tiny_model()
    ours = reranker(folder, load_profile(tmp_path / "rollout.json"))
    ranking = ours.rank("capital of France", DOCUMENTS)
    assert sorted(ranking.ids) == ["berlin", "cell", "paris"]
    assert ranking == reranker(folder, rolled()).rank("capital of France", DOCUMENTS)
    plain = reranker(folder, load_profile("icr")).rank("capital of France", DOCUMENTS)
    assert [r.score for r in ranking] != [r.score for r in plain]


@pytest.mark.parametrize(
    "wrong", [{"heads": {"0-1": 1.0}}, {"over": "documents"}, {"combine": "documents"}]
)
def test_a_rollout_of_some_heads_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="goes through whole layers: set signal"):
        dataclasses.replace(rolled().signal, **wrong)


def test_a_layer_that_the_model_does_not_have(tiny_model: MakeModel) -> None:
    with pytest.raises(InvalidInputError, match="reads layers 0 to 2; the model has 2"):
        reranker(tiny_model(), rolled((0, 2)))
