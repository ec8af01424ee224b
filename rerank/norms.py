"""RMS norms with fewer temporaries, to the same bits.

    y = w · (x / √(mean(x²) + ε)),  x in fp32, the quotient rounded to the model's dtype

transformers writes every step to a tensor of its own; on a CPU that is a tenth of a block prompt's
time, and half of it can be done in place. Families that compute or round in another order are
found out by comparing bits, and keep their own.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import nn

_ROWS = 16


class LeanNorm(nn.Module):
    """What a Llama's norm computes, for its weight and epsilon; any shape […, width]."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.norm = norm
        self.epsilon: float = norm.variance_epsilon

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return normed states of the same shape and dtype."""
        exact = states.to(torch.float32, copy=True)
        mean = exact.square().mean(-1, keepdim=True)
        exact.mul_(torch.rsqrt(mean.add_(self.epsilon)))
        return exact.to(states.dtype).mul_(self.norm.weight)


def lean_norms(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return what may stand for norms of a model during a pass, where that is the same."""
    found: dict[nn.Module, nn.Module] = {}
    known: dict[tuple[type, torch.dtype], bool] = {}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not hasattr(module, "variance_epsilon") or not isinstance(weight, torch.Tensor):
            continue
        # One that is gated takes the gate beside the states.
        if len(inspect.signature(module.forward).parameters) != 1:
            continue
        kind = (type(module), weight.dtype)
        if kind not in known:
            known[kind] = _is_same(module)
        if known[kind]:
            found[module] = LeanNorm(module)
    return found


@torch.inference_mode()
def _is_same(norm: Any) -> bool:
    """Say whether a norm has the bits of ours, for rows of several sizes."""
    norm = copy.deepcopy(norm)
    generator = torch.Generator().manual_seed(0)
    # Where all weights are 1, as in a model not yet trained, any rounding would do.
    norm.weight.copy_(torch.randn(len(norm.weight), generator=generator))
    rows = torch.randn(_ROWS, len(norm.weight), generator=generator)
    rows = (rows * torch.logspace(-3, 3, _ROWS)[:, None]).to(norm.weight)
    return torch.equal(norm(rows), LeanNorm(norm)(rows))
