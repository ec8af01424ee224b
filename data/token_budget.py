"""How many tokens each text of a prompt may have, so that all fit."""

from __future__ import annotations

from collections.abc import Sequence

MIN_DOCUMENT_TOKENS = 16
"""A context that leaves its longest documents less than this is refused: what is said of them
would be said of first lines."""


def token_budget(lengths: Sequence[int], room: int) -> int | None:
    """Return the largest b with Σ min(length, b) ≤ room; None where only a tiny b would do."""
    if sum(lengths) <= room:
        return max(lengths)
    # Fill from the shortest: every document either fits whole or takes an equal share.
    left = room
    for position, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - position)
        if length > share:
            return share if share >= MIN_DOCUMENT_TOKENS else None
        left -= length
    raise AssertionError("unreachable: the documents did not fit, so one exceeds its share")
