"""Norms in place: the bits of transformers' own, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.test_blocks import DOCUMENTS, MODELS, QUERY, reranker
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNormGated

from ranklens.rerank.norms import LeanNorm, lean_norms
from ranklens.rerank.profile_file import load_profile

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_the_same_bits_with_lean_norms(
    name: str, dtype: str, tiny_model: MakeModel
) -> None:
    kind, settings = MODELS[name]
    ours = reranker(tiny_model(kind=kind, **settings), load_profile("icr"), dtype)
    layout = ours.layout(QUERY, DOCUMENTS)
    generator = torch.Generator().manual_seed(1)
    for module in ours.engine.model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            nn.init.normal_(module.weight, 0.7, 0.3, generator=generator)
    # Every norm of a Llama layer, and of Qwen3's heads; Gemma's adds 1 to its weights.
    lean = len(ours.engine._lean)
    assert lean == {"llama": 7, "qwen3": 9, "gemma2": 0}.get(name, lean)
    found = ours.read(layout).mass
    ours.engine._lean = {}
    assert torch.equal(found, ours.read(layout).mass)


def test_norms_that_compute_otherwise_are_left_alone() -> None:
    class Rounding(LlamaRMSNorm):
        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            return (self.weight.float() * super().forward(hidden_states.float())).to(
                hidden_states.dtype
            )

    class Named(nn.Module):
        variance_epsilon = 1e-6

    norms = [LlamaRMSNorm(24), Rounding(24), GemmaRMSNorm(24), Qwen3NextRMSNormGated(24)]
    model = nn.ModuleList([*norms, Named()]).bfloat16()
    for module in norms:
        nn.init.normal_(module.weight)  # type: ignore[arg-type]
    assert list(lean_norms(model)) == [model[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_goes_in_stays_as_it_is(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(40, eps=1e-5).to(dtype)
    nn.init.normal_(norm.weight)
    states = torch.randn(2, 7, 3, 40, dtype=dtype) * 30
    before = states.clone()
    found = LeanNorm(norm)(states)
    assert found.dtype == dtype
    assert torch.equal(states, before)
    assert torch.equal(found, norm(states))
