"""What training changed, cut to a low rank: all weights learn, an adapter is what is kept.

    W' − W ≈ B A,    A = √S Vᵀ [rank, inputs], B = U √S [outputs, rank]

U, S, V are the singular vectors and values of the largest part: no matrices of that rank are nearer
to the change in the sum of squares (Eckart and Young, 1936).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.rerank.training.adapter import PROJECTIONS

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.training.adapter import Pair
    from ranklens.rerank.training.student import Weights


@dataclass(frozen=True, slots=True)
class LowRank:
    """The rank that a change of all weights is cut to, and the weights before it, by name.

    The weights are those of the base model as it was loaded; make them with ``before_training``.
    """

    rank: int
    before: Mapping[str, torch.Tensor]


def before_training(weights: Mapping[str, torch.Tensor], rank: int) -> LowRank:
    """Keep a copy of a base model's weights on the CPU, to tell later what training changed.

    Raises UsageError for a rank that a projection's smaller side does not have, InvalidInputError
    for a model without projections that adapters change.
    """
    sides = [(min(own.shape), name) for name, own in weights.items() if _in_adapters(name, own)]
    if not sides:
        raise InvalidInputError(
            "the model has none of the projections that an adapter could change: "
            f"{', '.join(PROJECTIONS)}; train it without --as-lora"
        )
    smallest = min(sides)
    if not 1 <= rank <= smallest[0]:
        raise UsageError(
            f"a change of rank {rank} cannot be kept: it must be 1 to {smallest[0]}, the smaller "
            f"side of {smallest[1]}"
        )
    return LowRank(rank, {name: own.detach().cpu().clone() for name, own in weights.items()})


def cut(weights: Weights, low: LowRank, dtype: torch.dtype) -> tuple[dict[str, Pair], float]:
    """Put the weights back to what an adapter of the rank can hold of their change.

    Returns A and B of every projection, rounded to ``dtype``, by its name, and the share of the
    change's squared norm that they have, of 1. What is no projection (norms, biases) goes back to
    what it was, and its change counts as lost.
    """
    import torch

    pairs: dict[str, Pair] = {}
    whole = lost = 0.0
    with torch.no_grad():
        for name, own in weights.copies.items():
            before = low.before[name].to(own.device, own.dtype)
            change = own - before
            after = torch.zeros_like(change)
            if _in_adapters(name, own):
                a, b = _nearest(change, low.rank)
                pair = a.to("cpu", dtype).contiguous(), b.to("cpu", dtype).contiguous()
                pairs[name.removesuffix(".weight")] = pair
                after = (pair[1].to(own) @ pair[0].to(own)).to(own)
            own.copy_(before + after)
            whole += float(change.square().sum())
            lost += float((change - after).square().sum())
    weights.publish()
    return pairs, 1 - lost / whole if whole else 1.0


def _nearest(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    left, values, right = torch.linalg.svd(change.float(), full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _in_adapters(name: str, own: torch.Tensor) -> bool:
    module, _, kind = name.rpartition(".")
    return kind == "weight" and module.rpartition(".")[2] in PROJECTIONS and own.ndim == 2
