"""Fusing runs: several rankings of the same queries become one. Computed by ranx.

Ranks that ranx would take from scores, and the order of what scores the same, are ours: ranx
leaves both to an unstable sort. Documents go in by number, so that no id is too odd for numba.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.extras import require
from ranklens.data.qrels import Qrels
from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run

_BY_RANK = {"rrf": "rrf", "isr": "isr", "bordafuse": "bordafuse"}
_BY_SCORE = {"wsum": "wsum", "combsum": "sum", "combmnz": "mnz", "combmax": "max"}
METHODS = (*_BY_RANK, *_BY_SCORE)
_NORMS = {"min-max": "min-max", "z-score": "zmuv", "max": "max", "sum": "sum", "rank": "rank"}
NORMS = tuple(_NORMS)
_FORM = re.compile(r"([\w-]+)(?:\((.*)\))?")
_MEASURE = re.compile(r"(nDCG|AP|RR|P|R)(?:\(rel=([1-9]\d*)\))?(?:@([1-9]\d*))?")
_MEASURES = {"nDCG": "ndcg", "AP": "map", "RR": "mrr", "P": "precision", "R": "recall"}
_DIGITS = 12
"""Digits of a score: sums of the same terms in another order agree to so many."""

_MOST = 1_000_000_000
"""The largest k: numba has no integers of any size."""

# One caller at a time: numba's own pool of threads ends the process when there are two.
_ALONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class Fusion:
    """How runs become one; ``str`` of it reads back by ``parse``: ``wsum(norm=max,weights=1,2)``.

    By rank: ``rrf``, the sum of 1 / (k + rank) over the runs that have a document (Cormack et
    al. 2009); ``isr``, the sum of 1 / rank², times the number of these runs (Mourão et al.
    2015); ``bordafuse``, points for every document behind, what a run lacks sharing those that
    are left (Aslam and Montague 2001). By score, normalised per run and query, 0 where a run
    lacks the document: ``wsum``, weighted (equal weights when none are given); ``combsum``;
    ``combmnz``, times the number of runs; ``combmax`` (Fox and Shaw 1994), over the runs that
    have it.

    Norms: ``min-max`` (the default; the lowest is 0), ``sum`` (the lowest is 0, all add up to
    1), ``max`` (the highest is 1, negative ones stay so), ``z-score`` (the mean is 0, so that a
    document that a run lacks counts as an average one), ``rank`` (1 for the first, 1 / n for the
    last of n). Where all scores of a run for a query are the same, also where it is one,
    min-max, sum and z-score make them 0; what they divide by counts as 1e-9 when it is less.

    Raises UsageError for unknown names and for settings that the method does not have.
    """

    method: str = "rrf"
    norm: str | None = None
    weights: tuple[float, ...] | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown fusion {self.method!r}; choose {', '.join(METHODS)}")
        if self.norm is None and self.method in _BY_SCORE:
            object.__setattr__(self, "norm", "min-max")
        if self.k is None and self.method == "rrf":
            object.__setattr__(self, "k", 60)
        if self.norm is not None:
            self._check_norm(self.norm)
        if self.weights is not None:
            self._check_weights(self.weights)
        if self.k is not None and self.method != "rrf":
            raise UsageError(f"k is of rrf; {self.method} has none")
        if self.k is not None and not 0 <= self.k <= _MOST:
            raise UsageError(f"rrf's k must be at least 0 and at most {_MOST}, got {self.k}")

    @classmethod
    def parse(cls, text: str) -> Fusion:
        """Read a method's name with its settings in brackets, as ``str`` writes them."""
        form = _FORM.fullmatch(text.strip())
        if form is None:
            raise UsageError(f"cannot read the fusion {text!r}; examples: {_EXAMPLES}")
        settings: dict[str, list[str]] = {}
        for part in (form[2] or "").split(","):
            name, equals, value = part.partition("=")
            # A part without a name goes on with the numbers of the one before it.
            if equals and name.strip() not in settings:
                settings[name.strip()] = [value.strip()]
            elif settings and not equals:
                settings[next(reversed(settings))].append(part.strip())
            elif part:
                raise UsageError(f"cannot read {part!r} in the fusion {text!r}; {_EXAMPLES}")
        try:
            weights, k = settings.pop("weights", None), settings.pop("k", None)
            norm = settings.pop("norm", None)
            found = cls(
                form[1],
                None if norm is None else ",".join(norm),
                None if weights is None else tuple(map(float, weights)),
                None if k is None else int(",".join(k)),
            )
        except UsageError:
            raise
        except ValueError as error:
            raise UsageError(f"the fusion {text!r}: {error}; examples: {_EXAMPLES}") from None
        if settings:
            raise UsageError(
                f"the fusion {text!r} has no setting {next(iter(settings))!r}; "
                "there are norm, weights and k"
            )
        return found

    def __str__(self) -> str:
        settings = [] if self.norm is None else [f"norm={self.norm}"]
        if self.weights is not None:
            settings.append("weights=" + ",".join(_plain(weight) for weight in self.weights))
        if self.k is not None:
            settings.append(f"k={self.k}")
        return f"{self.method}({','.join(settings)})" if settings else self.method

    def fuse(self, runs: Sequence[Run], depth: int | None = None) -> Run:
        """Return the fused run, as ``fuse`` does."""
        check_runs(runs, self.weights)
        if depth is not None and depth < 1:
            raise UsageError(f"the depth must be at least 1, got {depth}")
        queries = list(dict.fromkeys(query_id for run in runs for query_id in run))
        with _ranx() as ranx:
            numbers = [_numbers(runs, query_id) for query_id in queries]
            given = [self._normalised(ranx, run, queries, numbers) for run in runs]
            method = (_BY_RANK | _BY_SCORE)[self.method]
            scores = ranx.fuse(given, norm=None, method=method, params=self._parameters(len(runs)))
            found = [dict(scores[_key(place)]) for place in range(len(queries))]
        rankings = {
            query_id: _ordered(runs, query_id, of_query, fused)[:depth]
            for query_id, of_query, fused in zip(queries, numbers, found, strict=True)
        }
        return Run(rankings, tag=self.method)

    def _parameters(self, runs: int) -> dict[str, Any]:
        if self.method == "wsum":
            return {"weights": [float(weight) for weight in self.weights or [1 / runs] * runs]}
        return {} if self.k is None else {"k": self.k}

    def _normalised(
        self, ranx: Any, run: Run, queries: Sequence[str], numbers: Sequence[Mapping[str, int]]
    ) -> Any:
        """Return a run as ranx takes it: queries and documents by number, scores normalised."""
        by_rank = self.method in _BY_RANK or self.norm == "rank"
        rankings = {}
        for place, query_id in enumerate(queries):
            docs = run.get(query_id, ())
            if docs and self.norm == "max" and docs[0].score <= 0:
                raise InvalidInputError(
                    f"run {run.tag!r}, query {query_id!r}: the highest score is {docs[0].score:g}, "
                    "and the norm max takes one above 0; use min-max"
                )
            if docs:
                rankings[_key(place)] = {
                    _key(numbers[place][doc.doc_id]): float(-rank if by_rank else doc.score)
                    for rank, doc in enumerate(docs)
                }
        # Queries without a document come in last: z-score would lose others for them. A run
        # without any needs one meanwhile, which goes again as it is none of these.
        found = ranx.Run(rankings or {"none": {_key(0): 1.0}})
        if self.norm is not None:
            found = ranx.normalize(found, _NORMS[self.norm])
        every = {_key(place): {_key(0): 1} for place in range(len(queries))}
        return found.make_comparable(ranx.Qrels(every))

    def _check_norm(self, norm: str) -> None:
        if self.method in _BY_RANK:
            raise UsageError(f"{self.method} goes by ranks: it takes no norm, got {norm!r}")
        if norm not in _NORMS:
            raise UsageError(f"unknown norm {norm!r}; choose {', '.join(NORMS)}")
        if self.method == "combmnz" and norm == "z-score":
            raise UsageError(
                "combmnz multiplies by the number of runs, which lowers scores below 0: "
                "use another norm than z-score"
            )

    def _check_weights(self, weights: tuple[float, ...]) -> None:
        if self.method != "wsum":
            raise UsageError(f"weights are of wsum; {self.method} has none")
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise UsageError(
                "weights must be finite numbers of at least 0, not all 0; got "
                + ", ".join(map(_plain, weights))
            )


