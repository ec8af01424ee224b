"""In which order lists are visited, and their documents read: a function of the seed alone.

Nothing is drawn from generators that others share, so a place in the order needs no state but the
number of visits before it.
"""

from __future__ import annotations

import dataclasses
import functools
import random

from ranklens.rerank.training.lists import TrainingList


@functools.lru_cache(maxsize=2)
def epoch_order(lists: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Return the order of an epoch: every list once."""
    order = list(range(lists))
    random.Random(f"order {seed} {epoch}").shuffle(order)
    return tuple(order)


def visited(visit: int, lists: int, seed: int) -> int:
    """Return the number of the list that visit ``visit`` (from 0) of a run goes to."""
    epoch, place = divmod(visit, lists)
    return epoch_order(lists, seed, epoch)[place]


def shuffled(training: TrainingList, seed: int, visit: int) -> TrainingList:
    """Return a list with its documents in the order of a visit, and all that goes by them."""
    order = list(range(len(training.documents)))
    random.Random(f"documents {seed} {visit}").shuffle(order)
    return TrainingList(
        tuple(training.documents[place] for place in order),
        tuple(
            dataclasses.replace(
                query,
                grades=None if query.grades is None else tuple(query.grades[p] for p in order),
                teachers={
                    name: tuple(scores[place] for place in order)
                    for name, scores in query.teachers.items()
                },
            )
            for query in training.queries
        ),
    )
