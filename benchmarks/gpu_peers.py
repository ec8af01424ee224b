"""What benchmarks/gpu.py compares the kernels with, and the rule by which it refuses figures."""

from __future__ import annotations

import sys

import torch

from ranklens.rerank.fused import Fused
from ranklens.rerank.kernels.layout import Blocks


def whole(fused: Fused) -> Blocks:
    """Return the blocks of documents and tails together."""
    assert fused.documents is not None
    return Blocks((*fused.documents.ranges, *fused.tails.ranges))


def mask(blocks: Blocks, device: torch.device) -> torch.Tensor:
    """Return which key each row sees, bool [P, P]."""
    seen = torch.zeros(blocks.length, blocks.length, dtype=torch.bool, device=device)
    for start, end, prefix in blocks.ranges:
        seen[start:end, :prefix] = True
        seen[start:end, start:end] = torch.ones(end - start, end - start, device=device).tril() > 0
    return seen


def unfused(
    rows: torch.Tensor, key: torch.Tensor, shared: int, tails: int, scale: float
) -> torch.Tensor:
    """Return the mass of tails of one length, as torch without a kernel computes it."""
    keys = key.repeat_interleave(len(rows) // len(key), 0)
    logits = (rows @ keys.transpose(1, 2)).float() * scale
    count = rows.shape[1]
    hidden = torch.ones(count, count, device=rows.device).triu(1) > 0
    tail = torch.arange(count, device=rows.device) // (count // tails)
    logits[:, :, shared:].masked_fill_(hidden | (tail[:, None] != tail), -torch.inf)
    weights = torch.softmax(logits, -1)[:, :, :shared]
    mass: torch.Tensor = weights.view(len(rows), tails, -1, shared).mean(2).sum(0)
    return mass


def agree(name: str, ours: torch.Tensor, torchs: torch.Tensor, exact: torch.Tensor) -> None:
    """Stop where a kernel is further from float32 than twice torch in the same dtype is."""
    off, theirs = rms(ours, exact), rms(torchs, exact)
    if off > 2 * theirs + 1e-6:
        sys.exit(f"{name} is {off:.1e} off float32, torch {theirs:.1e}: no figures")


def each(maps: tuple[torch.nn.Module, ...], states: torch.Tensor) -> list[torch.Tensor]:
    return [one(states) for one in maps]


def rms(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact).pow(2).mean().sqrt())
