"""What a figure rests on beside its measure, and how it is computed under other rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run, RunLine, run_lines, single_precision
from ranklens.eval.measure_names import Measure, parse_measure
from ranklens.eval.measures import evaluate
from ranklens.eval.policy import Policy

Rows = Mapping[str, Sequence[RunLine]]
Order = Literal["docno", "docno-ascending", "file", "rank"]
Precision = Literal["float32", "float64"]
_KEPT = 8
# The fields of a setting that say which judgements there are, and which order.
_OF_THE_FILES = (
    "order", "scores", "deduplicated", "other_qrels", "other_queries", "stripped_ids",
    "caseless_ids", "unpadded_ids", "integral_ids",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """Every rule that can be changed; the defaults are trec_eval 9's with ``-c``.

    ``gain``, ``recall``: another gain of nDCG's grades, another form of recall.
    ``level``: the grade from which documents are relevant; for nDCG, from which they gain.
    ``digits``: values of queries are rounded to so many digits before their mean is taken.
    ``order``: ``docno`` is score, then id, descending; ``docno-ascending`` the other way; ``file``
    is score, then the place in the file; ``rank`` is the rank column alone.
    ``without_relevant``: whether queries without a relevant document count.
    ``mean``: of several parts, the mean of their means or the mean over all queries.
    """

    gain: Literal["exponential", "linear"] | None = None
    level: int | None = None
    recall: Literal["R", "R_cap"] | None = None
    digits: int | None = None
    order: Order = "docno"
    scores: Precision = "float32"
    missing: Literal["zero", "skip"] = "zero"
    unjudged: Literal["zero", "removed"] = "zero"
    without_relevant: Literal["zero", "skip"] = "zero"
    self_documents: Literal["keep", "remove"] = "keep"
    depth: int | None = None
    mean: Literal["macro", "micro"] = "macro"
    deduplicated: bool = False
    other_qrels: bool = False
    other_queries: bool = False
    stripped_ids: bool = False
    caseless_ids: bool = False
    unpadded_ids: bool = False
    integral_ids: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A test set and its run, line by line in the file's order.

    ``other_qrels`` are the judgements of another version of the set; ``same_text`` maps a
    document's id to one id for all documents of its text.
    """

    qrels: Qrels
    rows: Rows
    other_qrels: Qrels | None = None
    same_text: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A figure, and what it is the mean of."""

    value: float
    per_query: tuple[float, ...]


def read_rows(path: Path) -> dict[str, list[RunLine]]:
    """Return a run file's lines by query; InvalidInputError as ``read_run``."""
    rows: dict[str, list[RunLine]] = {}
    seen: set[tuple[str, str]] = set()
    for place, row in run_lines(path):
        if (row.query_id, row.doc_id) in seen:
            raise place.error(f"document {row.doc_id!r} occurs twice for query {row.query_id!r}")
        seen.add((row.query_id, row.doc_id))
        rows.setdefault(row.query_id, []).append(row)
    if not rows:
        raise InvalidInputError(f"{path}: the run file is empty")
    return rows


class Figures:
    """A measure of some parts, computed under any setting.

    What settings have in common is kept: judgements and ranked runs of the last few.
    """

    def __init__(self, parts: Sequence[Part], measure: str) -> None:
        self._parts = parts
        self._measure = mean_measure(measure)
        self._read = lru_cache(_KEPT * len(parts))(self._judged_and_ranked)
        self._ranked = lru_cache(_KEPT * len(parts))(self._rank)

    def outcome(self, setting: Setting) -> Outcome:
        """Return the figure; InvalidInputError as ``evaluate``."""
        means, values = [], []
        for index in range(len(self._parts)):
            found = self._values(index, setting)
            means.append(sum(found) / len(found))
            values += found
        value = sum(means) / len(means) if setting.mean == "macro" else sum(values) / len(values)
        return Outcome(value, tuple(values))

    def _judged_and_ranked(self, index: int, setting: Setting) -> tuple[Qrels, Run]:
        qrels, rows = _judged_and_listed(self._parts[index], setting)
        # Most rules on ids and judgements leave the run as it was.
        if rows is self._parts[index].rows:
            return qrels, self._ranked(index, setting.order, setting.scores)
        return qrels, _ranking(rows, setting.order, setting.scores)

    def _rank(self, index: int, order: Order, scores: Precision) -> Run:
        return _ranking(self._parts[index].rows, order, scores)

    def _values(self, index: int, setting: Setting) -> list[float]:
        base = self._measure
        kept = {name: getattr(setting, name) for name in _OF_THE_FILES}
        qrels, run = self._read(index, replace(Setting(), **kept))
        level = setting.level or base.rel
        if setting.without_relevant == "skip":
            qrels = qrels.restricted_to(
                query_id
                for query_id, grades in qrels.items()
                if any(grade >= level for grade in grades.values())
            )
        if setting.level is not None and base.kind == "nDCG":
            qrels = _gaining_from(qrels, level)
        policy = Policy(
            ties="rank",
            missing=setting.missing,
            unjudged=setting.unjudged,
            depth=setting.depth,
            self_documents=setting.self_documents,
        )
        name = _name(base, setting)
        values = list(evaluate(qrels, run, [name], policy).measures[name].per_query.values())
        if setting.digits is not None:
            values = [round(value, setting.digits) for value in values]
        return values


