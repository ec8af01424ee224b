"""The whole of a judge-agreement report: labels, rankings, significance, circularity.

Agreement on labels says next to nothing about agreement on rankings, so a report has both
families, or says which one was not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ranklens.data.qrels import Qrels
from ranklens.data.runs import Run
from ranklens.data.score_table import ScoreTable
from ranklens.eval.agree.circularity import (
    DEPTH,
    JudgeAsReranker,
    SelfPreference,
    judge_as_reranker,
    self_preference,
)
from ranklens.eval.agree.families import families_of, names_model
from ranklens.eval.agree.labels import LabelAgreement, Scale, clipped, label_agreement
from ranklens.eval.agree.rankings import RankAgreement, rank_agreement
from ranklens.eval.agree.significance import (
    Cells,
    Decisions,
    Method,
    cells,
    decisions,
)
from ranklens.eval.agree.systems import Topics, aligned, score_runs
from ranklens.eval.agree.top_systems import TopSystem, top_system
from ranklens.eval.measures import Scorer
from ranklens.eval.policy import Orders
from ranklens.eval.stats.family import too_coarse


@dataclass(frozen=True, slots=True)
class Ranked:
    """What follows from the scores of systems; ``topics`` are those of gold and judge."""

    topics: tuple[int, int]
    agreement: RankAgreement
    cells: Cells
    top_system: TopSystem
    gold_means: Mapping[str, float]
    judge_means: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Circularity:
    """How far the judge judges itself; parts that could not be measured are None.

    ``own`` is of the run that the judge model itself made, ``family`` of all runs of its family.
    ``unknown`` are the systems whose names tell no family.
    """

    judge_model: str | None
    families: tuple[str, ...]
    own: SelfPreference | None
    family: SelfPreference | None
    unknown: tuple[str, ...]
    reranker: JudgeAsReranker | None


@dataclass(frozen=True, slots=True)
class AgreementReport:
    """One label set against the gold; a family that was not measured is None."""

    name: str
    labels: LabelAgreement | None
    ranked: Ranked | None
    circularity: Circularity | None
    warnings: tuple[str, ...]


@dataclass
class Reporter:
    """Makes the reports of several judges of one gold, doing the gold's part once.

    ``gold`` and ``runs``, or score tables, may be absent: what they serve is then not measured.
    ``words`` is the length of passages by document id. ``advance`` is told of each run scored.
    """

    measure: str
    method: Method = field(default_factory=Method)
    topics: Topics = "shared"
    gold: Qrels | None = None
    scale: Scale | None = None
    runs: Mapping[str, Run] = field(default_factory=dict)
    gold_table: ScoreTable | None = None
    words: Mapping[str, int] | None = None
    advance: Callable[[int], None] = lambda count: None
    _gold: Qrels | None = None
    _orders: Mapping[str, Orders] = field(default_factory=dict)
    _decided: dict[tuple[tuple[str, ...], tuple[str, ...]], Decisions] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gold is not None:
            self.scale = self.scale or Scale.of(self.gold)
            self._gold, _ = clipped(self.gold, self.scale)
            if self.runs:
                self.gold_table = score_runs(self.runs, self._gold, self.measure, self.advance)
                self._orders = {
                    name: {query_id: [doc.doc_id for doc in docs] for query_id, docs in run.items()}
                    for name, run in self.runs.items()
                }

    def report(
        self,
        name: str,
        judge: Qrels | None = None,
        table: ScoreTable | None = None,
        judge_model: str | None = None,
    ) -> AgreementReport:
        """Compare one judge's labels, its scores of systems, or both, with the gold's."""
        warnings: list[str] = []
        labels = None
        if self.gold is not None and judge is not None and self.scale is not None:
            labels = label_agreement(self.gold, judge, self.scale, words=self.words)
            # Clipped, the best grades of a longer scale would be one, and rank nothing.
            if not labels.other_scale:
                judge, _ = clipped(judge, self.scale)
            warnings += _label_warnings(labels)
            if self.runs:
                table = score_runs(self.runs, judge, self.measure, self.advance)
        ranked = None
        if self.gold_table is not None and table is not None:
            ranked, notes = self._ranked(self.gold_table, table)
            warnings += notes
        circularity = None
        if ranked is not None:
            circularity, notes = self._circularity(ranked, judge, judge_model)
            warnings += notes
        return AgreementReport(name, labels, ranked, circularity, tuple(warnings))

    def _ranked(self, gold: ScoreTable, judge: ScoreTable) -> tuple[Ranked, list[str]]:
        first, second, notes = aligned(gold, judge, self.topics)
        warnings = [*gold.notes, *judge.notes, *notes]
        key = first.systems, first.topics
        if key not in self._decided:
            self._decided[key] = decisions(first, self.method)
        counts = cells(self._decided[key], decisions(second, self.method))
        agreement = rank_agreement(first.means(), second.means())
        warnings += _rank_warnings(agreement, counts, self.method)
        found = Ranked(
            (len(first.topics), len(second.topics)),
            agreement,
            counts,
            top_system(first, second),
            first.means(),
            second.means(),
        )
        return found, warnings

    def _circularity(
        self, ranked: Ranked, judge: Qrels | None, model: str | None
    ) -> tuple[Circularity, list[str]]:
        reranker = self._reranker(ranked, judge)
        if model is None:
            return Circularity(None, (), None, None, (), reranker), []
        families = families_of(model)
        names = {system: self._names(system) for system in ranked.gold_means}
        own = {system for system, name in names.items() if names_model(name, model)}
        of_family = {system for system, name in names.items() if families_of(name) & families} | own
        unknown = tuple(s for s, name in names.items() if not families_of(name) and s not in own)
        warnings = []
        if of_family:
            what = " or ".join(sorted(families)) or repr(model)
            warnings.append(
                f"the judge {model!r} and {len(of_family)} of {len(names)} systems are of one "
                f"model family ({what}; first: {min(of_family)!r}): it may favour them"
            )
        if not families:
            warnings.append(
                f"the name {model!r} tells no model family, so systems of the judge's family "
                "cannot be recognised"
            )
        if unknown:
            warnings.append(
                f"{len(unknown)} systems have names that tell no model family (first: "
                f"{unknown[0]!r}): whether they use the judge's is unknown"
            )
        gold, means = ranked.gold_means, ranked.judge_means
        return Circularity(
            model,
            tuple(sorted(families)),
            self_preference(gold, means, own) if own else None,
            self_preference(gold, means, of_family) if of_family else None,
            unknown,
            reranker,
        ), warnings

    def _names(self, system: str) -> str:
        run = self.runs.get(system)
        return system if run is None else f"{system} {run.tag}"

    def _reranker(self, ranked: Ranked, judge: Qrels | None) -> JudgeAsReranker | None:
        # Means over different topics would not be comparable before and after.
        if not self.runs or self._gold is None or judge is None or self.topics == "own":
            return None
        shared = [query_id for query_id in self._gold if query_id in judge]
        gold, judged = self._gold.restricted_to(shared), judge.restricted_to(shared)
        before = ranked.gold_means, ranked.judge_means
        score = self._scored(gold), self._scored(judged)
        return judge_as_reranker(self._orders, judged, before, score, DEPTH)

    def _scored(self, qrels: Qrels) -> Callable[[Orders], float]:
        scorer = Scorer(qrels, self.measure)

        def score(orders: Orders) -> float:
            self.advance(1)
            return scorer.mean(orders)

        return score


def _label_warnings(labels: LabelAgreement) -> list[str]:
    warnings = []
    for whose, beyond in (("gold", labels.gold_clipped), ("judge", labels.judge_clipped)):
        if beyond:
            listed = ", ".join(f"{label} ({number}×)" for label, number in beyond.items())
            warnings.append(
                f"{sum(beyond.values())} {whose} labels beyond the scale {labels.scale} were "
                f"clipped: {listed}"
            )
    if labels.other_scale:
        warnings.append(
            "the judge's labels are of another scale than the gold's: κ and α compare unlike "
            "things; rankings use the labels as they are, not clipped"
        )
    used = {label for label, count in labels.judge_histogram.items() if count}
    if used <= set(list(labels.scale.labels)[:2]) and len(labels.scale.labels) > 2:
        warnings.append(
            f"the judge uses only {' and '.join(map(str, sorted(used)))} of the scale "
            f"{labels.scale}: look at κ of the binarised labels"
        )
    if lacking := labels.gold_pairs - labels.overall.pairs:
        warnings.append(f"{lacking} of {labels.gold_pairs} gold pairs have no label of the judge")
    if extra := labels.judge_pairs - labels.overall.pairs:
        warnings.append(
            f"{extra} of the judge's {labels.judge_pairs} labels are of pairs without a gold "
            "label: they have a part in rankings only"
        )
    if labels.overall.kappa is None or labels.overall.alpha is None:
        warnings.append("all labels are the same: κ and α are undefined")
    return warnings


def _rank_warnings(agreement: RankAgreement, counts: Cells, method: Method) -> list[str]:
    warnings = []
    for whose, ties in (("gold", agreement.gold_ties), ("judge", agreement.judge_ties)):
        if ties:
            warnings.append(
                f"{ties} pairs of systems have equal mean scores by {whose}: τ_AP, RBO, top k and "
                "ranks order them by name"
            )
    return [*warnings, *too_coarse(method.test, method.correction, counts.pairs)]
