"""Projections that compute what reading takes, and round alike wherever reading stops.

The tail's rows get a query projection of their own in every layer. In the last layer that is
read no other queries are needed; and because a product of another height may round otherwise,
taking them out of the product of all rows elsewhere would make a layer's attention depend, in
its last bit, on whether the pass ends there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


@contextlib.contextmanager
def reading_projections(model: Any, last_layer: int, shared: int) -> Iterator[None]:
    """Within the context project tail rows apart, and in ``last_layer`` neither others nor values.

    Reading a layer takes the keys of all tokens and the queries behind the first ``shared``; in
    the last one what comes after the attention is never reached. Layers whose projections are
    fused into one (Phi-3) are left as they are.
    """
    with contextlib.ExitStack() as restore:
        for attention in list(model.modules()):
            layer = getattr(attention, "layer_idx", None)
            if layer is None or layer > last_layer:
                continue
            if not (hasattr(attention, "q_proj") and hasattr(attention, "v_proj")):
                continue
            replaced: dict[str, nn.Module] = {
                "q_proj": _TailApart(attention.q_proj, shared, alone=layer == last_layer)
            }
            if layer == last_layer:
                replaced["v_proj"] = _Nothing(attention.v_proj)
            for name, instead in replaced.items():
                restore.callback(setattr, attention, name, getattr(attention, name))
                setattr(attention, name, instead)
        yield


class _TailApart(nn.Module):
    """Project the rows behind ``shared`` apart, or ``alone``, with zeros for the others."""

    def __init__(self, projection: nn.Module, shared: int, *, alone: bool) -> None:
        super().__init__()
        self.projection, self.shared, self.alone = projection, shared, alone

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        tail = self.projection(rows[:, self.shared :])
        if self.alone:
            return F.pad(tail, (0, 0, self.shared, 0))
        return torch.cat([self.projection(rows[:, : self.shared]), tail], dim=1)


class _Nothing(nn.Module):
    """Zeros of a projection's shape, which take no memory."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        width = self.projection(rows[:, :0]).shape[-1]
        return rows.new_zeros(()).expand(*rows.shape[:2], width)
