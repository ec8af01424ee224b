"""Relevance judgements and the two file formats that carry them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import read_lines, shown
from ranklens.data.records import Judgement, check_id

_BEIR_HEADER = ["query-id", "corpus-id", "score"]
# int() also reads 1_0 as 10.
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Qrels(Mapping[str, Mapping[str, int]]):
    """An immutable mapping of query id to document id to grade.

    Grades below 1 mean judged and not relevant. Raises InvalidInputError for an id that is not
    a str or is empty, a grade that is not an int, and a pair judged twice with different grades.
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
            known = self._grades.setdefault(query_id, {}).setdefault(doc_id, grade)
            if known != grade:
                raise InvalidInputError(
                    f"query {query_id!r}: document {doc_id!r} is judged twice, {known} and {grade}"
                )

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
        return Qrels(
            Judgement(query_id, doc_id, grade)
            for query_id, grades in self.items()
            if query_id in wanted
            for doc_id, grade in grades.items()
        )


def read_qrels(path: Path) -> Qrels:
    """Read TREC qrels (``query 0 document grade``) or BEIR's (``query document grade``, header).

    Plain or gzip. Raises InvalidInputError that names the line for a wrong column count, a
    grade that is not an integer, and a pair judged twice with different grades.
    """
    judgements: dict[tuple[str, str], tuple[int, int]] = {}
    width = 4
    for place, line in read_lines(path):
        columns = line.split()
        if not judgements and columns == _BEIR_HEADER:
            width = 3
            continue
        if line.startswith("#"):
            continue
        if len(columns) != width:
            form = (
                "query 0 document grade"
                if width == 4
                else "query-id corpus-id score, as its header"
            )
            raise place.error(
                f"expected {width} columns ({form}), got {len(columns)}: {shown(line)}"
            )
        query_id, doc_id, text = columns[0], columns[-2], columns[-1]
        if not _INTEGER.fullmatch(text):
            raise place.error(f"the grade {shown(text)} is not an integer")
        grade = int(text)
        known, first = judgements.setdefault((query_id, doc_id), (grade, place.line))
        if known != grade:
            raise place.error(
                f"document {doc_id!r} of query {query_id!r} is judged {grade} here "
                f"and {known} on line {first}"
            )
    if not judgements:
        raise InvalidInputError(f"{path}: the qrels file is empty")
    return Qrels(Judgement(q, d, grade) for (q, d), (grade, _) in judgements.items())
