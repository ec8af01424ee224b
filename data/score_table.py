"""Scores of systems per topic: a table in memory, and the TSV file that carries one.

The file has a header line with ``run``, ``topic`` and a column for each measure, then a line for
each run and topic, separated by tabs; plain or gzip. Columns have trec_eval's names
(``ndcg_cut_10``, ``map``) or any other. Topic ``all`` is a mean that a program has added.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.files import Place, read_lines, shown

_ALL = "all"
# Four decimals, as trec_eval writes them, are off by half of the last one; means a little more.
_MEAN_SLACK = 5e-4
_CUT = re.compile(r"(nDCG|P|R|AP)@(\d+)")
_COLUMNS = {"AP": "map", "RR": "recip_rank", "nDCG": "ndcg", "Rprec": "Rprec", "Bpref": "bpref"}
_CUT_COLUMNS = {"nDCG": "ndcg_cut", "P": "P", "R": "recall", "AP": "map_cut"}


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores ``values[system, topic]`` of one measure; a topic that a system lacks has 0.

    ``missing`` counts those, ``notes`` is what the user should know of the table.
    """

    measure: str
    systems: tuple[str, ...]
    topics: tuple[str, ...]
    values: NDArray[np.float64]
    missing: int = 0
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        measure: str,
        scores: Mapping[str, Mapping[str, float]],
        notes: Sequence[str] = (),
        missing: int = 0,
    ) -> ScoreTable:
        """Make a table of scores by system and topic.

        ``missing`` scores are 0 in ``scores`` already; those that it lacks are counted here.
        """
        systems = tuple(scores)
        topics = tuple(dict.fromkeys(topic for row in scores.values() for topic in row))
        values = [[row.get(topic, 0.0) for topic in topics] for row in scores.values()]
        missing += sum(len(topics) - len(row) for row in scores.values())
        if missing:
            notes = (*notes, f"{missing} pairs of a run and a topic are missing and count as 0")
        table = np.array(values, dtype=np.float64).reshape(len(systems), len(topics))
        return cls(measure, systems, topics, table, missing, tuple(notes))

    def restricted_to(self, systems: Sequence[str], topics: Sequence[str]) -> ScoreTable:
        """Return the table of these systems and topics, in this order."""
        rows = {system: row for row, system in enumerate(self.systems)}
        columns = {topic: column for column, topic in enumerate(self.topics)}
        values = self.values[np.ix_([rows[s] for s in systems], [columns[t] for t in topics])]
        return ScoreTable(self.measure, tuple(systems), tuple(topics), values)

    def means(self) -> dict[str, float]:
        """Return the mean over topics by system."""
        return dict(zip(self.systems, self.values.mean(axis=1).tolist(), strict=True))


def read_score_table(path: Path, measure: str) -> ScoreTable:
    """Read the scores of one measure, named as a column or as ir_measures does (``nDCG@10``).

    Rows of topic ``all`` are left out; a note says when they are not the means of the others.
    Raises InvalidInputError that names the line for a missing column, a score that is not a
    finite number, and a run with a topic twice; UsageError for a measure the table lacks.
    """
    rows = read_lines(path)
    place, header = next(rows, (Place(path, 1), ""))
    columns = header.split("\t")
    if "run" not in columns or "topic" not in columns:
        raise place.error(f"expected a header with run, topic and measures, got {shown(header)}")
    if twice := [name for name, count in Counter(columns).items() if count > 1]:
        raise place.error(f"the column {shown(twice[0])} occurs twice in the header")
    wanted = _column(measure, columns, path)
    run_at, topic_at, score_at = (columns.index(name) for name in ("run", "topic", wanted))
    scores: dict[str, dict[str, float]] = {}
    means: dict[str, float] = {}
    for place, fields in _fields(rows, len(columns)):
        run, topic, score = (
            fields[run_at],
            fields[topic_at],
            place.number("score", fields[score_at]),
        )
        of_run = means if topic == _ALL else scores.setdefault(run, {})
        key = run if topic == _ALL else topic
        if key in of_run:
            raise place.error(f"the topic {topic!r} of run {run!r} occurs twice")
        of_run[key] = score
    if not scores:
        raise InvalidInputError(f"{path}: there are no scores in the table")
    return ScoreTable.of(measure, scores, _notes(path, scores, means))


def _column(measure: str, columns: Sequence[str], path: Path) -> str:
    cut = _CUT.fullmatch(measure)
    name = f"{_CUT_COLUMNS[cut[1]]}_{cut[2]}" if cut else _COLUMNS.get(measure, measure)
    for candidate in (measure, name):
        if candidate in columns and candidate not in ("run", "topic"):
            return candidate
    known = ", ".join(column for column in columns if column not in ("run", "topic"))
    raise UsageError(f"{path} has no column for the measure {measure!r}; it has: {known}")


def _fields(rows: Iterator[tuple[Place, str]], width: int) -> Iterator[tuple[Place, list[str]]]:
    for place, line in rows:
        fields = line.split("\t")
        if len(fields) != width:
            raise place.error(f"expected {width} columns as in the header, got {len(fields)}")
        yield place, fields


def _notes(
    path: Path, scores: Mapping[str, Mapping[str, float]], means: Mapping[str, float]
) -> list[str]:
    off = [
        run
        for run, mean in means.items()
        if run in scores
        and abs(math.fsum(scores[run].values()) / len(scores[run]) - mean) > _MEAN_SLACK
    ]
    if not off:
        return []
    mean = math.fsum(scores[off[0]].values()) / len(scores[off[0]])
    return [
        f"{path}: the rows of topic 'all' of {len(off)} runs are not the means of their topics "
        f"(first: {off[0]!r}, {means[off[0]]:.4f} for a mean of {mean:.4f}); the means are used"
    ]
