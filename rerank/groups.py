"""Long prompts in blocks on a CPU: documents computed some at a time, then the tails over them.

Tensors of tens of thousands of rows leave the caches, and the system hands out and clears their
pages anew each time: 500 documents in one pass take half as long again a token as 20. Documents
that do not see each other need not stand in one pass, so every pass has as many of them as keep
its tensors small, and leaves their keys and values to the tails.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ranklens.rerank.prompt import PromptLayout

if TYPE_CHECKING:
    import torch

GROUP = 4096
"""Tokens of a pass, the prefix included; prompts of twice as many are worth the passes."""
MOST = 2**32
"""Bytes of keys and values that are held: where they are more, one pass takes less memory."""


class Gathered:
    """The ``Held`` of documents that were computed in groups, the prefix with each.

    ``add`` takes what a group computed, in the order in which they stand in the prompt; each has
    the ``prefix`` tokens of all. Of ``last_layer`` only the keys are kept.
    """

    def __init__(self, prefix: int, last_layer: int) -> None:
        self._prefix, self._last = prefix, last_layer
        self._parts: dict[int, list[tuple[torch.Tensor, ...]]] = {}

    def add(self, computed: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Append keys and values [key heads, prefix + tokens, D] by layer."""
        for layer, (keys, values) in computed.items():
            known = self._parts.setdefault(layer, [])
            start = self._prefix if known else 0
            both = (keys[:, start:], values[:, start:])
            known.append(both[:1] if layer == self._last else both)

    def keys(self, layer: int, behind: torch.Tensor) -> torch.Tensor:
        """Return the keys of all groups and those ``behind`` them; see ``Held``."""
        return self._together(layer, 0, behind)

    def values(self, layer: int, behind: torch.Tensor) -> torch.Tensor:
        """Return the values of all groups and those ``behind`` them."""
        return self._together(layer, 1, behind)

    def _together(self, layer: int, which: int, behind: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.cat([*(part[which] for part in self._parts[layer]), behind], dim=1)


def held_bytes(config: Any, itemsize: int) -> int:
    """Return the bytes of a token's key and value in one layer of a model's configuration."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * heads * size * itemsize)


def groups(layout: PromptLayout) -> list[PromptLayout]:
    """Return layouts of the prefix and successive blocks of ``layout``, at their positions.

    Spans are those of all documents, empty for those that a group does not have. A block that is
    longer than a group is one by itself. A prompt that one pass is for has no groups.
    """
    if len(layout.blocks) < 2 or len(layout.shared) <= 2 * GROUP:
        return []
    prefix = layout.blocks[0][0]
    found = []
    first = end = prefix
    for block in layout.blocks:
        if end > first and prefix + block[1] - first > GROUP:
            found.append(_group(layout, first, end))
            first = block[0]
        end = block[1]
    return [*found, _group(layout, first, end)]


def _group(layout: PromptLayout, first: int, end: int) -> PromptLayout:
    prefix = layout.blocks[0][0]
    by = first - prefix
    positions = layout.positions or range(len(layout.shared))

    def moved(ranges: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, int]]:
        for start, stop in ranges:
            yield (start - by, stop - by) if first <= start and stop <= end else (0, 0)

    return dataclasses.replace(
        layout,
        shared=[*layout.shared[:prefix], *layout.shared[first:end]],
        spans=tuple(moved(layout.spans)),
        blocks=tuple(block for block in moved(layout.blocks) if block != (0, 0)),
        positions=(*positions[:prefix], *positions[first:end]),
        places=None,
        # As far as the whole's tails, so that a window is one where it is in a single pass.
        tail_start=len(layout.shared) if layout.tail_start is None else layout.tail_start,
    )
