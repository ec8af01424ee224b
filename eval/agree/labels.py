"""Agreement label by label: two label sets over the same (query, document) pairs.

    κ    Cohen's, unweighted; on all labels, and binarised at each grade ≥ 1
    α    Krippendorff's with the ordinal metric, two raters, no missing values
    mean signed error    mean of judge − gold: above 0 the judge is more generous

Labels are clipped to the scale first, as the LLMJudge challenge does, and what was clipped is
counted. Only pairs that both have labelled take part. Where a figure does not exist it is None:
κ when both give one and the same label to everything (chance agreement is then certain), α when
there is only one label in both sets together. One constant rater against another one gives κ = 0.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement

Counts = NDArray[np.int64]
Pair = tuple[str, str]

# Labels beyond the scale that are no more than this share are slips of a model.
_STRAY = 0.01
_SCALE = re.compile(r"(\d{1,2})-(\d{1,2})")


@dataclass(frozen=True, slots=True)
class Scale:
    """The labels that exist: the integers from ``lowest`` to ``highest``."""

    lowest: int
    highest: int

    def __post_init__(self) -> None:
        if not 0 <= self.lowest < self.highest:
            raise UsageError(
                f"a scale of labels is LOWEST-HIGHEST with 0 <= LOWEST < HIGHEST, got {self}"
            )

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Read ``0-3``; UsageError for anything else."""
        match = _SCALE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"the scale {text!r} is not LOWEST-HIGHEST, as 0-3")
        return cls(int(match[1]), int(match[2]))

    @classmethod
    def of(cls, gold: Qrels) -> Scale:
        """Return 0 to the highest grade of the gold labels, at least 1."""
        return cls(0, max(1, max(max(grades.values()) for grades in gold.values())))

    def __str__(self) -> str:
        return f"{self.lowest}-{self.highest}"

    def clip(self, label: int) -> int:
        """Return the label of the scale that is nearest."""
        return min(max(label, self.lowest), self.highest)

    @property
    def labels(self) -> range:
        """The labels in order."""
        return range(self.lowest, self.highest + 1)

    @property
    def thresholds(self) -> range:
        """The grades at which the scale can be cut in two."""
        return range(self.lowest + 1, self.highest + 1)


def clipped(qrels: Qrels, scale: Scale) -> tuple[Qrels, dict[int, int]]:
    """Return labels with those beyond the scale clipped to it, and how often each such one was."""
    beyond: Counter[int] = Counter()
    for grades in qrels.values():
        beyond.update(grade for grade in grades.values() if scale.clip(grade) != grade)
    if not beyond:
        return qrels, {}
    kept = Qrels(
        Judgement(query_id, doc_id, scale.clip(grade))
        for query_id, grades in qrels.items()
        for doc_id, grade in grades.items()
    )
    return kept, dict(sorted(beyond.items()))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Figures of one table of pairs; see the module for what None means.

    ``binary`` holds κ by the grade at which labels count as relevant.
    """

    pairs: int
    exact: float
    kappa: float | None
    binary: Mapping[int, float | None]
    alpha: float | None
    signed_error: float


@dataclass(frozen=True, slots=True)
class LengthBin:
    """Pairs whose passages have ``shortest`` to ``longest`` words."""

    shortest: int
    longest: int
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """Agreement of a label set with the gold.

    ``confusion[g, j]`` counts the pairs that the gold labels ``scale.labels[g]`` and the judge
    ``scale.labels[j]``. ``gold_pairs`` and ``judge_pairs`` are all pairs of either side. The
    ``*_clipped`` map labels beyond the scale to their number; the gold's are of all its pairs.
    """

    scale: Scale
    overall: Agreement
    confusion: Counts
    gold_pairs: int
    judge_pairs: int
    gold_clipped: Mapping[int, int]
    judge_clipped: Mapping[int, int]
    by_length: tuple[LengthBin, ...] = ()

    @property
    def other_scale(self) -> bool:
        """Whether so many of the judge's labels were clipped that its scale is another one."""
        return sum(self.judge_clipped.values()) > _STRAY * self.judge_pairs

    @property
    def gold_histogram(self) -> dict[int, int]:
        """Number of the pairs on both sides by the gold's label."""
        return dict(zip(self.scale.labels, self.confusion.sum(axis=1).tolist(), strict=True))

    @property
    def judge_histogram(self) -> dict[int, int]:
        """Number of the pairs on both sides by the judge's label."""
        return dict(zip(self.scale.labels, self.confusion.sum(axis=0).tolist(), strict=True))


