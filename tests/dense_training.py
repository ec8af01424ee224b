"""What a training step computes, once more: one dense pass a query, masks and positions by hand.

Shares nothing with the engine or transformers' forward but the parameters: norms, rotations, P × P
masks, softmax, sums and scores are written out, in the dtype of the model. Also the tiny engines
that it is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tests.tiny_decoder import SIZES, byte_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from ranklens.data.device import Placement
from ranklens.data.records import Document
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile import Profile
from ranklens.rerank.prompt import PromptLayout
from ranklens.rerank.training.lists import TrainingList, TrainingQuery

DOCUMENTS = (
    Document("paris", "Paris is the capital of France, of old.", title="Paris"),
    Document("cell", "The cell has a wall."),
    Document("bonn", "Berlin is a capital; Bonn was."),
    Document("empty", ""),
)
QUERIES = (
    TrainingQuery("q1", "capital of france", (2, 0, 1, None), {"t": (0.9, 0.1, 0.5, 0.0)}),
    TrainingQuery("q2", "what walls has a cell", (0, 1, None, 0), {"t": (0.1, 0.8, 0.2, 0.3)}),
    TrainingQuery("q3", "cell", None, {"t": (0.0, 0.4, 0.1, 0.2)}),
)
LIST = TrainingList(DOCUMENTS, QUERIES)
_BASE = 10000.0
_EPSILON = 1e-6


class Norm(nn.Module):
    """An RMS norm in the dtype that it is given; transformers' are in fp32 whatever comes."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON)