def mean_measure(name: str) -> Measure:
    """Return a measure; UsageError for one that does not exist or whose figure is no mean."""
    measure = parse_measure(name)
    if measure.aggregate != "mean":
        raise UsageError(
            f"{name} is not the mean of its queries, which explain-diff compares; take a measure "
            "that is, as nDCG@10"
        )
    return measure


def renamed(measure: Measure, kind: str, **params: Any) -> str:
    """Return the name of a measure of another kind or with other parameters (None takes one out).

    The measure needs a kind: what only trec_eval has, has no name of this form.
    """
    changed = {
        key: value for key, value in {**measure.params, **params}.items() if value is not None
    }
    return f"{kind}({', '.join(f'{key}={value!r}' for key, value in changed.items())})"


def _name(measure: Measure, setting: Setting) -> str:
    """Return the measure's name under the setting."""
    if measure.kind == "nDCG":
        if setting.gain is None:
            return measure.name
        dcg = "exp-log2" if setting.gain == "exponential" else None
        return renamed(measure, measure.kind, dcg=dcg)
    kind = setting.recall or measure.kind
    if setting.level is None and kind == measure.kind:
        return measure.name
    return renamed(measure, kind, **({} if setting.level is None else {"rel": setting.level}))


def _gaining_from(qrels: Qrels, level: int) -> Qrels:
    return Qrels(
        Judgement(query_id, doc_id, grade if grade >= level else min(grade, 0))
        for query_id, grades in qrels.items()
        for doc_id, grade in grades.items()
    )


def _ranking(rows: Rows, order: Order, precision: Precision) -> Run:
    return Run({query_id: _ordered(found, order, precision) for query_id, found in rows.items()})


def _ordered(rows: Sequence[RunLine], order: Order, precision: Precision) -> list[ScoredDoc]:
    """Return documents in an order, with scores that only say the place."""
    if order == "rank":
        ranked = sorted(rows, key=lambda row: row.rank)
    else:
        scores = [row.score for row in rows]
        if precision == "float32":
            scores = single_precision(scores).tolist()
        places = list(range(len(rows)))
        if order != "file":
            places.sort(key=lambda n: rows[n].doc_id, reverse=order == "docno")
        # Sorting keeps the order of equal scores.
        ranked = [rows[n] for n in sorted(places, key=lambda n: -scores[n])]
    return [ScoredDoc(row.doc_id, -float(place)) for place, row in enumerate(ranked)]


def _judged_and_listed(part: Part, setting: Setting) -> tuple[Qrels, Rows]:
    """Return judgements and run after the changes to which of them there are, and to their ids."""
    qrels, rows = part.qrels, part.rows
    if setting.other_qrels and part.other_qrels is not None:
        qrels = part.other_qrels
    if setting.other_queries and part.other_qrels is not None:
        qrels = qrels.restricted_to(part.other_qrels)
    changed = (
        setting.stripped_ids, setting.caseless_ids, setting.unpadded_ids, setting.integral_ids,
    )  # fmt: skip
    if any(changed):
        qrels, rows = _renamed(qrels, rows, lambda i: _normalised(i, setting), queries=True)
    if setting.deduplicated and part.same_text is not None:
        groups = part.same_text
        rows = {q: sorted(found, key=lambda row: -row.score) for q, found in rows.items()}
        qrels, rows = _renamed(qrels, rows, lambda i: groups.get(i, i), queries=False)
    return qrels, rows


def _renamed(qrels: Qrels, rows: Rows, new: Any, *, queries: bool) -> tuple[Qrels, Rows]:
    """Return both with new ids: of documents that become one, the first and the highest grade."""
    every = {doc_id for judged in qrels.values() for doc_id in judged}
    every |= {row.doc_id for found in rows.values() for row in found}
    every |= {*qrels, *rows} if queries else set()
    if all(new(one) == one for one in every):
        return qrels, rows
    grades: dict[tuple[str, str], int] = {}
    for query_id, judged in qrels.items():
        for doc_id, grade in judged.items():
            pair = (new(query_id) if queries else query_id), new(doc_id)
            grades[pair] = max(grade, grades.get(pair, grade))
    renamed: dict[str, dict[str, RunLine]] = {}
    for query_id, found in rows.items():
        named = renamed.setdefault(new(query_id) if queries else query_id, {})
        for row in found:
            doc_id = new(row.doc_id)
            named.setdefault(doc_id, row._replace(doc_id=doc_id))
    judgements = (
        Judgement(query_id, doc_id, grade) for (query_id, doc_id), grade in grades.items()
    )
    return Qrels(judgements), {
        query_id: list(named.values()) for query_id, named in renamed.items()
    }


def _normalised(identifier: str, setting: Setting) -> str:
    text = identifier
    if setting.stripped_ids:
        text = text.strip() or text
    if setting.caseless_ids:
        text = text.casefold()
    if setting.integral_ids:
        text = re.sub(r"^(\d+)\.0+$", r"\1", text)
    if setting.unpadded_ids:
        text = re.sub(r"^0+(?=\d)", "", text)
    return text


def same_texts(documents: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for every document's id the first id that came with its text (white space apart)."""
    first: dict[str, str] = {}
    return {doc_id: first.setdefault(" ".join(text.split()), doc_id) for doc_id, text in documents}
