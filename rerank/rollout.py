"""Attention rollout (Abnar & Zuidema, ACL 2020): attention followed through the layers.

What a tail's rows attend to in the last layer are states that attention has mixed before.
With A_l [P, P] the attention of layer l, mean over heads, and the residual as one half,

    r_L = mean of the unit vectors of a tail's rows        [tails, P]
    r_{l−1} = r_l · (A_l + I) / 2

r_0 says how much each input token carries into the rows. Rows of A_l are made a block at a time
from the layer's queries and keys, so nothing of size P × P is ever kept; queries and keys of all
layers are, since the way back begins at the last.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import NumericalError, UsageError
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile import SignalChoice
from ranklens.rerank.prompt import PromptLayout

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.attention import AttentionRun
    from ranklens.rerank.body import Softmax

IMPLEMENTATION = "ranklens-rollout"
"""The name under which the attention that keeps queries and keys is registered."""

_BLOCK = 256
# Two rollouts would undo each other's implementation; an ordinary reading meanwhile passes
# through unkept, since what is kept belongs to a thread.
_turn = threading.Lock()
_own = threading.local()


@dataclasses.dataclass(slots=True)
class _Kept:
    """One forward pass: query [heads, P, D] and key [key heads, P, D] by layer."""

    run: AttentionRun | None = None
    layers: dict[int, tuple[torch.Tensor, torch.Tensor, Softmax]] = dataclasses.field(
        default_factory=dict
    )


def rollout(engine: AttentionEngine, layout: PromptLayout, upto_layer: int) -> torch.Tensor:
    """Return how much of each shared token reaches each tail's rows, float64 [tails, shared].

    Follows layers 0 to ``upto_layer``, both included. With the tail's own tokens, which are not
    returned, the shares sum to 1 (less where a model has attention sinks without a token).
    Raises UsageError for a layer that the model does not have, InvalidInputError for a prompt
    over the context, NumericalError for NaN or Inf.
    """
    import torch

    layers = engine.config.num_hidden_layers
    if not 0 <= upto_layer < layers:
        raise UsageError(f"upto_layer must lie in 0 to {layers - 1}: {upto_layer}")
    kept = _pass(engine, layout, upto_layer)
    run = kept.run
    assert run is not None
    # The engine runs equal tails as one branch.
    names = [(tuple(tail.ids), tail.rows) for tail in layout.tails]
    branches = list(dict.fromkeys(names))
    with torch.inference_mode():
        positions = run.position_ids[0]
        lengths = [run.shared, *(len(ids) for ids, _ in branches)]
        branch = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        branch = branch.to(positions.device)
        share = torch.zeros(
            len(branches), len(positions), dtype=torch.float64, device=positions.device
        )
        share[:, run.shared :] = run.row_weights
        for layer in range(upto_layer, -1, -1):
            query, key, softmax = kept.layers.pop(layer)
            # Of the last layer only the rows of tails have a share, and only they have queries.
            first = run.shared if layer == upto_layer else 0
            before = share / 2
            for start in range(first, len(positions), _BLOCK):
                rows = slice(start, min(start + _BLOCK, len(positions)))
                hidden = positions[rows, None] < positions[None]
                hidden |= (branch[None] != 0) & (branch[rows, None] != branch[None])
                if softmax.window is not None:
                    hidden |= positions[rows, None] - positions[None] >= softmax.window
                attention = _mean_over_heads(query[:, rows], key, softmax, hidden)
                before += share[:, rows] @ attention.double() / 2
            share = before
        found = share[:, : run.shared].cpu()
    if not bool(found.isfinite().all()):
        raise NumericalError(f"attention rollout met NaN or Inf in layers 0 to {upto_layer}")
    return found[[branches.index(name) for name in names]]


def _mean_over_heads(
    query: torch.Tensor, key: torch.Tensor, softmax: Softmax, hidden: torch.Tensor
) -> torch.Tensor:
    """Return attention [rows, P]; query [heads, rows, D], key [key heads, P, D]."""
    group = query.shape[0] // key.shape[0]
    total = query.new_zeros(hidden.shape).float()
    for number, of_key in enumerate(key):
        heads = slice(number * group, (number + 1) * group)
        logits = softmax.cap((query[heads].float() * softmax.scale) @ of_key.float().T)
        total += softmax.normalise(logits.masked_fill_(hidden, -float("inf")), heads).sum(0)
    return total / query.shape[0]


def _pass(engine: AttentionEngine, layout: PromptLayout, upto_layer: int) -> _Kept:
    """Run the layout up to a layer and return its queries and keys."""
    from ranklens.rerank import attention

    whole = engine.plan(SignalChoice(rows="instruction-to-end"))
    plan = dataclasses.replace(whole, weights={upto_layer: {0: 1.0}})
    _register()
    with _turn:
        _own.kept = kept = _Kept()
        engine.model.set_attn_implementation(IMPLEMENTATION)
        try:
            engine.read(layout, plan)
        finally:
            engine.model.set_attn_implementation(attention.IMPLEMENTATION)
            del _own.kept
    return kept


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, _keeping)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Stand where transformers would build a prompt × prompt mask."""


def _keeping(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Keep queries and keys, and leave attention itself to the engine's function."""
    from ranklens.rerank.attention import branch_attention
    from ranklens.rerank.body import Softmax

    kept: _Kept | None = getattr(_own, "kept", None)
    if kept is not None:
        kept.run = options["attention_run"]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        softmax = Softmax(
            scale, options.get("sliding_window"), options.get("softcap"), options.get("s_aux")
        )
        kept.layers[module.layer_idx] = (query[0], key[0], softmax)
    return branch_attention(module, query, key, value, attention_mask, scaling=scaling, **options)
