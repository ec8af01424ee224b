"""A layer's attention by the kernels, where they are what the device computes with.

Three calls a layer: the shared tokens' blocks, the tails over all keys, and what the tails pay to
each shared token, with the sums of the second. Nothing of size rows × keys is ever stored.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from ranklens.rerank.body import Softmax
from ranklens.rerank.kernels.dispatch import block_attention, column_mass
from ranklens.rerank.kernels.layout import Blocks, Sweep
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.prompt import PromptLayout


class Fused:
    """How a layout's rows see its keys, made once for all layers of a pass.

    ``positions`` [P] are those that tokens are computed at, ``places`` [P] where tails see them.
    ``last`` is the layer that ends the pass, if one does. ``documents``: the blocks of the shared
    tokens, None where these are causal.
    """

    def __init__(
        self,
        layout: PromptLayout,
        plan: SignalPlan,
        positions: torch.Tensor,
        places: torch.Tensor,
        last: int | None,
    ) -> None:
        self._last = last
        self._plan, self._positions, self._places = plan, positions, places
        self._shared = shared = len(layout.shared)
        self._counted = _counted(layout, plan.over, places.device)
        self.documents: Blocks | None = None
        if layout.blocks:
            prefix = layout.blocks[0][0]
            own = tuple((start, end, prefix) for start, end in layout.blocks)
            self.documents = Blocks(((0, prefix, 0), *own))
        ranges, start = [], shared
        for tail in layout.tails:
            ranges.append((start, start + len(tail.ids), shared))
            start += len(tail.ids)
        self.tails = Blocks(tuple(ranges), base=shared)
        lengths, rows = [len(tail.ids) for tail in layout.tails], [t.rows for t in layout.tails]
        self.sweep = Sweep.of_tails(shared, lengths, rows)

    def shared_rows(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, softmax: Softmax
    ) -> torch.Tensor:
        """Return the output [shared, heads, D] of prefix and documents.

        Shapes: query [heads, P, D]; key, value [key heads, P, D].
        """
        assert self.documents is not None
        shared = slice(0, self._shared)
        found = block_attention(
            query[:, shared], key[:, shared], value[:, shared], self.documents,
            scale=softmax.scale, softcap=softmax.softcap, sinks=softmax.sinks,
            window=softmax.window, positions=self._positions[shared], backend="triton",
        )  # fmt: skip
        return found.output.transpose(0, 1)

    def tail_rows(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        softmax: Softmax,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the tails' output [heads, rows, D], and what they pay to the shared tokens.

        Shapes: query [heads, rows, D]; key, value [key heads, P, D]; the mass as in
        ``AttentionRun``. No output in the last layer read, no mass where none is read.
        """
        output = sums = None
        if layer != self._last:
            found = block_attention(
                query, key, value, self.tails, scale=softmax.scale, softcap=softmax.softcap,
                sinks=softmax.sinks, window=softmax.window, positions=self._places,
                backend="triton",
            )  # fmt: skip
            output, sums = found.output, found.lse
        chosen = self._plan.weights.get(layer, {})
        if self._plan.values == "rollout" or not chosen:
            return output, None
        apart, counted = self._plan.per_head, self._counted
        # Kept apart, a head is read whatever its weight.
        weights = {head: 1.0 if apart else weight for head, weight in chosen.items()}
        mass = column_mass(
            query, key, self.sweep, scale=softmax.scale,
            head_weights=torch.tensor([weights.get(head, 0.0) for head in range(len(query))]),
            softcap=softmax.softcap, window=softmax.window, positions=self._places,
            row_positions=self._places[self._shared :], counted=counted,
            # Over other keys, or with a sink that is left out, the sums are others.
            sinks=softmax.sinks if counted is None else None,
            lse=sums if counted is None else None,
            tokens=not apart, by_head=apart, backend="triton",
        )  # fmt: skip
        return output, mass.by_head if apart else mass.tokens


def _counted(layout: PromptLayout, over: str, device: torch.device) -> torch.Tensor | None:
    """Return which tokens a softmax runs over, bool [P], or None for all that a row sees."""
    if over == "all-keys":
        return None
    length = len(layout.shared) + sum(len(tail.ids) for tail in layout.tails)
    counted = torch.ones(length, dtype=torch.bool)
    counted[0] = False
    if over != "documents":
        return counted.to(device)
    counted[:] = False
    for start, end in layout.spans:
        counted[start:end] = True
    # Equal documents are all read where the first one stands; the others take part as well.
    for (first, end), (start, stop) in pairwise(layout.blocks):
        if layout.shared[first:end] == layout.shared[start:stop]:
            counted[start:stop] |= counted[first:end]
    return counted.to(device)