_EXAMPLES = "rrf, rrf(k=20), combmnz(norm=sum), wsum(norm=min-max,weights=0.3,0.7)"


def fuse(
    runs: Sequence[Run],
    method: str = "rrf",
    *,
    norm: str | None = None,
    weights: Sequence[float] | None = None,
    k: int | None = None,
    depth: int | None = None,
) -> Run:
    """Return one run of two or more; see ``Fusion`` for what method, norm, weights and k are.

    It has every query of any run, in the order in which they are met, and every document of any
    run for it, or the best ``depth``. Equal scores are ordered by the best rank among the runs,
    then by document id. The first call in a process takes seconds, the first after installation
    a minute: numba compiles then.

    Raises UsageError for settings that make no sense, MissingPrerequisiteError without the
    ``hybrid`` extra, InvalidInputError where the norm max has no score above 0, NumericalError
    for a fused score that is not finite.
    """
    given = None if weights is None else tuple(weights)
    return Fusion(method, norm, given, k).fuse(runs, depth)


def optimise(
    runs: Sequence[Run],
    qrels: Qrels,
    method: str = "wsum",
    *,
    norm: str | None = None,
    measure: str = "nDCG@10",
) -> Fusion:
    """Return the settings that are best on judged queries: the weights of wsum, the k of rrf.

    ranx tries weights in steps of 0.1 that add up to 1 (of three runs or more some are lost to
    rounding), k from 10 to 100 in steps of 10; of equally good ones it keeps the last. Queries
    without a relevant document, or in no run, have no part. The measure is nDCG, AP, RR, P or R.

    Raises UsageError for another measure or method, InvalidInputError when no judged query is
    left, and as ``fuse``.
    """
    start = Fusion(method, norm)
    if method not in ("wsum", "rrf"):
        raise UsageError(f"{method} has nothing to optimise; choose wsum (weights) or rrf (k)")
    name = _MEASURE.fullmatch(measure)
    if name is None:
        raise UsageError(
            f"cannot optimise for {measure!r}; examples: nDCG@10, AP, AP(rel=2), RR@10, R@100"
        )
    check_runs(runs)
    judged = {
        query_id: {doc_id: grade for doc_id, grade in grades.items() if grade > 0}
        for query_id, grades in qrels.items()
    }
    queries = [q for q, grades in judged.items() if grades and any(run.get(q) for run in runs)]
    if not queries:
        raise InvalidInputError(
            "the runs and the judgements have no query with a relevant document in common "
            f"(the runs have {next(iter(runs[0]), None)!r}, the judgements "
            f"{next(iter(qrels), None)!r}, …); are they of the same test set?"
        )
    cutoff = f"@{name[3]}" if name[3] else ""
    level = f"-l{name[2]}" if name[2] else ""
    numbers = [_numbers(runs, query_id) for query_id in queries]
    relevant = {}
    for place, query_id in enumerate(queries):
        known = dict(numbers[place])
        relevant[_key(place)] = {
            _key(known.setdefault(doc_id, len(known))): grade
            for doc_id, grade in judged[query_id].items()
        }
    with _ranx() as ranx:
        best = ranx.optimize_fusion(
            ranx.Qrels(relevant),
            [start._normalised(ranx, run, queries, numbers) for run in runs],
            norm=None,
            method=method,
            metric=f"{_MEASURES[name[1]]}{cutoff}{level}",
            show_progress=False,
        )
    if method == "rrf":
        return Fusion(method, k=int(best["k"]))
    return Fusion(method, start.norm, tuple(round(float(w), 3) for w in best["weights"]))


