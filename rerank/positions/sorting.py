"""Attention sorting: documents that a model attends to move towards the question, in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document, Query
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import checked_request
from ranklens.rerank.positions.measure import check_reads_slots, slot_attention
from ranklens.rerank.prompt import orders


@dataclass(frozen=True, slots=True)
class AttentionOrder:
    """An order for the prompt, highest attention last.

    ``order``: the documents' positions in the caller's list, slot by slot. ``attention``: what
    each document, in the caller's order, had in the last round. ``rounds`` were read;
    ``settled`` says that the last one changed nothing, so that more would not either.
    ``tokens_cut``: of each document, those that the model did not see.
    """

    order: tuple[int, ...]
    attention: tuple[float, ...]
    rounds: int
    settled: bool
    tokens_cut: tuple[int, ...] = ()


def attention_sort(
    reranker: AttentionReranker,
    query: str | Query,
    documents: Sequence[str | Document],
    *,
    rounds: int = 5,
) -> AttentionOrder:
    """Return the documents in the order that attention sorting brings them into.

    Each round reads the attention of the prompt's last token to every document, mean over
    layers and heads, and sorts by it, highest last; equal ones keep their places. The first
    round has the order of the reranker's profile (best of the stage before last). Stops when a
    round changes nothing. Load the reranker with ``profile="attention-sorting"``.

    Raises InvalidInputError for ``rounds`` below 1, and as ``measure_positions`` and ``rank``.
    """
    if rounds < 1:
        raise InvalidInputError(f"rounds must be at least 1, got {rounds}")
    check_reads_slots(reranker)
    text, records = checked_request(query, documents)
    order = orders(reranker.profile.prompt.order, len(records))[0]
    read = 0
    settled = False
    attention: list[float] = []
    cut: list[int] = []
    while read < rounds and not settled:
        attention, cut = slot_attention(reranker, text, records, order)
        found = sorted(order, key=attention.__getitem__)
        settled = found == order
        order = found
        read += 1
    return AttentionOrder(tuple(order), tuple(attention), read, settled, tuple(cut))
