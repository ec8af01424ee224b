"""Measuring attention by slot: lists in shuffled orders, so that slots do not stand for documents.

The attention a document draws is what its text deserves and what its slot brings. Over many
lists in drawn orders every slot holds good and bad, long and short documents alike; what is left
in the mean is the slot's.
"""

from __future__ import annotations

import logging
import math
import random
import statistics
from collections.abc import Callable, Iterable, Sequence

from ranklens.data.errors import InvalidInputError
from ranklens.data.models.naming import name_of
from ranklens.data.records import Document, Query
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import checked_request
from ranklens.rerank.positions.position_profile import PositionProfile

_log = logging.getLogger(__name__)


def measure_positions(
    reranker: AttentionReranker,
    lists: Iterable[tuple[str | Query, Sequence[str | Document]]],
    *,
    slots: int | None = None,
    shuffles: int = 1,
    seed: int = 0,
    data: Sequence[str] = (),
    on_list: Callable[[int], None] | None = None,
) -> PositionProfile:
    """Return how much attention a model pays to each slot, mean over layers, heads and lists.

    Load the reranker with ``profile="attention-sorting"``: it reads the prompt's last token,
    which is where an answer begins, without calibration. Of each list the first ``slots``
    documents are read (None: as many as the shortest list has), in ``shuffles`` orders drawn
    by ``seed``. ``data`` is recorded, ``on_list`` is told the documents read after each list.
    That documents had to be shortened is logged.

    Raises InvalidInputError for no list, one of fewer than ``slots`` documents, fewer than two
    slots, and a reranker whose profile has no slots or reads chosen heads (see
    ``slot_attention``); NumericalError for NaN or Inf.
    """
    check_reads_slots(reranker)
    requests = [checked_request(query, documents) for query, documents in lists]
    if not requests:
        raise InvalidInputError("there is no list to measure on")
    shortest = min(len(documents) for _, documents in requests)
    depth = shortest if slots is None else slots
    for name, value, least in (("slots", depth, 2), ("shuffles", shuffles, 1)):
        if value < least:
            raise InvalidInputError(f"{name} must be at least {least}, got {value}")
    by_list = []
    shortened = 0
    for number, (text, documents) in enumerate(requests):
        if len(documents) < depth:
            raise InvalidInputError(
                f"list {number} has {len(documents)} documents, fewer than the {depth} slots; "
                "leave it out, or measure fewer slots"
            )
        source = random.Random(f"{seed} {number}")
        read = []
        for _ in range(shuffles):
            order = source.sample(range(depth), depth)
            attention, cut = slot_attention(reranker, text, documents[:depth], order)
            shortened += sum(map(bool, cut))
            read.append([attention[index] for index in order])
        by_list.append([statistics.fmean(values) for values in zip(*read, strict=True)])
        if on_list is not None:
            on_list(depth * shuffles)
    if shortened:
        _log.warning(
            "%d of %d documents were shortened to fit",
            shortened,
            depth * shuffles * len(requests),
        )
    by_slot = list(zip(*by_list, strict=True))
    model = reranker.model
    name = model.spec if model else str(reranker.engine.config.name_or_path)
    return PositionProfile(
        model=name_of(name),
        revision=model.revision if model else None,
        profile=reranker.profile.name,
        dtype=reranker.engine.placement.dtype,
        lists=len(by_list),
        documents=depth,
        shuffles=shuffles,
        seed=seed,
        values=tuple(map(statistics.fmean, by_slot)),
        errors=tuple(map(_standard_error, by_slot)),
        data=tuple(data),
    )


def slot_attention(
    reranker: AttentionReranker, query: str, documents: Sequence[Document], order: Sequence[int]
) -> tuple[list[float], list[int]]:
    """Return the attention paid to each document, and its tokens cut, as ``documents`` stand.

    ``order`` holds their positions as they stand in the prompt. The attention of the profile's
    rows is summed over a document's tokens and averaged over rows, layers and heads: a share of
    all attention, in [0, 1]. Content-free queries have no part in it.
    """
    layout = reranker.layout(query, documents, order=order)
    signal = reranker.read(layout)
    heads = sum(sum(of_layer.values()) for of_layer in signal.plan.weights.values())
    own = signal.total()[0] / heads
    # Rounding must not make a share of slightly more than there is.
    attention = [min(1.0, float(own[first:end].sum())) for first, end in layout.spans]
    return attention, list(layout.tokens_cut)


def check_reads_slots(reranker: AttentionReranker) -> None:
    """Raise InvalidInputError unless a reranker's attention by slot means something.

    That is, it reads attention of all heads alike, and its documents have places.
    """
    profile = reranker.profile
    way_out = "load the model with profile='attention-sorting'"
    if profile.layout.positions == "shared":
        raise InvalidInputError(
            f"profile {profile.name!r} gives all documents one place (layout.positions 'shared'): "
            f"there are no slots to compare; {way_out}"
        )
    if profile.signal.heads is not None or profile.signal.values != "attention":
        raise InvalidInputError(
            f"profile {profile.name!r} does not read the attention of all heads, which is what "
            f"documents get; {way_out}"
        )


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
