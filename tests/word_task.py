"""A task that a tiny random decoder can learn: the query's word stands in exactly one document."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from tests.tiny_trained import make_base

from ranklens.data.models import resolve
from ranklens.data.records import Document
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile import Profile
from ranklens.rerank.training.checkpoint import TrainingFolder
from ranklens.rerank.training.lists import TrainingList, TrainingQuery
from ranklens.rerank.training.settings import Schedule, Settings
from ranklens.rerank.training.starting import starting_profile
from ranklens.rerank.training.student import Student
from ranklens.rerank.training.trainer import Trainer, trained_weights
from ranklens.rerank.training.validation import HeldOut

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
    """Return a profile with a short prompt, which reads the first layer of a model."""
    base = starting_profile(layers=1)
    prompt = dataclasses.replace(
        base.prompt, introduction="", marker="", instruction="Find", query_label=":"
    )
    signal = dataclasses.replace(base.signal, rows="query")
    return dataclasses.replace(base, name="words", prompt=prompt, signal=signal)


def make_model(folder: Path) -> Path:
    """Make a random decoder of two layers."""
    return make_base(folder, num_hidden_layers=2)


def settings_of(base: Path, **changes: Any) -> Settings:
    """Return settings of a short run, with all weights."""
    usual: dict[str, Any] = {
        "lists": "words", "model": base.name, "revision": resolve(str(base)).revision,
        "profile": word_profile().to_dict(), "objective": "graded", "steps": 6,
        "learning_rate": 1e-2, "head_learning_rate": 1e-2, "lora": None,
        "schedule": Schedule("cosine", 1), "accumulate": 2, "validate_every": 3,
    }  # fmt: skip
    return Settings(**(usual | changes))


def trainer_in(
    folder: TrainingFolder,
    base: Path,
    settings: Settings,
    *,
    lists: int = 40,
    held_out: HeldOut | None = None,
    save_every: int = 2,
) -> Trainer:
    """Return a trainer of the task in a folder, as a program that was started anew has it."""
    folder.begin(settings)
    profile = word_profile()
    engine = AttentionEngine.from_pretrained(
        base, device="cpu", dtype=settings.dtype, layers=profile.signal.layers_needed
    )
    named = trained_weights(engine.model, settings)
    student = Student(engine, profile, train_heads=settings.head_learning_rate > 0)
    return Trainer(
        student, named, settings, word_lists(lists, "train"), folder,
        held_out=held_out, save_every=save_every,
    )  # fmt: skip


def held_out_words(count: int = 10) -> HeldOut:
    """Return lists of the task that no training list is equal to."""
    return HeldOut(tuple(word_lists(count, "held-out")), "words")
