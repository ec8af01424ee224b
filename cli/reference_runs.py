"""Making the run of a reference row with what is on this disk, and judging it."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from pathlib import Path

from ranklens.cli.output import note
from ranklens.cli.retrievers import RETRIEVERS, RetrieverSpec
from ranklens.cli.stages import retrieve
from ranklens.data.collection import Collection
from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    MissingResourceError,
    RanklensError,
)
from ranklens.data.files import shown
from ranklens.data.irds import SCOREDDOCS
from ranklens.data.irds_files import no_fetching
from ranklens.data.load import load_collection
from ranklens.data.models import resolve
from ranklens.data.runs import Run
from ranklens.eval.measures import evaluate
from ranklens.eval.reference import ReferenceRow, ReferenceSet, Reproduced, reproduced

DEPTH = 1000
"""Documents a query, as the published runs have."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row: ``OK``, ``off``, ``no data``, ``not available`` or ``failed``.

    ``comparisons`` are there for the first two, a ``reason`` for the others.
    """

    row: ReferenceRow
    status: str
    comparisons: tuple[Reproduced, ...] = ()
    reason: str = ""

    @property
    def ran(self) -> bool:
        """Whether there is a verdict on the row."""
        return self.status not in ("no data", "not available")


def reproduce_row(row: ReferenceRow, folders: Path | None) -> Outcome:
    """Make a row's run and compare its measures; nothing is downloaded.

    ``folders`` is where folders of test sets lie. What lacks for the row, or fails, is part of
    the outcome.
    """
    try:
        spec = _spec(row)
        with no_fetching():
            collection = _find(row, folders)
            judged = collection.judgements("a reference row")
            run = _run(row, collection, spec)
        measured = evaluate(judged, run, list(row.expected)).measures
    except MissingPrerequisiteError as error:
        return Outcome(row, "not available", reason=str(error))
    except MissingResourceError as error:
        return Outcome(row, "no data", reason=str(error))
    except (RanklensError, OSError, RuntimeError, MemoryError) as error:
        # One row that fails does not take the others with it.
        return Outcome(row, "failed", reason=str(error) or type(error).__name__)
    comparisons = tuple(reproduced(row, {name: found.value for name, found in measured.items()}))
    return Outcome(row, "OK" if all(c.ok for c in comparisons) else "off", comparisons)


def _spec(row: ReferenceRow) -> RetrieverSpec | None:
    """Return the retriever that a row asks for; None where it evaluates candidates."""
    if row.kind == "candidates":
        return None
    if row.retriever not in RETRIEVERS:
        raise MissingPrerequisiteError(
            f"this version has no retriever {row.retriever!r} (it has: {', '.join(RETRIEVERS)})"
        )
    kinds = typing.get_type_hints(RetrieverSpec)
    del kinds["name"]
    for option, value in row.options.items():
        if option not in kinds:
            raise InvalidInputError(
                f"row {row.name!r}: the retriever has no option {option!r}; "
                f"it has {', '.join(sorted(kinds))}"
            )
        # A bool is an int to Python; an integer is a number to everyone.
        fits = isinstance(value, kinds[option] | int if kinds[option] is float else kinds[option])
        if not fits or (isinstance(value, bool) and kinds[option] is not bool):
            raise InvalidInputError(
                f"row {row.name!r}: the option {option!r} cannot be {shown(value)}"
            )
    return RetrieverSpec(row.retriever, **row.options)


def _find(row: ReferenceRow, folders: Path | None) -> Collection:
    """Return a row's collection; MissingResourceError says where it was looked for."""
    wanted = row.collection
    lacking = []
    if wanted.folder is not None:
        path = None if folders is None else folders / wanted.folder
        if path is not None and path.is_dir():
            try:
                loaded = load_collection(str(path))
                difference = _difference(loaded, wanted, row.kind)
                if difference is None:
                    return loaded
            except RanklensError as error:
                difference = str(error)
            lacking.append(f"the folder {path} is not that set: {difference}")
        else:
            lacking.append(f"no folder {path or f'{wanted.folder!r} (give --collections DIR)'}")
    # Of runs a dataset brings only its scoreddocs along.
    if wanted.irds is not None and row.candidates in ("", SCOREDDOCS):
        try:
            return load_collection(f"irds:{wanted.irds}")
        except (MissingPrerequisiteError, MissingResourceError) as error:
            lacking.append(str(error))
    raise MissingResourceError("; ".join(lacking))


def _difference(loaded: Collection, wanted: ReferenceSet, kind: str) -> str | None:
    """Say in what a folder is not the set that a row is about; None where it is."""
    queries = len(loaded.qrels)
    if not queries:
        return "it has no judgements"
    if wanted.queries not in (None, queries):
        return f"it has {queries:,} judged queries, not {wanted.queries:,}"
    if kind == "retrieval" and wanted.documents is not None:
        # What a search finds depends on every document: a part is another collection.
        documents = sum(1 for _ in loaded.documents)
        if documents != wanted.documents:
            return f"it has {documents:,} documents, not {wanted.documents:,}"
    return None


def _run(row: ReferenceRow, collection: Collection, spec: RetrieverSpec | None) -> Run:
    if spec is None:
        return collection.candidates(row.candidates)
    if spec.encodes:
        # The retriever would pull its model.
        resolve(spec.model)
    note(f"{row.name}:")
    queries = list(collection.queries)
    return retrieve(collection, spec, DEPTH, queries, remove_query=row.remove_query)
