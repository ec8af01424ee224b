"""Kept documents one behind the other, as a forward pass wants their keys and values."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ranklens.rerank.kv.entry import Entry


class Assembled:
    """The ``Held`` of a prompt made of entries, prefix first; ``tokens`` in all.

    ``last_heads`` are the key heads of ``last_layer`` that entries have; those that nobody
    reads are zeros. A layer is put together when it is asked for. ``kept`` are the places of
    the entries' tokens in the prompt's shared part, None for all of them.
    """

    def __init__(
        self, entries: Sequence[Entry], last_layer: int, last_heads: Sequence[int]
    ) -> None:
        self._entries = entries
        self._last, self._last_heads = last_layer, list(last_heads)
        self.tokens = sum(len(entry.tokens) for entry in entries)
        self.kept: list[int] | None = None
        if any(entry.length > len(entry.tokens) for entry in entries):
            self.kept = []
            start = 0
            for entry in entries:
                self.kept += [start + token for token in entry.tokens.tolist()]
                start += entry.length

    def keys(self, layer: int, behind: torch.Tensor) -> torch.Tensor:
        """Return the keys of all entries and those ``behind`` them; see ``Held``."""
        if layer != self._last:
            return self._together("keys", layer, behind)
        keys = behind.new_zeros(len(behind), self.tokens + behind.shape[1], behind.shape[2])
        keys[self._last_heads] = self._together("last", None, behind[self._last_heads])
        return keys

    def values(self, layer: int, behind: torch.Tensor) -> torch.Tensor:
        """Return the values of a layer before the last, and those ``behind`` them."""
        return self._together("values", layer, behind)

    def _together(self, name: str, layer: int | None, behind: torch.Tensor) -> torch.Tensor:
        parts = [entry.get(name, layer, behind.dtype) for entry in self._entries]
        return torch.cat([*parts, behind], dim=-2)
