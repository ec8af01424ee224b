"""The attention function that reads as it computes, entered through transformers' interface.

A forward pass carries the shared tokens first and then every tail. Shared tokens attend
causally among themselves; a tail's token attends to all shared tokens and causally within its
own tail. Tails start at one position and do not see each other, so each branch computes what
a separate pass over *shared + tail* would. While the tail rows are computed in full their
attention to the shared tokens is reduced to

    mass[t, j] = (1 / |t|) Σ_{i in tail t} Σ_h softmax(q_{h,i} · k_{h,j} · scale)

[tails, shared], in fp32, for all heads of the layer. Nothing of size prompt × prompt is ever made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ranklens.data.errors import InvalidInputError

IMPLEMENTATION = "ranklens"
"""The name under which the function is registered with ``transformers.AttentionInterface``."""


class AttentionRun:
    """What one forward pass needs to know, and what it collects.

    Parameters: the number of shared tokens and the length of each tail. ``mass`` maps a layer
    to a float32 tensor [tails, shared]. With ``trace`` the run also looks where NaN or Inf
    comes from: ``fault`` is then the first layer and token with a key that is not finite.
    After ``last_layer`` is read, ReadingDone ends the pass.
    """

    def __init__(
        self,
        shared: int,
        tails: Sequence[int],
        device: torch.device,
        *,
        last_layer: int | None = None,
        trace: bool = False,
    ) -> None:
        self.shared = shared
        self.last_layer = last_layer
        self.trace = trace
        self.fault: tuple[int, int] | None = None
        self.mass: dict[int, torch.Tensor] = {}
        rows = sum(tails)
        self.position_ids = torch.cat(
            [torch.arange(shared), *(torch.arange(shared, shared + n) for n in tails)]
        ).to(device)[None]
        self.longest = shared + max(tails)
        branch = torch.repeat_interleave(torch.arange(len(tails)), torch.tensor(tails))
        allowed = (branch[:, None] == branch) & torch.ones(rows, rows).tril().bool()
        self.tail_bias = torch.zeros(rows, rows).masked_fill(~allowed, -torch.inf).to(device)
        self.row_weights = torch.stack([(branch == t) / n for t, n in enumerate(tails)]).to(
            device, torch.float32
        )  # [tails, rows]


class ReadingDone(Exception):  # noqa: N818
    """Ends a forward pass whose last attention is read: what would follow has no reader."""


def register() -> None:
    """Make the function known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, branch_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Stand where transformers would build a prompt × prompt mask."""


def branch_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    attention_run: AttentionRun | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for shared tokens and tails, and record the tails' mass.

    Shapes: query [1, heads, P, D]; key, value [1, key heads, P, D]; returns [1, P, heads, D].
    Raises InvalidInputError for attention that this engine cannot read exactly.
    """
    run = attention_run
    if run is None:
        raise InvalidInputError("a model on ranklens attention runs through AttentionEngine only")
    _refuse_unreadable(module, run, attention_mask, sliding_window, options)
    _, heads, length, size = query.shape
    key_heads = key.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    shared = run.shared
    if run.trace and run.fault is None:
        finite = key[0].isfinite().all(-1).all(0)
        if not bool(finite.all()):
            run.fault = (module.layer_idx, int((~finite).nonzero()[0]))

    # Tail rows of the heads that share a key head are one matrix, so keys are never repeated.
    rows = length - shared
    q = (query[0, :, shared:].float() * scale).reshape(key_heads, -1, size)
    logits = q @ key[0].float().transpose(1, 2)  # [key heads, group × rows, P]
    logits.view(heads, rows, length)[:, :, shared:] += run.tail_bias
    weights = torch.softmax(logits, dim=-1)
    # Mean over a tail's rows and sum over heads are one matrix product.
    averaging = run.row_weights.repeat(1, heads)  # [tails, heads × rows]
    run.mass[module.layer_idx] = averaging @ weights.view(heads * rows, length)[:, :shared]
    if module.layer_idx == run.last_layer:
        raise ReadingDone
    tails = (weights.to(value.dtype) @ value[0]).view(heads, rows, size)

    if query.is_cuda and heads != key_heads:
        # CUDA's memory-efficient kernel takes no groups, and what would stand in for it in fp32
        # stores heads × P × P.
        key, value = (x.repeat_interleave(heads // key_heads, 1) for x in (key, value))
    output = query.new_empty(1, length, heads, size)
    body = F.scaled_dot_product_attention(
        query[:, :, :shared],
        key[:, :, :shared],
        value[:, :, :shared],
        is_causal=True,
        scale=scale,
        enable_gqa=heads != key.shape[1],
    )
    output[:, :shared] = body.transpose(1, 2)
    output[0, shared:] = tails.transpose(0, 1).to(output.dtype)
    return output, None


def _refuse_unreadable(
    module: Any,
    run: AttentionRun,
    attention_mask: torch.Tensor | None,
    sliding_window: int | None,
    options: dict[str, Any],
) -> None:
    name = type(module).__name__
    if not getattr(module, "is_causal", True):
        raise InvalidInputError(f"{name} is not causal: an attention reranker needs a decoder")
    if attention_mask is not None:
        raise InvalidInputError(f"{name} makes a mask of its own, which this engine does not apply")
    if sliding_window is not None and run.longest > sliding_window:
        raise InvalidInputError(
            f"the prompt of {run.longest} tokens exceeds the sliding attention window of "
            f"{sliding_window} in layer {module.layer_idx}; rank fewer documents"
        )
    for option in ("softcap", "s_aux"):
        if options.get(option) is not None:
            raise InvalidInputError(
                f"{name} uses {option!r} in its attention, which is not supported yet; "
                "use a Llama, Mistral or Qwen style model"
            )
