"""Attention rollout (Abnar & Zuidema, ACL 2020): attention followed back through the layers.

What a tail's rows attend to in the last layer are states that attention has mixed before.
With A_l [P, P] the attention of layer l, mean over heads, and the residual as one half,

    r_L = mean of the unit vectors of a tail's rows        [tails, P]
    r_{l−1} = r_l · (A_l + I) / 2

r_0 says how much each input token carries into the rows. Rows of A_l are made a block at a time
from the layer's queries and keys, so nothing of size P × P is ever kept; queries and keys of all
layers are, since the way back begins at the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ranklens.rerank.attention import AttentionRun
    from ranklens.rerank.body import Softmax

_BLOCK = 256


def roll_out(run: AttentionRun) -> torch.Tensor:
    """Return how much of each shared token reaches each tail's rows, float32 [tails, shared].

    Uses up what the run kept of its layers. With the tail's own tokens, which are not returned,
    the shares sum to 1 (less where a model has attention sinks without a token).
    """
    positions = run.position_ids[0]
    length = len(positions)
    share = torch.zeros(len(run.row_weights), length, dtype=torch.float64, device=positions.device)
    share[:, run.shared :] = run.row_weights
    last = max(run.kept)
    for layer in sorted(run.kept, reverse=True):
        query, key, softmax = run.kept.pop(layer)
        before = share / 2
        # Of the last layer only the rows of tails have a share, and only they have queries.
        for start in range(run.shared if layer == last else 0, length, _BLOCK):
            rows = slice(start, min(start + _BLOCK, length))
            hidden = run.unseen(rows)
            if softmax.window is not None:
                hidden |= positions[rows, None] - positions[None] >= softmax.window
            attention = _mean_over_heads(query[:, rows], key, softmax, hidden)
            before += share[:, rows] @ attention.double() / 2
        share = before
    return share[:, : run.shared].float()


def _mean_over_heads(
    query: torch.Tensor, key: torch.Tensor, softmax: Softmax, hidden: torch.Tensor
) -> torch.Tensor:
    """Return attention [rows, P]; query [heads, rows, D], key [key heads, P, D]."""
    group = query.shape[0] // key.shape[0]
    total = query.new_zeros(hidden.shape).float()
    for number, of_key in enumerate(key):
        heads = slice(number * group, (number + 1) * group)
        logits = softmax.cap((query[heads].float() * softmax.scale) @ of_key.float().T)
        total += softmax.normalise(logits.masked_fill_(hidden, -torch.inf), heads).sum(0)
    return total / query.shape[0]
