"""A layer's attention by the kernels, where they are what the device computes with.

Three calls a layer: the shared tokens' blocks, the tails over all keys, and what the tails pay to
each shared token, with the sums of the second. Nothing of size rows × keys is ever stored.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from ranklens.rerank.body import Softmax
from ranklens.rerank.kernels.dispatch import block_attention, column_mass
from ranklens.rerank.kernels.layout import Blocks, Sweep
from ranklens.rerank.prompt import PromptLayout

if TYPE_CHECKING:
    from ranklens.rerank.attention import AttentionRun


class Fused:
    """How a layout's rows see its keys, made once for all layers.

    ``counted``: the tokens that a softmax ``over`` them runs over, bool [P], None for all.
    """

    def __init__(self, layout: PromptLayout, over: str, device: torch.device) -> None:
        shared = len(layout.shared)
        self.counted = None if over == "all-keys" else _counted(layout, over).to(device)
        self.documents: Blocks | None = None
        if layout.blocks:
            prefix = layout.blocks[0][0]
            own = tuple((start, end, prefix) for start, end in layout.blocks)
            self.documents = Blocks(((0, prefix, 0), *own))
        lengths = [len(tail.ids) for tail in layout.tails]
        starts = [shared + sum(lengths[:number]) for number in range(len(lengths))]
        self.tails = Blocks(
            tuple(
                (start, start + length, shared)
                for start, length in zip(starts, lengths, strict=True)
            ),
            base=shared,
        )
        self.sweep = Sweep.of_tails(shared, lengths, [tail.rows for tail in layout.tails])


def _counted(layout: PromptLayout, over: str) -> torch.Tensor:
    """Return the tokens of documents, or all but the first one."""
    length = len(layout.shared) + sum(len(tail.ids) for tail in layout.tails)
    counted = torch.ones(length, dtype=torch.bool)
    counted[0] = False
    if over != "documents":
        return counted
    counted[:] = False
    for start, end in layout.spans:
        counted[start:end] = True
    # Equal documents are all read where the first one stands; the others take part as well.
    for (first, end), (start, stop) in pairwise(layout.blocks):
        if layout.shared[first:end] == layout.shared[start:stop]:
            counted[start:stop] |= counted[first:end]
    return counted


def shared_rows(
    run: AttentionRun,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax: Softmax,
    blocks: Blocks,
) -> torch.Tensor:
    """Return the output [1, shared, heads, D] of prefix and documents; see ``block_attention``."""
    found = block_attention(
        query[0, :, : run.shared], key[0, :, : run.shared], value[0, :, : run.shared], blocks,
        scale=softmax.scale, softcap=softmax.softcap, sinks=softmax.sinks, window=softmax.window,
        positions=run.position_ids[0, : run.shared], backend=run.backend,
    )  # fmt: skip
    return found.output.transpose(0, 1)[None]


def tail_rows(
    run: AttentionRun,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax: Softmax,
    fused: Fused,
) -> torch.Tensor | None:
    """Record what the tails pay to the shared tokens, and return their output [heads, rows, D].

    Shapes: query [heads, rows, D]; key, value [key heads, P, D]. None after the last layer read.
    """
    last = layer == run.plan.last_layer
    output = sums = None
    if not last:
        found = block_attention(
            query, key, value, fused.tails, scale=softmax.scale, softcap=softmax.softcap,
            sinks=softmax.sinks, window=softmax.window, positions=run.places,
            backend=run.backend,
        )  # fmt: skip
        output, sums = found.output, found.lse
    chosen = run.plan.weights.get(layer, {})
    if run.plan.values == "rollout" or not chosen:
        return output
    per_head = run.plan.per_head
    # Kept apart, a head is read whatever its weight.
    weigh = {head: 1.0 if per_head else weight for head, weight in chosen.items()}
    counted = fused.counted
    mass = column_mass(
        query, key, fused.sweep, scale=softmax.scale,
        head_weights=torch.tensor([weigh.get(head, 0.0) for head in range(len(query))]),
        softcap=softmax.softcap, window=softmax.window, positions=run.places,
        row_positions=run.places[run.shared :], counted=counted,
        # Over other keys, or with a sink that is left out, the sums are others.
        sinks=None if counted is not None else softmax.sinks,
        lse=None if counted is not None else sums,
        tokens=not per_head, by_head=per_head, backend=run.backend,
    )  # fmt: skip
    recorded = mass.by_head if per_head else mass.tokens
    assert recorded is not None
    run.mass[layer] = recorded
    return output
