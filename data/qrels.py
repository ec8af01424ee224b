"""Relevance judgements and the two file formats that carry them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import (
    Place,
    Report,
    atomic_writer,
    open_text,
    read_lines,
    refuse,
    shown,
)
from ranklens.data.records import Judgement, check_id
from ranklens.data.rows import read_parquet, text_field

_BEIR_HEADER = ["query-id", "corpus-id", "score"]
_QUERY_KEYS = ("query-id", "query_id", "qid")
_DOC_KEYS = ("corpus-id", "corpus_id", "doc_id", "docid")
_GRADE_KEYS = ("score", "grade", "relevance")
# int() also reads 1_0 as 10, and fails at thousands of digits.
_INTEGER = re.compile(r"[+-]?[0-9]{1,7}")
_LARGEST = 10**6
"""trec_eval counts the documents of each grade in a table: a large one takes gigabytes, and what
is beyond 32 bits is read as another grade."""


class Qrels(Mapping[str, Mapping[str, int]]):
    """An immutable mapping of query id to document id to grade.

    Grades below 1 mean judged and not relevant. Raises InvalidInputError for an id that is not
    a str or is empty, a grade that is not an int or beyond a million, and a pair judged twice
    with different grades.
    """

    def __init__(self, judgements: Iterable[Judgement]) -> None:
        self._grades: dict[str, dict[str, int]] = {}
        for query_id, doc_id, grade in ((j.query_id, j.doc_id, j.grade) for j in judgements):
            check_id("query id", query_id)
            check_id("document id", doc_id)
            if not isinstance(grade, int):
                raise InvalidInputError(
                    f"query {query_id!r}: the grade of document {doc_id!r} must be an int, "
                    f"got {type(grade).__name__} {grade!r}"
                )
            if abs(grade) > _LARGEST:
                raise InvalidInputError(
                    f"query {query_id!r}: the grade of document {doc_id!r} must lie within "
                    f"±{_LARGEST:,}, got {shown(grade)}"
                )
            known = self._grades.setdefault(query_id, {}).setdefault(doc_id, grade)
            if known != grade:
                raise InvalidInputError(
                    f"query {query_id!r}: document {doc_id!r} is judged twice, {known} and {grade}"
                )

    @classmethod
    def _of_checked(cls, grades: dict[str, dict[str, int]]) -> Qrels:
        qrels = cls(())
        qrels._grades = grades
        return qrels

    def __getitem__(self, query_id: str) -> Mapping[str, int]:
        return self._grades[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._grades)

    def __len__(self) -> int:
        return len(self._grades)

    def __repr__(self) -> str:
        return f"Qrels(queries={len(self)}, judgements={sum(map(len, self.values()))})"

    def restricted_to(self, query_ids: Iterable[str]) -> Qrels:
        """Return the judgements of these queries only."""
        wanted = set(query_ids)
        return Qrels._of_checked({q: grades for q, grades in self._grades.items() if q in wanted})


def read_qrels(path: Path) -> Qrels:
    """Read TREC qrels (``query 0 document grade``) or BEIR's (``query document grade``, header).

    Plain or gzip; or Parquet (``query-id|query_id|qid``, ``corpus-id|doc_id|docid``,
    ``score|grade|relevance``) by the suffix ``.parquet``. Raises InvalidInputError that names
    the line for a wrong column count, a grade that is not an integer of at most a million, and
    a pair judged twice with different grades.
    """
    # Most files have nothing wrong with them; what has is read with care.
    return _read_plain(path) or _read_with_care(path)


def _read_plain(path: Path) -> Qrels | None:
    """Return the judgements of a TREC file in which everything is as it should be, else None."""
    if path.suffix.lower() == ".parquet" or not path.is_file():
        return None
    grades: dict[str, dict[str, int]] = {}
    try:
        with open_text(path) as stream:
            for line in stream:
                query_id, _, doc_id, text = line.split()
                grade = int(text) if _INTEGER.fullmatch(text) else _LARGEST + 1
                known = grades.setdefault(query_id, {}).setdefault(doc_id, grade)
                if known != grade or abs(grade) > _LARGEST or query_id.startswith("#"):
                    return None
    except (OSError, ValueError, EOFError, zlib.error):
        return None
    return Qrels._of_checked(grades) if grades else None


def _read_with_care(path: Path) -> Qrels:
    judgements: dict[tuple[str, str], tuple[Judgement, Place]] = {}
    for place, judgement in judgement_places(path):
        pair = judgement.query_id, judgement.doc_id
        known, first = judgements.setdefault(pair, (judgement, place))
        if known != judgement:
            raise place.error(
                f"document {known.doc_id!r} of query {known.query_id!r} is judged "
                f"{judgement.grade} here and {known.grade} {first.seen_from(place)}"
            )
    if not judgements:
        raise InvalidInputError(f"{path}: the qrels file is empty")
    return Qrels(judgement for judgement, _ in judgements.values())


def judgement_places(path: Path, report: Report = refuse) -> Iterator[tuple[Place, Judgement]]:
    """Yield judgements with their places, also those of a pair that was there before."""
    if path.suffix.lower() == ".parquet":
        yield from _of_table(path, report)
        return
    width = 4
    begun = False
    for place, line in read_lines(path, report):
        columns = line.split()
        if not begun and columns == _BEIR_HEADER:
            width = 3
            continue
        if line.startswith("#"):
            continue
        begun = True
        if len(columns) != width:
            form = (
                "query 0 document grade"
                if width == 4
                else "query-id corpus-id score, as its header"
            )
            report(
                place.error(f"expected {width} columns ({form}), got {len(columns)}: {shown(line)}")
            )
        else:
            try:
                grade = _grade(place, columns[-1])
            except InvalidInputError as error:
                report(error)
                continue
            yield place, Judgement(columns[0], columns[-2], grade)


def _grade(place: Place, text: str) -> int:
    if not _INTEGER.fullmatch(text) or abs(int(text)) > _LARGEST:
        raise place.error(f"the grade {shown(text)} is not an integer within ±{_LARGEST:,}")
    return int(text)


def _of_table(path: Path, report: Report) -> Iterator[tuple[Place, Judgement]]:
    for place, row in read_parquet(path, report):
        try:
            grade = _grade(place, text_field(place, row, _GRADE_KEYS))
            judgement = Judgement(
                text_field(place, row, _QUERY_KEYS), text_field(place, row, _DOC_KEYS), grade
            )
        except InvalidInputError as error:
            report(error)
            continue
        yield place, judgement


def write_qrels(qrels: Qrels, path: Path) -> None:
    """Write TREC qrels (``query 0 document grade``), whole or not at all.

    Raises InvalidInputError for ids that the format cannot carry; see ``check_qrels_ids``.
    """
    check_qrels_ids((query_id, doc_id) for query_id, grades in qrels.items() for doc_id in grades)
    with atomic_writer(path) as stream:
        for query_id, grades in qrels.items():
            for doc_id, grade in grades.items():
                stream.write(f"{query_id} 0 {doc_id} {grade}\n")


def check_qrels_ids(pairs: Iterable[tuple[str, str]]) -> None:
    """Raise InvalidInputError for a query or document id that TREC qrels cannot carry."""
    for query_id, doc_id in pairs:
        for kind, value in (("query id", query_id), ("document id", doc_id)):
            if value.split() != [value] or (kind == "query id" and value.startswith("#")):
                raise InvalidInputError(
                    f"the {kind} {shown(value)} has white space in it or begins a comment: TREC "
                    "qrels cannot carry it"
                )
