"""Norms in place: the bits of transformers' own, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.test_blocks import DOCUMENTS, MODELS, QUERY, reranker
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
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
    # Every norm of a Llama layer, and of Qwen3's heads. Gemma's adds 1 to its weights, GPT-OSS's
    # rounds once, which in float32 is the same.
    of_gpt_oss = 5 if dtype == "float32" else 0
    norms = {"llama": 7, "qwen3": 9, "gemma2": 0, "gpt-oss": of_gpt_oss}
    assert len(ours.engine._lean) == norms[name]
    found = ours.read(layout).mass
    ours.engine._lean = {}
    assert torch.equal(found, ours.read(layout).mass)


def test_norms_that_compute_otherwise_are_left_alone() -> None:
    class Own(LlamaRMSNorm):
        pass

    changed = LlamaRMSNorm(24)
    doubled = partial(LlamaRMSNorm.forward, changed)
    setattr(changed, "forward", lambda states: doubled(states) * 2)  # noqa: B010
    twice = LlamaRMSNorm(24)
    norms = [LlamaRMSNorm(24), GemmaRMSNorm(24), Qwen3NextRMSNormGated(24), Own(24), changed, twice]
    model = nn.ModuleList([*norms, CohereLayerNorm((4, 24))]).bfloat16()
    for module in model:
        nn.init.normal_(module.weight)  # type: ignore[arg-type]
    assert list(lean_norms(model)) == [norms[0], twice]


def test_a_norm_that_somebody_listens_to_is_called(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(), load_profile("icr"))
    layout = ours.layout(QUERY, DOCUMENTS)
    plain = ours.read(layout).mass
    called = []

    def hook(_: nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        called.append(out.shape)
        return out * 1.5

    handle = ours.engine.model.layers[0].post_attention_layernorm.register_forward_hook(hook)
    changed = ours.read(layout).mass
    handle.remove()
    assert len(called) == 1
    assert not torch.allclose(plain, changed, atol=1e-4)
    assert torch.equal(plain, ours.read(layout).mass)


def test_other_dtypes_than_the_weights_are_left_to_the_norm() -> None:
    norm = LlamaRMSNorm(40)
    states = torch.randn(2, 40).bfloat16()
    found = LeanNorm(norm)(states)
    assert found.dtype == norm(states).dtype
    assert torch.equal(found, norm(states))


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
