"""Kept documents one behind the other, as a forward pass wants their keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.kv.entry import Entry
from ranklens.rerank.plan import SignalPlan


class Assembled:
    """The ``Held`` of a prompt made of entries, prefix first.

    ``last_heads`` are the key heads of the last layer that entries have; those that nobody
    reads are zeros. A layer is put together when it is asked for. ``kept`` are the places of
    the entries' tokens in the prompt's shared part, None for all of them.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        last_heads: Sequence[int],
        plan: SignalPlan,
        engine: AttentionEngine,
    ) -> None:
        self._entries = entries
        self._last_heads = list(last_heads)
        self._last = plan.last_layer
        config = engine.config
        self._key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self._dtype: torch.dtype = engine.model.dtype
        self.kept: list[int] | None = None
        if any(entry.length > len(entry.tokens) for entry in entries):
            self.kept = []
            start = 0
            for entry in entries:
                self.kept += [start + token for token in entry.tokens.tolist()]
                start += entry.length

    def keys(self, layer: int) -> torch.Tensor:
        """Return [key heads, shared, D], rotated to the positions behind the prefix."""
        if layer != self._last:
            return self._together("keys", layer)
        read = self._together("last", None)
        keys = read.new_zeros(self._key_heads, *read.shape[1:])
        keys[self._last_heads] = read
        return keys

    def values(self, layer: int) -> torch.Tensor:
        """Return [key heads, shared, D] of a layer before the last."""
        return self._together("values", layer)

    def _together(self, name: str, layer: int | None) -> torch.Tensor:
        return torch.cat([entry.get(name, layer, self._dtype) for entry in self._entries], dim=-2)
