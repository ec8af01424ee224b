"""What the kernel tests share: a dense oracle, inputs, tolerances.

The oracle builds every mask in full and repeats the keys for their groups of heads; it knows
nothing of tiles, sweeps or LSE.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALVES = (torch.bfloat16, torch.float16)
TINY = 1e-6


def randn(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normal numbers on the tests' device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def attention_mask(ranges: Sequence[tuple[int, int, int]], length: int) -> torch.Tensor:
    """Return which key each token sees, bool [P, P]."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for start, end, prefix in ranges:
        for row in range(start, end):
            mask[row, :prefix] = True
            mask[row, start : row + 1] = True
    return mask.to(DEVICE)


def sweep_mask(shared: int, first: Sequence[int], last: Sequence[int], keys: int) -> torch.Tensor:
    """Return which key each row sees, bool [rows, keys]."""
    mask = torch.zeros(len(first), keys, dtype=torch.bool)
    mask[:, :shared] = True
    for row, (start, end) in enumerate(zip(first, last, strict=True)):
        mask[row, start : end + 1] = True
    return mask.to(DEVICE)


def dense_softmax(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights [heads, rows, keys] and LSE, in the query's dtype; 0 and −inf for no key."""
    key = key.repeat_interleave(len(query) // len(key), 0)
    logits = query @ key.transpose(1, 2) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    # A finite stand-in, so that rows without keys have gradients of 0.
    logits = torch.where(mask, logits, -3e4)
    if sinks is not None:
        sink = sinks.to(logits.dtype)[:, None, None].expand(-1, logits.shape[1], 1)
        logits = torch.cat([logits, sink], -1)
    weights = torch.softmax(logits, -1)[..., : mask.shape[-1]] * mask
    lse = torch.logsumexp(logits, -1)
    return weights, lse if sinks is not None else torch.where(mask.any(-1), lse, -torch.inf)


def window_mask(rows: torch.Tensor, keys: torch.Tensor, window: int) -> torch.Tensor:
    """Return what is within a window by positions."""
    return rows[:, None] - keys[None] < window


def rms(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().mean().sqrt()) if tensor.numel() else 0.0


def check(found: torch.Tensor, exact: torch.Tensor, same: torch.Tensor | None = None) -> None:
    """Compare with float64: within 1e-5 in float32, else twice the error of torch in that dtype."""
    assert found.shape == exact.shape
    assert torch.equal(found.isfinite(), exact.isfinite())
    finite = exact.isfinite()
    found, exact = found.double()[finite], exact.double()[finite]
    if same is None:
        largest = float(exact.abs().max()) if exact.numel() else 0.0
        assert float((found - exact).abs().amax() if exact.numel() else 0) <= 1e-5 * max(1, largest)
        return
    assert rms(found - exact) <= 2 * rms(same.double()[finite] - exact) + TINY
