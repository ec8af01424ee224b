"""Runs: for each query its documents in a strict order, and the TREC file that carries them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import Place, Report, atomic_writer, open_text, read_lines, refuse, shown
from ranklens.data.records import ScoredDoc, check_id


class Run(Mapping[str, tuple[ScoredDoc, ...]]):
    """An immutable mapping of query id to scored documents, best first.

    The order given is the order kept, so scores must not increase along it; equal scores are
    allowed (their order is then the caller's tie-break). Raises InvalidInputError for an id
    that is not a str or is empty, a document that occurs twice, a score that is not finite,
    or an increasing score.
    """

    def __init__(self, rankings: Mapping[str, Iterable[ScoredDoc]], tag: str = "ranklens") -> None:
        self.tag = tag
        self._rankings = {
            query_id: _checked(query_id, tuple(docs)) for query_id, docs in rankings.items()
        }

    @classmethod
    def _of_checked(cls, rankings: dict[str, tuple[ScoredDoc, ...]], tag: str) -> Run:
        run = cls({}, tag)
        run._rankings = rankings
        return run

    def __getitem__(self, query_id: str) -> tuple[ScoredDoc, ...]:
        return self._rankings[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rankings)

    def __len__(self) -> int:
        return len(self._rankings)

    def __repr__(self) -> str:
        documents = sum(map(len, self.values()))
        return f"Run(tag={self.tag!r}, queries={len(self)}, documents={documents})"

    @property
    def tied_queries(self) -> tuple[str, ...]:
        """The ids of the queries in which two documents score the same in single precision."""
        return tuple(
            query_id
            for query_id, docs in self.items()
            if _has_equal_neighbours(single_precision(doc.score for doc in docs))
        )


def single_precision(scores: Iterable[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return scores as trec_eval holds them; beyond the range of float32 they are infinite."""
    with np.errstate(over="ignore"):
        return np.fromiter(scores, dtype=np.float64).astype(np.float32)


def _has_equal_neighbours(scores: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    return bool(np.any(scores[1:] == scores[:-1]))


def _checked(query_id: str, docs: tuple[ScoredDoc, ...]) -> tuple[ScoredDoc, ...]:
    seen: set[str] = set()
    previous = math.inf
    check_id("query id", query_id)
    for doc in docs:
        check_id("document id", doc.doc_id)
        if doc.doc_id in seen:
            raise InvalidInputError(f"query {query_id!r}: document {doc.doc_id!r} occurs twice")
        seen.add(doc.doc_id)
        if not math.isfinite(doc.score):
            raise InvalidInputError(
                f"query {query_id!r}: document {doc.doc_id!r} has the score {doc.score}"
            )
        if doc.score > previous:
            raise InvalidInputError(
                f"query {query_id!r}: document {doc.doc_id!r} scores higher than the one before it"
            )
        previous = doc.score
    return docs


def read_run(path: Path) -> Run:
    """Read a TREC run file (``query Q0 document rank score tag``; plain or gzip).

    Documents are ordered by score, descending; equal scores by the rank column, then by
    document id. The tag is the last line's; what follows it is ignored. Lines starting with
    ``#`` are comments (ir_metadata headers). Raises InvalidInputError that names the line for
    a wrong column count, a rank or score that is not a number, NaN, and a document that a query
    lists twice.
    """
    # Most files have nothing wrong with them, and a million lines; what has is read with care.
    return _read_plain(path) or _read_with_care(path)


def _read_plain(path: Path) -> Run | None:
    """Return the run of a file in which everything is as it should be, else None."""
    if not path.is_file():
        return None
    columns: dict[str, tuple[list[str], list[float], list[float]]] = {}
    current, line = None, ""
    try:
        with open_text(path) as stream:
            for line in stream:
                query_id, _, doc_id, rank, score, _ = line.split(None, 5)
                if query_id != current:
                    if query_id.startswith("#"):
                        return None
                    current = query_id
                    ids, ranks, scores = columns.setdefault(query_id, ([], [], []))
                if "_" in score or "_" in rank:
                    return None
                ids.append(doc_id)
                ranks.append(float(rank))
                scores.append(float(score))
    except (OSError, ValueError, EOFError, zlib.error):
        return None
    rankings = {}
    for query_id, (ids, ranks, scores) in columns.items():
        values = np.array([scores, ranks])
        if len(set(ids)) < len(ids) or not np.isfinite(values).all():
            return None
        docs: Iterable[ScoredDoc] = map(ScoredDoc, ids, scores)
        if not (values[0, 1:] < values[0, :-1]).all():
            rows = sorted(zip((-values[0]).tolist(), ranks, ids, docs, strict=True))
            docs = (row[3] for row in rows)
        rankings[query_id] = tuple(docs)
    return Run._of_checked(rankings, line.split()[5]) if rankings else None


def _read_with_care(path: Path) -> Run:
    rows: dict[str, list[RunLine]] = {}
    seen: dict[tuple[str, str], int] = {}
    tag: str | None = None
    for place, row in run_lines(path):
        first = seen.setdefault((row.query_id, row.doc_id), place.line)
        if first != place.line:
            raise place.error(
                f"document {row.doc_id!r} occurs twice for query {row.query_id!r} "
                f"(first: line {first})"
            )
        rows.setdefault(row.query_id, []).append(row)
        tag = row.tag
    if tag is None:
        raise InvalidInputError(f"{path}: the run file is empty")
    return Run(
        {
            query_id: [ScoredDoc(row.doc_id, row.score) for row in sorted(docs, key=_order)]
            for query_id, docs in rows.items()
        },
        tag=tag,
    )


class RunLine(NamedTuple):
    """A line of a TREC run file."""

    query_id: str
    doc_id: str
    rank: float
    score: float
    tag: str


def _order(row: RunLine) -> tuple[float, float, str]:
    return -row.score, row.rank, row.doc_id


def run_lines(path: Path, report: Report = refuse) -> Iterator[tuple[Place, RunLine]]:
    """Yield the lines of a run file with their places, also of a document that was there before."""
    for place, line in read_lines(path, report):
        if line.startswith("#"):
            continue
        # Like trec_eval, which ignores what follows the tag.
        columns = line.split()[:6]
        if len(columns) < 6:
            report(
                place.error(
                    "expected 6 columns (query Q0 document rank score tag), "
                    f"got {len(columns)}: {shown(line)}"
                )
            )
            continue
        query_id, _, doc_id, rank, score, tag = columns
        try:
            row = RunLine(
                query_id,
                doc_id,
                place.number("rank", rank),
                place.number("score", score),
                tag,
            )
        except InvalidInputError as error:
            report(error)
            continue
        yield place, row


def write_run(run: Run, path: Path) -> None:
    """Write a run as a TREC file, whole or not at all.

    trec_eval sorts by single-precision score and breaks ties by document id, so scores are
    written as single-precision values that strictly decrease: an equal score becomes the next
    representable number below. The file then evaluates in exactly the order of the run.
    """
    tag = run.tag or "ranklens"
    _check_column("run tag", tag)
    with atomic_writer(path) as stream:
        for query_id, docs in run.items():
            check_run_query(query_id)
            scores = strictly_decreasing([doc.score for doc in docs])
            for rank, (doc, score) in enumerate(zip(docs, scores, strict=True), start=1):
                _check_column("document id", doc.doc_id)
                stream.write(f"{query_id} Q0 {doc.doc_id} {rank} {score:.9g} {tag}\n")


def check_run_query(query_id: str) -> None:
    """Raise InvalidInputError for a query id that a TREC run file cannot carry."""
    _check_column("query id", query_id)
    if query_id.startswith("#"):
        raise InvalidInputError(
            f"the query id {shown(query_id)} starts with '#': "
            "its lines would be comments in a TREC run"
        )


def _check_column(kind: str, value: str) -> None:
    if value.split() != [value]:
        raise InvalidInputError(
            f"the {kind} {shown(value)} has white space in it: the TREC run format cannot carry it"
        )


def strictly_decreasing(scores: Iterable[float]) -> list[float]:
    """Return single-precision scores that strictly decrease, changing as few as possible.

    ``scores`` must not increase. A score that is not below the one before it becomes the next
    single-precision number below that one.
    """
    up = np.float32(np.inf)
    highest = np.finfo(np.float32).max
    result = np.clip(single_precision(scores), -highest, highest)
    with np.errstate(over="ignore"):
        for index in range(1, len(result)):
            if result[index] >= result[index - 1]:
                result[index] = np.nextafter(result[index - 1], -up)
        # Below the lowest number there is no next one: make room from the end upwards.
        floor = -highest
        for index in reversed(range(len(result))):
            if result[index] >= floor:
                break
            result[index] = floor
            floor = np.nextafter(floor, up)
    return [float(score) for score in result]
