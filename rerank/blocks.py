"""Attention of documents that see the prefix and themselves only.

Each block is computed as a causal sequence of its own, the prefix before it, so that no mask is
needed; blocks of like length are one batch, padded behind their ends, where causality keeps the
padding out of sight. The prefix's queries are computed again with every block: with the short
prefixes that block prompts have this is less work than a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ranklens.rerank.body import Softmax, causal_attention

_STEP = 32
_MOST = 8192
"""Lengths are rounded up to ``_STEP``, whose multiples are the fastest on a CPU; a batch holds at
most ``_MOST`` tokens."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Blocks of like length: ``tokens`` [blocks, prefix + longest], padded with the last token.

    ``inside`` [tokens of all blocks]: where in the flattened bucket the blocks' tokens stand,
    and ``places`` [tokens of all blocks] where in the prompt.
    """

    tokens: torch.Tensor
    inside: torch.Tensor
    places: torch.Tensor


def buckets(blocks: Sequence[tuple[int, int]], device: torch.device) -> list[Bucket]:
    """Sort blocks, half-open token ranges behind a prefix, into buckets."""
    prefix = blocks[0][0]
    by_length: dict[int, list[tuple[int, int]]] = {}
    for start, end in blocks:
        by_length.setdefault(-(-(prefix + end - start) // _STEP) * _STEP, []).append((start, end))
    found = []
    for length, of_length in sorted(by_length.items()):
        most = max(1, _MOST // length)
        parts = (of_length[first : first + most] for first in range(0, len(of_length), most))
        found += [_bucket(part, prefix, length, device) for part in parts]
    return found


def _bucket(
    blocks: Sequence[tuple[int, int]], prefix: int, length: int, device: torch.device
) -> Bucket:
    starts = torch.tensor([start for start, _ in blocks])[:, None]
    ends = torch.tensor([end for _, end in blocks])[:, None]
    column = torch.arange(length)[None].expand(len(blocks), -1)
    place = torch.minimum(starts + column - prefix, ends - 1)
    tokens = torch.where(column < prefix, column, place)
    own = (column >= prefix) & (starts + column - prefix < ends)
    inside = own.flatten().nonzero()[:, 0]
    return Bucket(*(x.to(device) for x in (tokens, inside, tokens.flatten()[inside])))


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix: int,
    found: Sequence[Bucket],
    softmax: Softmax,
    positions: torch.Tensor,
    output: torch.Tensor,
) -> None:
    """Write the attention output of prefix and blocks to ``output`` [1, length, heads, D].

    Shapes: query [1, heads, P, D]; key, value [1, key heads, P, D]. The first ``prefix`` tokens
    are causal among themselves; ``positions`` [P] of all tokens are what a window counts.
    """
    output[:, :prefix] = causal_attention(query, key, value, prefix, softmax)
    for bucket in found:
        q, k, v = (_gathered(x[0], bucket.tokens) for x in (query, key, value))
        counted = None if softmax.window is None else positions[bucket.tokens]
        attended = causal_attention(q, k, v, q.shape[2], softmax, counted).flatten(0, 1)
        output[0].index_copy_(0, bucket.places, attended.index_select(0, bucket.inside))


def _gathered(states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the ``tokens`` [blocks, length] of states [heads, P, D] as [blocks, heads, length, D].

    A model's states lie token by token in memory, so whole tokens are copied, not heads of them.
    """
    heads, _, size = states.shape
    rows = states.transpose(0, 1).index_select(0, tokens.flatten())
    return rows.view(*tokens.shape, heads, size).transpose(1, 2)
