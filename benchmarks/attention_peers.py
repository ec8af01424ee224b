"""Other ways of reading attention, written with transformers alone.

Each takes a layout and returns, in float32, what every tail pays to the shared tokens: mean
over its rows, [heads of all layers, tails, shared] for eager, [layers, tails, shared] summed
over heads for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.prompt import PromptLayout

Contender = Callable[["PromptLayout"], "torch.Tensor"]


def peer(name: str, path: Path, dtype: str) -> Contender:
    """Load the model for ``eager``, ``sdpa`` or ``cached`` and return the contender."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        path, attn_implementation="eager", dtype=getattr(torch, dtype)
    ).eval()
    contenders = {"eager": _two_eager_passes, "sdpa": _two_sdpa_passes, "cached": _over_a_cache}
    found: Contender = torch.inference_mode()(contenders[name](model))
    return found


def _two_eager_passes(model: Any) -> Contender:
    import torch

    def read(layout: PromptLayout) -> torch.Tensor:
        tails = []
        shared = len(layout.shared)
        for tail in layout.tails:
            ids = torch.tensor([layout.shared + tail.ids])
            out = model(input_ids=ids, output_attentions=True, use_cache=False)
            tails.append(
                torch.cat([a[0, :, shared:, :shared].float().mean(1) for a in out.attentions])
            )
            del out
        return torch.stack(tails, 1)

    return read


def _two_sdpa_passes(model: Any) -> Contender:
    """The ICR procedure without the cache: SDPA computes the output, the tail's rows once more
    give the attention."""
    import torch
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    reading: dict[str, Any] = {}

    def attend(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any,
        scaling: float, **options: Any,
    ) -> tuple[torch.Tensor, None]:  # fmt: skip
        output, _ = sdpa_attention_forward(
            module, query, key, value, mask, scaling=scaling, **options
        )
        shared = reading["shared"]
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        logits = (query[:, :, shared:].float() * scaling) @ keys.float().transpose(2, 3)
        rows = logits.shape[2]
        later = torch.ones(rows, rows).triu(1).bool()
        logits[..., shared:].masked_fill_(later, -torch.inf)
        mass = torch.softmax(logits, -1)[0, :, :, :shared].mean(1).sum(0)
        reading["layers"].append(mass)
        return output, None

    AttentionInterface.register("peer_sdpa", attend)
    model.set_attn_implementation("peer_sdpa")

    def read(layout: PromptLayout) -> torch.Tensor:
        tails = []
        for tail in layout.tails:
            reading.update(shared=len(layout.shared), layers=[])
            model(input_ids=torch.tensor([layout.shared + tail.ids]), use_cache=False)
            tails.append(torch.stack(reading["layers"]))
        return torch.stack(tails, 1)

    return read


def _over_a_cache(model: Any) -> Contender:
    import torch
    from transformers import DynamicCache

    def read(layout: PromptLayout) -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        model.set_attn_implementation("sdpa")
        model(input_ids=torch.tensor([layout.shared]), past_key_values=cache, use_cache=True)
        model.set_attn_implementation("eager")
        tails = []
        shared = len(layout.shared)
        for tail in layout.tails:
            ids = torch.tensor([tail.ids])
            out = model(input_ids=ids, past_key_values=cache, output_attentions=True)
            masses = [a[0, :, :, :shared].float().mean(1).sum(0) for a in out.attentions]
            tails.append(torch.stack(masses))
            cache.crop(-len(tail.ids))
        return torch.stack(tails, 1)

    return read
