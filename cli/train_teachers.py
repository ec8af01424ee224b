"""Teachers of training lists, as they are named on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import MissingResourceError, UsageError

if TYPE_CHECKING:
    from ranklens.cli.specs import RerankerSpec
    from ranklens.data.records import ScoredDoc
    from ranklens.rerank.training.building import Asked, Corpus, Draft, Scores

_CANDIDATES = "candidates"
Runs = Mapping[str, Mapping[str, "Callable[[], Mapping[str, Sequence[ScoredDoc]]]"]]
"""By collection, the runs it brings along."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher that is described but not loaded: ``spec`` None for the run ``run``."""

    name: str
    spec: RerankerSpec | None
    run: str = ""

    def describe(self) -> dict[str, Any]:
        """Return what its scores depend on; a named model is pulled."""
        return {"run": self.run} if self.spec is None else self.spec.describe()


def parse_teachers(given: Sequence[str], device: str | None, dtype: str | None) -> list[Teacher]:
    """Read ``[NAME=]KIND:MODEL`` and ``[NAME=]candidates:RUN``; the name is else the model's.

    Raises UsageError for what is no reranker that can teach, and for a name that comes twice.
    """
    teachers: dict[str, Teacher] = {}
    for text in given:
        one = _teacher(text, device, dtype)
        if one.name in teachers:
            raise UsageError(
                f"two teachers are called {one.name!r}; name them: --teacher NAME={text}"
            )
        teachers[one.name] = one
    return list(teachers.values())


def _teacher(text: str, device: str | None, dtype: str | None) -> Teacher:
    from ranklens.cli.specs import RerankerSpec
    from ranklens.data.models.naming import name_of
    from ranklens.rerank.training.teachers import check_teacher

    name, equals, spec = text.partition("=")
    if not equals or ":" in name:
        name, spec = "", text
    kind, colon, what = spec.partition(":")
    if kind == _CANDIDATES and colon and what:
        return Teacher(check_teacher(name or what), None, what)
    parsed = RerankerSpec.parse(spec, None, device, dtype)
    if not parsed.model:
        raise UsageError(f"--teacher {text!r} has nothing to teach: it keeps the order it is given")
    return Teacher(check_teacher(name or name_of(parsed.model).rpartition("/")[2]), parsed)


def scores_by_teacher(
    teachers: Sequence[Teacher],
    drafts: Sequence[Draft],
    corpus: Corpus,
    runs: Runs,
    cache: Path | None,
) -> Scores:
    """Have every query of every list scored by every teacher; models are loaded one at a time.

    Scores are kept in the folder ``cache``. Raises MissingResourceError for a run that no
    collection brings along.
    """
    asked = [(draft, one) for draft in drafts for one in draft.queries]
    by_teacher: dict[str, dict[tuple[tuple[str, ...], str], tuple[float, ...]]] = {}
    for teacher in teachers:
        found = (
            _of_run(teacher, asked, runs)
            if teacher.spec is None
            else _of_model(teacher, teacher.spec, asked, corpus, cache)
        )
        by_teacher[teacher.name] = dict(found)

    def scores(draft: Draft, one: Asked) -> dict[str, Sequence[float]]:
        place = draft.documents, one.id
        return {name: known[place] for name, known in by_teacher.items() if place in known}

    return scores


_Scored = Iterator[tuple[tuple[tuple[str, ...], str], tuple[float, ...]]]


def _of_run(teacher: Teacher, asked: Sequence[tuple[Draft, Asked]], runs: Runs) -> _Scored:
    from ranklens.rerank.training.teachers import run_scores

    having = {name: own[teacher.run]() for name, own in runs.items() if teacher.run in own}
    if not having:
        known = sorted({run for own in runs.values() for run in own})
        raise MissingResourceError(
            f"no collection has candidates named {teacher.run!r} to teach by "
            f"(there are: {', '.join(known) or 'none'})"
        )
    for draft, one in asked:
        run = having.get(one.material.name, {}).get(one.query.id)
        if run:
            names = [one.material.own.get(name) for name in draft.documents]
            yield (draft.documents, one.id), run_scores(run, names)


def _of_model(
    teacher: Teacher,
    spec: RerankerSpec,
    asked: Sequence[tuple[Draft, Asked]],
    corpus: Corpus,
    cache: Path | None,
) -> _Scored:
    from ranklens.cli.output import note
    from ranklens.cli.progress import progress
    from ranklens.data.home import home
    from ranklens.data.journal import open_journal
    from ranklens.rerank.training.teachers import digest_of, teach, work

    made_with = {name: value for name, value in spec.describe().items() if name != "versions"}
    folder = cache or home() / "teachers"
    path = folder / f"{teacher.name}-{digest_of(made_with)}.jsonl"
    requests = [
        (one.query.text, [corpus.documents[name] for name in draft.documents])
        for draft, one in asked
    ]
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(open_journal(path, made_with))
        note(f"loading {spec.text}")
        reranker = spec.load()
        total = work(reranker, requests)
        advance = stack.enter_context(progress(f"{teacher.name} teaches", total, "texts"))
        scores = teach(reranker, requests, journal, advance)
    for (draft, one), values in zip(asked, scores, strict=True):
        yield (draft.documents, one.id), values
