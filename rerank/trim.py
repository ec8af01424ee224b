"""Making the last layer that is read compute no more than reading it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F


@contextlib.contextmanager
def reading_only(model: Any, layer: int, shared: int, length: int) -> Iterator[None]:
    """Within the context ``layer`` projects queries of the tail only, and no values.

    Reading its attention takes the keys of all ``length`` tokens and the queries behind the first
    ``shared``; what comes after the attention is never reached. Layers whose projections are
    fused into one (Phi-3) are left as they are.
    """
    with contextlib.ExitStack() as hooks:
        for attention in model.modules():
            if getattr(attention, "layer_idx", None) != layer:
                continue
            if not (hasattr(attention, "q_proj") and hasattr(attention, "v_proj")):
                continue
            wanted = ((attention.q_proj, slice(shared, None)), (attention.v_proj, slice(0)))
            for projection, first in wanted:
                hooks.callback(projection.register_forward_pre_hook(_only(first)).remove)
                hooks.callback(projection.register_forward_hook(_fill(length)).remove)
        yield


def _only(rows: slice) -> Any:
    def hook(projection: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0][:, rows],)

    return hook


def _fill(length: int) -> Any:
    """Return a hook that puts zeros where rows were left out, for the shapes' sake."""

    def hook(projection: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[1] == 0:
            return output.new_zeros(()).expand(output.shape[0], length, output.shape[2])
        return F.pad(output, (0, 0, length - output.shape[1], 0))

    return hook
