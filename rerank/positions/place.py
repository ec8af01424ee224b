"""Putting a ranking into the slots of a prompt: the best document where a model looks most."""

from __future__ import annotations

from collections.abc import Sequence

from ranklens.rerank.base import RankedDocument
from ranklens.rerank.positions.position_profile import PositionProfile


def place(ranking: Sequence[RankedDocument], profile: PositionProfile) -> list[int]:
    """Return the documents' positions in the caller's list (``index``), slot by slot.

    The best document goes into the slot with the highest attention, the next into the next
    highest, and so on (AttnRank, arXiv 2508.05128); of slots with equal attention the later one,
    next to the question, is filled first. Rankings that are longer or shorter than the
    profile's lists have its values interpolated, see ``PositionProfile.over``. An empty ranking
    gives an empty list.

    >>> context = [texts[i] for i in place(reranker.rank(query, texts)[:10], profile)]
    """
    if not ranking:
        return []
    slots = filling(profile.over(len(ranking)))
    order = [0] * len(slots)
    for document, slot in zip(ranking, slots, strict=True):
        order[slot] = document.index
    return order


def filling(values: Sequence[float]) -> list[int]:
    """Return the slots in the order in which they are filled, by their attention."""
    return sorted(range(len(values)), key=lambda slot: (-values[slot], -slot))
