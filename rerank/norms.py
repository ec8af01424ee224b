"""RMS norms with fewer temporaries, to the same bits.

    y = w · (x / √(mean(x²) + ε)),  x in fp32, the quotient rounded to the model's dtype

transformers writes every step to a tensor of its own; on a CPU that is a tenth of a block prompt's
time, and half of it can be done in place. Families that compute or round in another order are
found out by comparing bits, and keep their own; so do norms that somebody has changed or hooked.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
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
        if states.dtype != self.norm.weight.dtype:
            whole: torch.Tensor = self.norm(states)
            return whole
        exact = states.to(torch.float32, copy=True)
        mean = exact.square().mean(-1, keepdim=True)
        exact.mul_(torch.rsqrt(mean.add_(self.epsilon)))
        return exact.to(states.dtype).mul_(self.norm.weight)


def lean_norms(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Return what may stand for norms of a model during a pass, where that is the same."""
    return {norm: LeanNorm(norm) for norm in model.modules() if _is_plain(norm) and _is_same(norm)}


def stand_in(module: nn.Module, lean: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Return what computes for a module in a pass: itself where something listens to it."""
    if module._forward_hooks or module._forward_pre_hooks:
        return module
    return lean.get(module, module)


def _is_plain(module: Any) -> bool:
    """Say whether a module is one of transformers' norms with a weight for each channel."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__module__.startswith("transformers.")
        and "forward" not in vars(module)
        and isinstance(getattr(module, "variance_epsilon", None), float)
        and isinstance(weight, torch.Tensor)
        and weight.dim() == 1
    )


@torch.inference_mode()
def _is_same(norm: Any) -> bool:
    """Say whether a norm has the bits of ours, for rows of several sizes."""
    generator = torch.Generator("cpu").manual_seed(0)
    width, weight = len(norm.weight), norm.weight
    # Where all weights are 1, as in a model not yet trained, any rounding would do.
    other = copy.copy(norm)
    random = torch.randn(width, generator=generator, device="cpu").to(weight)
    other._parameters = {**norm._parameters, "weight": nn.Parameter(random, requires_grad=False)}
    other._forward_hooks, other._forward_pre_hooks = {}, {}
    rows = torch.randn(1, _ROWS, width, generator=generator, device="cpu")
    rows = (rows * torch.logspace(-3, 3, _ROWS, device="cpu")[:, None]).to(weight)
    try:
        found = other(rows)
    except Exception:
        # One that takes more than states, such as a gate.
        return False
    return torch.equal(found, LeanNorm(other)(rows))