class Rotary(nn.Module):
    """Rotations in fp64, as transformers' Llama has them in fp32."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inv_freq = _BASE ** (-torch.arange(0, size, 2).double() / size)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angle = position_ids[..., None].double() * self.inv_freq
        angle = torch.cat([angle, angle], -1)
        return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def tiny_engine(dtype: torch.dtype = torch.float64, **options: Any) -> AttentionEngine:
    """Return an engine with a random Llama of two layers and grouped heads, exact in fp64."""
    from transformers import LlamaConfig, LlamaModel

    tokenizer = byte_tokenizer(["Please find information relevant to the paragraphs."], 400)
    torch.manual_seed(3)
    config = LlamaConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=4096, rms_norm_eps=_EPSILON
    )
    model: Any = LlamaModel(config)
    model = model.to(dtype)
    if dtype == torch.float64:
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child).__name__ == "LlamaRMSNorm":
                    setattr(parent, name, Norm(child.weight))
        model.rotary_emb = Rotary(config.hidden_size // config.num_attention_heads)
    for number, (name, weight) in enumerate(model.named_parameters()):
        if "norm" in name:
            torch.manual_seed(number)
            weight.data += 0.2 * torch.randn(weight.shape).to(dtype)
    return AttentionEngine(model, tokenizer, Placement("cpu", "float32", "a test"), **options)


def saved(folder: Path, **changes: Any) -> Path:
    """Save a random Llama with output embeddings, and its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer(["Please find information relevant to the paragraphs."], 400)
    torch.manual_seed(3)
    config = LlamaConfig(
        **SIZES, vocab_size=len(tokenizer), max_position_embeddings=32768,
        bos_token_id=None, eos_token_id=None, **changes,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def mask_of(layout: PromptLayout, tail: int) -> Tensor:
    """Return which token sees which, for shared part and one tail, bool [P, P]."""
    shared = len(layout.shared)
    length = shared + tail
    mask = torch.zeros(length, length, dtype=torch.bool)
    for row in range(length):
        mask[row, : row + 1] = True
        for start, end in layout.blocks:
            if start <= row < end:
                mask[row, layout.blocks[0][0] : start] = False
    return mask


def positions_of(layout: PromptLayout, tail: int, start: int | None = None) -> Tensor:
    """Return positions of shared part and tail: blocks side by side, the tail behind the longest.

    ``start`` is where the tail begins instead. For prompts whose blocks share positions, and
    causal ones.
    """
    shared = len(layout.shared)
    if not layout.blocks:
        return torch.arange(shared + tail)
    prefix = layout.blocks[0][0]
    longest = max(end - start for start, end in layout.blocks)
    found = list(range(prefix))
    for first, end in layout.blocks:
        found += range(prefix, prefix + end - first)
    behind = prefix + longest if start is None else start
    return torch.tensor([*found, *range(behind, behind + tail)])


def linear(module: Any, x: Tensor) -> Tensor:
    """Return what a linear map gives, with a LoRA adapter's product written out."""
    if hasattr(module, "base_layer"):
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        weight = module.base_layer.weight + module.scaling["default"] * up @ down
        return F.linear(x, weight)
    return F.linear(x, module.weight)


def attention(model: Any, ids: Sequence[int], positions: Tensor, mask: Tensor) -> list[Tensor]:
    """Return each layer's attention weights [heads, P, P]."""
    config = model.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size = config.hidden_size // heads
    x = model.embed_tokens.weight[torch.tensor(ids)]
    angle = positions[:, None].double() * _BASE ** (-torch.arange(0, size, 2).double() / size)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)

    def norm(weight: Tensor, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + _EPSILON) * weight

    def turned(x: Tensor) -> Tensor:
        first, second = x[..., : size // 2], x[..., size // 2 :]
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

    found = []
    for layer in model.layers:
        inner = norm(layer.input_layernorm.weight, x)
        own = layer.self_attn
        q, k, v = (
            linear(part, inner).view(len(ids), -1, size).transpose(0, 1)
            for part in (own.q_proj, own.k_proj, own.v_proj)
        )
        k, v = (part.repeat_interleave(heads // groups, 0) for part in (turned(k), v))
        logits = turned(q) @ k.transpose(1, 2) / size**0.5
        weights = torch.where(mask, logits, -torch.inf).softmax(-1)
        found.append(weights)
        x = x + linear(own.o_proj, (weights @ v).transpose(0, 1).reshape(len(ids), -1))
        inner = norm(layer.post_attention_layernorm.weight, x)
        mlp = layer.mlp
        gated = F.silu(linear(mlp.gate_proj, inner)) * linear(mlp.up_proj, inner)
        x = x + linear(mlp.down_proj, gated)
    return found


def scores(
    model: Any, layout: PromptLayout, profile: Profile, head_weights: Tensor, start: int | None
) -> Tensor:
    """Return the scores [queries, documents] of a profile that keeps heads apart."""
    shared = len(layout.shared)
    weights = profile.signal.weights
    count = range(model.config.num_attention_heads)
    chosen = (
        [(layer, head) for layer in range(len(model.layers)) for head in count]
        if weights is None
        else [(layer, head) for layer in sorted(weights) for head in sorted(weights[layer])]
    )

    def paid(tail: Any) -> Tensor:
        """What each head's rows pay to each shared token, [heads, shared]."""
        positions = positions_of(layout, len(tail.ids), start)
        found = attention(
            model, [*layout.shared, *tail.ids], positions, mask_of(layout, len(tail.ids))
        )
        counted = torch.ones(shared + len(tail.ids), dtype=torch.bool)
        if profile.signal.over == "without-sink":
            counted[0] = False
        elif profile.signal.over == "documents":
            counted[:] = False
            for first, end in layout.spans:
                counted[first:end] = True
        rows = []
        for layer, head in chosen:
            of_head = found[layer][head, shared + tail.rows[0] : shared + tail.rows[1]]
            of_head = torch.where(counted, of_head, 0.0)
            if profile.signal.over != "all-keys":
                of_head = of_head / of_head.sum(-1, keepdim=True)
            rows.append(of_head.mean(0)[:shared])
        return torch.stack(rows)

    def pooled(tokens: Tensor) -> Tensor:
        sums = [tokens[:, first:end].sum(-1) for first, end in layout.spans]
        return torch.stack(sums, -1)

    own = [paid(tail) for tail in layout.tails[: layout.queries]]
    nulls = [paid(tail) for tail in layout.tails[layout.queries :]]
    calibration = profile.calibration
    null = None
    if nulls:
        number, share = len(calibration.nulls), calibration.instruction_share
        if share in (0, 1):
            null = torch.stack(nulls).mean(0)
        else:
            told, bare = torch.stack(nulls[:number]).mean(0), torch.stack(nulls[number:]).mean(0)
            null = share * told + (1 - share) * bare
    result = []
    for mass in own:
        if null is None:
            found = pooled(mass)
            found = found.clamp_min(1e-30).log() if profile.pooling.scale == "log" else found
        elif calibration.compare == "difference":
            found = pooled(mass - null)
        else:
            found = pooled(mass).clamp_min(1e-30).log() - pooled(null).clamp_min(1e-30).log()
        result.append((head_weights[:, None] * found).sum(0))
    return torch.stack(result)


def graded(scores: Tensor, query: TrainingQuery) -> Tensor:
    """Return the list-wise cross-entropy of a judged query."""
    assert query.grades is not None
    gains = torch.tensor([2.0 ** (grade or 0) - 1 for grade in query.grades]).to(scores)
    shares = gains / gains.sum()
    return -(shares * (scores - torch.log(torch.exp(scores).sum()))).sum()


def distilled(scores: Tensor, query: TrainingQuery, tau: float) -> Tensor:
    """Return the Kullback-Leibler divergence of teacher t's softmax from the scores'."""
    target = torch.softmax(torch.tensor(query.teachers["t"], dtype=scores.dtype) / tau, 0)
    return (target * (target.log() - torch.log_softmax(scores, 0))).sum()
