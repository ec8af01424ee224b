"""A task that a tiny random decoder can learn: the query's word stands in exactly one document.

Loaded by ``pytest_plugins = ["word_task"]``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.records import Document
from ranklens.rerank.profile import Profile, PromptChoice
from ranklens.rerank.training.lists import TrainingList, TrainingQuery
from ranklens.rerank.training.settings import Schedule, Settings
from ranklens.rerank.training.starting import starting_profile

WORDS = tuple("ABCDEHIJKLMNORST")
DOCUMENTS, LENGTH = 5, 2


def word_list(number: int, seed: str) -> TrainingList:
    """Make a list of documents of two letters, no letter twice, and four queries of one letter."""
    rng = random.Random(f"{seed} {number}")
    words = rng.sample(WORDS, LENGTH * DOCUMENTS)
    documents = tuple(
        Document(f"{seed}{number}-{n}", " ".join(words[LENGTH * n : LENGTH * (n + 1)]))
        for n in range(DOCUMENTS)
    )
    queries = []
    for place in rng.sample(range(LENGTH * DOCUMENTS), 4):
        grades = tuple(int(n == place // LENGTH) for n in range(DOCUMENTS))
        taught = tuple(0.5 * grade for grade in grades)
        queries.append(
            TrainingQuery(f"{seed}{number}.{place}", words[place], grades, {"oracle": taught})
        )
    return TrainingList(documents, tuple(queries))


def word_lists(count: int, seed: str) -> list[TrainingList]:
    return [word_list(number, seed) for number in range(count)]


def word_profile() -> Profile:
    """Return a profile with a short prompt, which is most of what a tiny model's pass costs."""
    import dataclasses

    base = starting_profile(layers=1)
    prompt = dataclasses.replace(
        base.prompt, introduction="", marker="", instruction="Find", query_label=":"
    )
    signal = dataclasses.replace(base.signal, rows="query")
    return dataclasses.replace(base, name="words", prompt=prompt, signal=signal)
