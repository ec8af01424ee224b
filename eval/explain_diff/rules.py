"""The rules in which tools differ, each as a change to a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ranklens.data.errors import UsageError
from ranklens.eval.explain_diff.setting import Part, Setting, mean_measure, renamed
from ranklens.eval.measure_names import Measure

_DEPTHS = (10, 50, 100, 1000)
_HIGHEST_LEVEL = 9


@dataclass(frozen=True)
class Rule:
    """A rule: of what it is, what it says, and the fields of a setting that it changes."""

    kind: str
    name: str
    changes: Mapping[str, Any]

    def applied(self, setting: Setting) -> Setting:
        """Return a setting under this rule too."""
        return replace(setting, **self.changes)

    def excludes(self, other: Rule) -> bool:
        """Whether the two change the same."""
        return bool(self.changes.keys() & other.changes.keys())


def rules_for(parts: Sequence[Part], measure: str) -> list[Rule]:
    """Return the rules that can be tried on a measure and these files."""
    return [
        *_of_the_measure(parts, measure),
        Rule("order", "ties by document id, ascending", {"order": "docno-ascending"}),
        Rule("order", "ties by the order of the file", {"order": "file"}),
        Rule("order", "the rank column instead of the scores", {"order": "rank"}),
        Rule("order", "scores in double precision", {"scores": "float64"}),
        Rule("queries", "judged queries that the run lacks are left out", {"missing": "skip"}),
        Rule(
            "queries",
            "queries without a relevant document are left out",
            {"without_relevant": "skip"},
        ),
        *_of_the_files(parts),
        Rule("run", "documents with their query's id are removed", {"self_documents": "remove"}),
        *_depths(parts),
        Rule("ids", "white space around ids is ignored", {"stripped_ids": True}),
        Rule("ids", "upper and lower case of ids is ignored", {"caseless_ids": True}),
        Rule("ids", "leading zeros of ids are ignored (007 is 7)", {"unpadded_ids": True}),
        Rule("ids", "a '.0' at the end of ids is ignored (12.0 is 12)", {"integral_ids": True}),
    ]


def not_checkable(parts: Sequence[Part]) -> list[str]:
    """Return what else may differ and cannot be tried with what is there."""
    found = [
        "title and text or text alone, and which fields were searched: needs another run",
        "documents below the end of the run (its depth, a tail that was not appended)",
    ]
    if all(part.same_text is None for part in parts):
        found.append("documents of the same text: give a collection in place of its qrels")
    if all(part.other_qrels is None for part in parts):
        found.append("another version or split of the judgements: give --other-qrels")
    if len(parts) == 1:
        found.append("the mean over parts, as CQADupStack's: give QRELS RUN for each of them")
    return found


def _of_the_measure(parts: Sequence[Part], measure: str) -> list[Rule]:
    base = mean_measure(measure)
    highest = min(max(_grades(parts), default=0), _HIGHEST_LEVEL)
    rules = []
    if base.kind == "nDCG":
        if base.params.get("dcg") == "exp-log2":
            rules.append(Rule("measure", "the grade itself is the gain", {"gain": "linear"}))
        elif "gains" not in base.params:
            rules.append(Rule("measure", "gain 2^grade - 1", {"gain": "exponential"}))
        rules += [
            Rule("measure", f"grades below {level} gain nothing", {"level": level})
            for level in range(2, highest + 1)
        ]
    elif _has_level(base):
        rules += [
            Rule("measure", f"relevant from grade {level}", {"level": level})
            for level in range(1, highest + 1)
            if level != base.params.get("rel", None if base.kind == "RBP" else 1)
        ]
    rules.append(
        Rule("measure", "documents without a judgement are removed", {"unjudged": "removed"})
    )
    if base.kind == "R":
        capped = f"recall capped: at most {base.params['cutoff']} relevant documents"
        rules.append(Rule("measure", capped, {"recall": "R_cap"}))
    elif base.kind == "R_cap":
        rules.append(Rule("measure", "recall not capped", {"recall": "R"}))
    rules += [
        Rule("measure", f"queries rounded to {digits} digits before the mean", {"digits": digits})
        for digits in (4, 2)
    ]
    return rules


def _has_level(measure: Measure) -> bool:
    if not measure.kind:
        return False
    try:
        mean_measure(renamed(measure, measure.kind, rel=1))
    except UsageError:
        return False
    return True


def _grades(parts: Sequence[Part]) -> list[int]:
    every = [qrels for part in parts for qrels in (part.qrels, part.other_qrels) if qrels]
    return [grade for qrels in every for grades in qrels.values() for grade in grades.values()]


def _of_the_files(parts: Sequence[Part]) -> list[Rule]:
    rules = []
    if any(part.other_qrels is not None for part in parts):
        rules += [
            Rule("judgements", "the other qrels", {"other_qrels": True}),
            Rule("queries", "queries of the other qrels only", {"other_queries": True}),
        ]
    if any(part.same_text is not None for part in parts):
        rules.append(Rule("run", "documents of the same text count once", {"deduplicated": True}))
    if len(parts) > 1:
        rules.append(
            Rule("queries", "mean over all queries, not of the parts' means", {"mean": "micro"})
        )
    return rules


def _depths(parts: Sequence[Part]) -> list[Rule]:
    longest = max(len(rows) for part in parts for rows in part.rows.values())
    return [
        Rule("run", f"only the first {depth} documents of a query", {"depth": depth})
        for depth in _DEPTHS
        if depth < longest
    ]