def label_agreement(
    gold: Qrels,
    judge: Qrels,
    scale: Scale,
    *,
    words: Mapping[str, int] | None = None,
    bins: int = 4,
) -> LabelAgreement:
    """Compare two label sets on the pairs that both have.

    ``words`` is the length of passages by document id: pairs with a known length are then also
    compared in ``bins`` of about equal numbers of pairs, shorter passages first. Raises
    InvalidInputError when the sets have no pair in common.
    """
    gold, gold_clipped = clipped(gold, scale)
    judge, judge_clipped = clipped(judge, scale)
    pairs, labels = _in_common(gold, judge)
    confusion = _confusion(labels, scale)
    return LabelAgreement(
        scale,
        agreement(confusion, scale),
        confusion,
        gold_pairs=sum(map(len, gold.values())),
        judge_pairs=sum(map(len, judge.values())),
        gold_clipped=gold_clipped,
        judge_clipped=judge_clipped,
        by_length=() if words is None else _by_length(pairs, labels, scale, words, bins),
    )


def _in_common(gold: Qrels, judge: Qrels) -> tuple[list[Pair], Counts]:
    """Return the pairs on both sides, and their labels, shape [pairs, 2]: gold, judge."""
    pairs, labels = [], []
    for query_id, grades in gold.items():
        other = judge.get(query_id, {})
        for doc_id, grade in grades.items():
            if doc_id in other:
                pairs.append((query_id, doc_id))
                labels.append((grade, other[doc_id]))
    if not pairs:
        raise InvalidInputError(
            "gold and judge have no labelled pair in common (gold: "
            f"{_first_pair(gold)}, judge: {_first_pair(judge)}); are they of the same test set?"
        )
    return pairs, np.array(labels, dtype=np.int64)


def _first_pair(qrels: Qrels) -> str:
    return next(f"{q!r} {d!r}" for q, grades in qrels.items() for d in grades)


def _confusion(labels: Counts, scale: Scale) -> Counts:
    size = len(scale.labels)
    cells = (labels[:, 0] - scale.lowest) * size + labels[:, 1] - scale.lowest
    return np.bincount(cells, minlength=size * size).reshape(size, size)


def agreement(confusion: Counts, scale: Scale) -> Agreement:
    """Return the figures of a confusion matrix, gold labels down and judge labels across."""
    pairs = int(confusion.sum())
    values = np.array(scale.labels)
    return Agreement(
        pairs,
        exact=int(np.trace(confusion)) / pairs,
        kappa=kappa(confusion),
        binary={grade: kappa(_cut(confusion, grade - scale.lowest)) for grade in scale.thresholds},
        alpha=ordinal_alpha(confusion),
        signed_error=int((confusion * (values[None, :] - values[:, None])).sum()) / pairs,
    )


def _cut(confusion: Counts, place: int) -> Counts:
    """Return the 2×2 matrix of labels before and from a place on."""
    rows = np.add.reduceat(confusion, [0, place], axis=0)
    return np.add.reduceat(rows, [0, place], axis=1)


def kappa(confusion: Counts) -> float | None:
    """Return Cohen's unweighted κ; None when both raters use one and the same label only."""
    # In whole numbers: with n² taken out of the fraction, nothing is rounded before the end.
    pairs = int(confusion.sum())
    chance = int(confusion.sum(axis=0) @ confusion.sum(axis=1))
    if chance == pairs * pairs:
        return None
    return (pairs * int(np.trace(confusion)) - chance) / (pairs * pairs - chance)


def ordinal_alpha(confusion: Counts) -> float | None:
    """Return Krippendorff's ordinal α of two raters; None when there is but one label in all.

    With n_c the number of values c of both raters together, the distance of c and k is the
    square of the values between them, the two ends counted half (Krippendorff 2011).
    """
    coincidences = (confusion + confusion.T).astype(np.float64)
    totals = coincidences.sum(axis=1)
    middles = np.cumsum(totals) - totals / 2
    distances = (middles[:, None] - middles[None, :]) ** 2
    expected = float((np.outer(totals, totals) * distances).sum())
    if expected == 0:
        return None
    observed = float((coincidences * distances).sum())
    return 1 - (float(totals.sum()) - 1) * observed / expected


def _by_length(
    pairs: Sequence[Pair], labels: Counts, scale: Scale, words: Mapping[str, int], bins: int
) -> tuple[LengthBin, ...]:
    known = [index for index, (_, doc_id) in enumerate(pairs) if doc_id in words]
    if not known:
        raise InvalidInputError(
            f"none of the labelled documents (first: {pairs[0][1]!r}) is in the collection that "
            "was given for their texts"
        )
    lengths = np.array([words[pairs[index][1]] for index in known])
    edges = np.unique(np.quantile(lengths, np.arange(1, bins) / bins))
    places = np.searchsorted(edges, lengths, side="left")
    rows = []
    for place in np.unique(places):
        inside = places == place
        found = agreement(_confusion(labels[np.array(known)[inside]], scale), scale)
        rows.append(LengthBin(int(lengths[inside].min()), int(lengths[inside].max()), found))
    return tuple(rows)
