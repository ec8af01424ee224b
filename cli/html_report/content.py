"""What a report holds, as frozen dataclasses, and as the JSON value that the page reads.

Numbers are rounded to what is shown: values of measures to 4 digits, scores to 4 significant
ones. A number that is not finite (a score of minus infinity, a measure that is undefined) is
null. Text is data: nothing in it is escaped here, but lone surrogates, which no file can hold,
are replaced by U+FFFD, one for one, so that offsets stay true.

In JSON a document's tokens are one string, see ``coding.coded_tokens``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from ranklens.cli.html_report.coding import Token, coded_tokens

Role = Literal["first stage", "reranked", "run"]


@dataclass(frozen=True, slots=True)
class ReportedCollection:
    """What was searched; without judgements ``judged_documents`` is 0."""

    name: str
    queries: int
    judged_documents: int
    relevance_level: int


@dataclass(frozen=True, slots=True)
class Value:
    """The mean of a measure and its 95% interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """A run; ``depth`` is how many of each list were reranked, ``ceiling`` the best these allow.

    A first stage has the ceiling of the run that reranked it, a reranked run that of its
    candidates, any other none.
    """

    name: str
    role: Role
    depth: int | None
    values: Mapping[str, Value]
    ceiling: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class ReportedPair:
    """``run`` minus ``against``; ``p`` is of the paired t-test, corrected (Holm)."""

    run: str
    against: str
    measure: str
    difference: float
    ci95: tuple[float, float]
    p: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A document of a list; ``grade`` is None where it is not judged."""

    doc: str
    score: float
    grade: int | None


@dataclass(frozen=True, slots=True)
class ReportedQuery:
    """A query: run → measure → value; run → the head of its list, best first.

    Values are empty for a query without judgements; a run that lacks the query has an empty list.
    """

    id: str
    text: str
    values: Mapping[str, Mapping[str, float]]
    ceiling: Mapping[str, Mapping[str, float]]
    lists: Mapping[str, tuple[Listed, ...]]


@dataclass(frozen=True, slots=True)
class ShownDocument:
    """A document's title and text as far as they are shown; ``missing``: the collection has none.

    ``cut`` says that there is more text than this.
    """

    title: str
    text: str
    cut: bool
    missing: bool = False


@dataclass(frozen=True, slots=True)
class AttendedDocument:
    """The shown tokens of a document in a query's list, its score as computed for the report.

    Tokens lie in title + newline + text, or in the text alone where there is no title.
    ``tokens_cut`` are those the model did not see.
    """

    score: float
    tokens: tuple[Token, ...]
    tokens_cut: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Tokens coloured by attention: query id → document id → tokens.

    ``run`` is the run that they explain. ``adds_up`` says whether a document's values are parts
    of its score; ``raw`` whether tokens have a value before calibration too; ``what`` says in
    words what the colours mean.
    """

    run: str
    profile: str
    model: str
    adds_up: bool
    raw: bool
    what: str
    documents: Mapping[str, Mapping[str, AttendedDocument]]


@dataclass(frozen=True, slots=True)
class HeadMap:
    """The heads that are read: (layer, head, weight), both counted from 0."""

    layers: int
    heads: int
    cells: tuple[tuple[int, int, float], ...]
    what: str


@dataclass(frozen=True, slots=True)
class Bias:
    """Scores by place in the prompt and by length; z is within the query's list.

    ``slot`` are (slot from 1, mean z, its standard error or None), ``length`` (length, z) of
    documents, the length in ``length_unit``. ``orders`` shuffled orders were measured; 0: the
    figures are the run's own, whose slots are ranks of the first stage.
    """

    run: str
    slot: tuple[tuple[int, float, float | None], ...]
    length: tuple[tuple[int, float], ...]
    length_unit: str
    slot_rho: float | None
    length_rho: float | None
    orders: int
    what: str


@dataclass(frozen=True, slots=True)
class Confusion:
    """Counts by grade: a row per grade of the collection, a column per grade of the labels."""

    grades: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """Other labels held against the collection's: (name, value, "lo..hi" or None)."""

    name: str
    measures: tuple[tuple[str, float, str | None], ...]
    confusion: Confusion


@dataclass(frozen=True, slots=True)
class Agreement:
    """Label files held against the judgements named ``against``."""

    against: str
    labels: tuple[LabelAgreement, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """All that a report shows. The first measure is the one that plots use."""

    title: str
    made_with: str
    collection: ReportedCollection
    measures: tuple[str, ...]
    runs: tuple[ReportedRun, ...]
    comparisons: tuple[ReportedPair, ...]
    queries: tuple[ReportedQuery, ...]
    documents: Mapping[str, ShownDocument]
    attention: Attention | None = None
    heads: HeadMap | None = None
    bias: Bias | None = None
    agreement: Agreement | None = None
    environment: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    commands: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return the value that ``page.render`` takes: valid JSON, without NaN."""
        value = _json(self)
        assert isinstance(value, dict)
        return value


_SURROGATE = re.compile("[\ud800-\udfff]")
# Not measures: p-values are often below 0.0001, weights of heads small.
_SIGNIFICANT = {"score", "p", "cells"}


def _json(value: object, name: str = "", raw: bool = False) -> Any:
    if isinstance(value, Attention):
        raw = value.raw
    if name == "tokens" and isinstance(value, tuple):
        return coded_tokens(value, raw=raw)
    if is_dataclass(value):
        return {f.name: _json(getattr(value, f.name), f.name, raw) for f in fields(value)}
    if isinstance(value, Mapping):
        return {_text(key): _json(entry, name, raw) for key, entry in value.items()}
    if isinstance(value, tuple):
        return [_json(entry, name, raw) for entry in value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.4g}") if name in _SIGNIFICANT else round(value, 4)
    return value


def _text(value: object) -> str:
    return _SURROGATE.sub("\ufffd", str(value))