def check_runs(runs: Sequence[object], weights: Sequence[float] | None = None) -> None:
    """Raise UsageError for less than two runs, or another number of weights than of runs."""
    if len(runs) < 2:
        raise UsageError(f"fusing takes at least two runs, got {len(runs)}")
    if weights is not None and len(weights) != len(runs):
        raise UsageError(f"{len(runs)} runs take as many weights, got {len(weights)}")


def _numbers(runs: Sequence[Run], query_id: str) -> dict[str, int]:
    """Return a number for each document of a query, by id."""
    found = dict.fromkeys(doc.doc_id for run in runs for doc in run.get(query_id, ()))
    return {doc_id: number for number, doc_id in enumerate(found)}


def _plain(weight: float) -> str:
    return repr(float(weight)).removesuffix(".0")


def _key(number: int) -> str:
    # Of one length: to numba strings of another length are another type, to be compiled anew.
    return f"{number:08}"


def _ordered(
    runs: Sequence[Run], query_id: str, numbers: Mapping[str, int], fused: Mapping[str, float]
) -> list[ScoredDoc]:
    """Return a query's documents by fused score, then best rank, then id."""
    ranks: dict[str, int] = {}
    for run in runs:
        for rank, doc in enumerate(run.get(query_id, ())):
            ranks[doc.doc_id] = min(rank, ranks.get(doc.doc_id, rank))
    rows = []
    for doc_id, number in numbers.items():
        score = float(f"{fused[_key(number)]:.{_DIGITS}g}")
        if not math.isfinite(score):
            raise NumericalError(
                f"query {query_id!r}: document {doc_id!r} has the fused score {score}; "
                "the runs' scores are too large to be normalised: use rrf"
            )
        rows.append((-score, ranks[doc_id], doc_id))
    return [ScoredDoc(doc_id, -negative) for negative, _, doc_id in sorted(rows)]


@contextmanager
def _ranx() -> Iterator[Any]:
    """Give ranx to one caller at a time, without what numba says while it compiles."""
    require("hybrid", "ranx")
    with _ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ranx

        yield ranx
