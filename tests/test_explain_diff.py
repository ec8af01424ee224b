"""For each rule a toy in which only that rule gives the other figure, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement
from ranklens.data.runs import RunLine
from ranklens.eval.explain_diff.search import Diagnosis, Target, diagnose
from ranklens.eval.explain_diff.setting import Part, same_texts

Grades = dict[str, dict[str, int]]
Scores = dict[str, dict[str, float]]


def judged(grades: Grades) -> Qrels:
    return Qrels(
        Judgement(q, doc, grade) for q, docs in grades.items() for doc, grade in docs.items()
    )


def part(
    grades: Grades, scores: Scores, *, ranks: dict[str, int] | None = None, **more: Any
) -> Part:
    """Return a part: lines in the order given, ranks counted unless given."""
    rows = {
        q: [
            RunLine(q, doc, (ranks or {}).get(doc, n), score, "t")
            for n, (doc, score) in enumerate(docs.items(), start=1)
        ]
        for q, docs in scores.items()
    }
    return Part(judged(grades), rows, **more)


def found(parts: list[Part], measure: str, text: str) -> tuple[Diagnosis, list[set[str]]]:
    diagnosis = diagnose(parts, measure, [Target.parse(text)])
    [verdict] = diagnosis.verdicts
    return diagnosis, [{rule.name for rule in one.rules} for one in verdict.explains]


def falling(number: int) -> dict[str, float]:
    """Return so many documents, d1 the best."""
    return {f"d{n}": -float(n) for n in range(1, number + 1)}


GRADED = part({"q": {"a": 1, "b": 2, "c": 3}}, {"q": {"a": 3.0, "b": 2.0, "c": 1.0}})
EQUAL = {"d1": 1.0, "d2": 1.0}
THREE = {"d1": 0, "d2": 1, "d3": 0}

# What the default gives, what another tool gives, and the only rule that leads there.
TOYS: dict[str, tuple[list[Part], str, float, str, str]] = {
    # 1 + 3/log2(3) + 7/2 over 7 + 3/log2(3) + 1/2.
    "gain": ([GRADED], "nDCG@10", 0.790, "0.68061", "gain 2^grade - 1"),
    # 2/log2(3) + 3/2 over 3 + 2/log2(3).
    "linear gain": (
        [GRADED], "nDCG(dcg='exp-log2')", 0.6806, "0.79000", "the grade itself is the gain",
    ),
    "lowest gain": ([GRADED], "nDCG@10", 0.790, "0.648", "grades below 2 gain nothing"),
    "relevance level": (
        [part({"q": {"a": 1, "b": 2}}, {"q": {"a": 2.0, "b": 1.0}})],
        "AP", 1.0, "0.50", "relevant from grade 2",
    ),
    "unjudged": (
        [part({"q": {"b": 1}}, {"q": {"a": 2.0, "b": 1.0}})],
        "RR", 0.5, "1.00", "documents without a judgement are removed",
    ),
    "capped recall": (
        [part({"q": {"a": 1, "b": 1, "c": 1, "x": 0}}, {"q": {"a": 2.0, "x": 1.0}})],
        "R@2", 1 / 3, "0.50", "recall capped: at most 2 relevant documents",
    ),
    "plain recall": (
        [part({"q": {"a": 1, "b": 1, "c": 1, "x": 0}}, {"q": {"a": 2.0, "x": 1.0}})],
        "R_cap@2", 0.5, "0.333", "recall not capped",
    ),
    "binary gain of RBP": (
        # (1 - 0.8) (1/2 + 0.8 2/2) becomes 0.2 (1 + 0.8).
        [part({"q": {"a": 1, "b": 2}}, {"q": {"a": 2.0, "b": 1.0}})],
        "RBP", 0.26, "0.360", "relevant from grade 1",
    ),
    "rounding to 4": (
        [part({"q": {"d1": 0, "d2": 0, "d3": 1}}, {"q": falling(3)})],
        "RR", 1 / 3, "0.333300", "queries rounded to 4 digits before the mean",
    ),
    "rounding to 2": (
        [part({"q": {"d1": 0, "d2": 0, "d3": 1}}, {"q": falling(3)})],
        "RR", 1 / 3, "0.330000", "queries rounded to 2 digits before the mean",
    ),
    "ties ascending": (
        [part({"q": {"d1": 0, "d2": 1}}, {"q": {"d2": 1.0, "d1": 1.0}})],
        "RR", 1.0, "0.50", "ties by document id, ascending",
    ),
    "ties by the file": (
        [part({"q": THREE}, {"q": {"d2": 1.0, "d3": 1.0, "d1": 1.0}},
              ranks={"d3": 1, "d2": 2, "d1": 3})],
        "RR", 0.5, "1.00", "ties by the order of the file",
    ),
    "rank column": (
        [part({"q": {"d1": 0, "d2": 1}}, {"q": {"d1": 3.0, "d2": 2.0}}, ranks={"d1": 2, "d2": 1})],
        "RR", 0.5, "1.00", "the rank column instead of the scores",
    ),
    "precision": (
        [part({"q": THREE}, {"q": {"d1": 20.000000001, "d2": 20.000000003, "d3": 20.000000002}})],
        "RR", 0.5, "1.00", "scores in double precision",
    ),
    "missing query": (
        [part({"q1": {"d1": 1}, "q2": {"d1": 1}}, {"q1": {"d1": 1.0}})],
        "RR", 0.5, "1.00", "judged queries that the run lacks are left out",
    ),
    "zero labels": (
        [part({"q1": {"d1": 1}, "q2": {"d2": 0}}, {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}})],
        "RR", 0.5, "1.00", "queries without a relevant document are left out",
    ),
    "self document": (
        [part({"a": {"a": 0, "b": 1}}, {"a": {"a": 2.0, "b": 1.0}})],
        "RR", 0.5, "1.00", "documents with their query's id are removed",
    ),
    "depth 10": (
        [part({"q": {"d12": 1}}, {"q": falling(12)})],
        "RR", 1 / 12, "0.000", "only the first 10 documents of a query",
    ),
    "depth 100": (
        [part({"q": {"d60": 1, "d120": 1}}, {"q": falling(150)})],
        "R@1000", 1.0, "0.50", "only the first 100 documents of a query",
    ),
    "duplicates": (
        [part({"q": {"d1": 0, "d2": 0, "d3": 1}}, {"q": falling(3)},
              same_text=same_texts([("d1", "owls  eat"), ("d2", "owls eat "), ("d3", "mice")]))],
        "RR", 1 / 3, "0.50", "documents of the same text count once",
    ),
    "other qrels": (
        [part({"q": {"d1": 1, "d2": 0}}, {"q": falling(2)},
              other_qrels=judged({"q": {"d1": 0, "d2": 1}}))],
        "RR", 1.0, "0.50", "the other qrels",
    ),
    "split": (
        [part({"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 0, "d2": 1}},
              {"q1": falling(2), "q2": falling(2)},
              other_qrels=judged({"q1": {"d1": 0, "d2": 1}}))],
        "RR", 0.75, "1.00", "queries of the other qrels only",
    ),
    "micro": (
        [part({"q": {"d1": 1}}, {"q": falling(1)}),
         part({q: {"d1": 0, "d2": 1} for q in "abc"}, {q: falling(2) for q in "abc"})],
        "RR", 0.75, "0.625", "mean over all queries, not of the parts' means",
    ),
}  # fmt: skip


@pytest.mark.parametrize("toy", TOYS)
def test_only_that_rule_explains_the_gap(toy: str) -> None:
    parts, measure, default, other, rule = TOYS[toy]
    diagnosis, explains = found(parts, measure, other)
    assert diagnosis.value == pytest.approx(default, abs=5e-4)
    assert explains == [{rule}]
    assert rule not in {one.name for one in diagnosis.without_effect}


@pytest.mark.parametrize(
    ("in_qrels", "in_run", "rule"),
    [
        ("007", "7", "leading zeros of ids are ignored (007 is 7)"),
        ("D1", "d1", "upper and lower case of ids is ignored"),
        ("12", "12.0", "a '.0' at the end of ids is ignored (12.0 is 12)"),
        (" d1", "d1", "white space around ids is ignored"),
    ],
)
def test_ids_that_are_written_differently(in_qrels: str, in_run: str, rule: str) -> None:
    # Of documents, so that nothing fits; and of one query among two, so that one value is lost.
    diagnosis, explains = found([part({"q": {in_qrels: 1}}, {"q": {in_run: 1.0}})], "AP", "1.000")
    assert diagnosis.value is None
    assert "written alike" in diagnosis.problem
    assert explains == [{rule}]
    queries = part(
        {in_qrels: {"a": 1, "b": 0}, "x": {"a": 1}}, {in_run: {"b": 2.0, "a": 1.0}, "x": {"a": 1.0}}
    )
    diagnosis, explains = found([queries], "AP", "0.750")
    assert (diagnosis.value, explains) == (0.5, [{rule}])


def test_two_rules_together_where_none_does_alone() -> None:
    # AP is (1/1 + 2/12) / 2; from grade 2 on 1/12; of the first ten documents 1/2; of both 0.
    toy = part({"q": {"d1": 1, "d12": 2}}, {"q": falling(12)})
    diagnosis, explains = found([toy], "AP", "0.000")
    assert diagnosis.value == pytest.approx(7 / 12)
    assert explains == [{"relevant from grade 2", "only the first 10 documents of a query"}]


def test_what_nothing_explains_is_said_and_the_nearest_shown() -> None:
    toy = part({"q": {"d1": 1, "d12": 2}}, {"q": falling(12)})
    diagnosis, explains = found([toy], "AP", "0.4321")
    assert explains == []
    nearest, *others = diagnosis.verdicts[0].nearer
    assert [rule.name for rule in nearest.rules] == ["only the first 10 documents of a query"]
    gaps = [abs(one.value - 0.4321) for one in (nearest, *others)]
    assert gaps == sorted(gaps)
    assert all(gap < 7 / 12 - 0.4321 for gap in gaps)


def test_a_hair_is_not_nearer() -> None:
    # Rounded to 2 digits 1/3 is 0.33: nearer to 0.20, but by less than its last digit.
    diagnosis, explains = found([TOYS["rounding to 2"][0][0]], "RR", "0.20")
    assert explains == []
    names = {rule.name for one in diagnosis.verdicts[0].nearer for rule in one.rules}
    assert not any("rounded" in name for name in names)


def test_rules_that_give_the_same_number_are_all_named() -> None:
    # Both ways to break the tie differ from the default, and here they agree.
    toy = part({"q": {"d1": 1, "d2": 0}}, {"q": EQUAL})
    _, explains = found([toy], "RR", "1.00")
    assert explains == [
        {"ties by document id, ascending"},
        {"ties by the order of the file"},
        {"the rank column instead of the scores"},
    ]


def test_a_figure_that_agrees_needs_no_rule() -> None:
    diagnosis, explains = found([GRADED], "nDCG@10", "79.00")
    assert explains == []
    assert diagnosis.verdicts[0].nearer == ()
    assert diagnosis.value is not None
    assert diagnosis.verdicts[0].target.matches(diagnosis.value)


def test_rules_without_effect_are_those_that_change_no_query() -> None:
    # The order of the two changes each query's value and leaves their mean as it was.
    toy = part({"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 0, "d2": 1}}, {"q1": EQUAL, "q2": EQUAL})
    diagnosis, _ = found([toy], "RR", "0.10")
    idle = {rule.name for rule in diagnosis.without_effect}
    assert diagnosis.value == 0.75
    assert "ties by document id, ascending" not in idle
    assert {"scores in double precision", "documents with their query's id are removed"} <= idle


@pytest.mark.parametrize(
    ("text", "value", "tolerance"),
    [("0.4974", 0.4974, 5e-5), ("49.74", 0.4974, 5e-5), ("49.7", 0.497, 5e-4), ("1.00", 1.0, 5e-3)],
)
def test_a_figure_is_as_exact_as_it_is_written(text: str, value: float, tolerance: float) -> None:
    target = Target.parse(text)
    assert target.value == pytest.approx(value, abs=1e-12)
    assert target.tolerance == pytest.approx(tolerance)
    assert target.matches(value + 0.99 * tolerance)
    assert not target.matches(value + 1.01 * tolerance)


@pytest.mark.parametrize("text", ["0.5", "1", "nan", "-0.1234", "101.5", "about 0.5", "inf"])
def test_figures_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="value"):
        Target.parse(text)


def test_a_rule_that_leaves_nothing_is_no_rule_without_effect() -> None:
    toy = part({"q": {"a": 1}}, {"q": {"a": 1.0}}, other_qrels=judged({"p": {"a": 1}}))
    diagnosis, _ = found([toy], "AP", "0.50")
    impossible = {rule.name for rule in diagnosis.impossible}
    assert impossible == {"the other qrels", "queries of the other qrels only"}
    assert not impossible & {rule.name for rule in diagnosis.without_effect}


def test_files_that_no_rule_brings_together_are_refused() -> None:
    toy = part({"q": {"a": 1}}, {"p": {"b": 1.0}})
    with pytest.raises(InvalidInputError, match="no query in common"):
        diagnose([toy], "AP", [Target.parse("0.1234")])


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown measure 'owls@3'"):
        diagnose([GRADED], "owls@3", [Target.parse("0.1234")])
    with pytest.raises(UsageError, match="not the mean of its queries"):
        diagnose([GRADED], "NumRet", [Target.parse("0.1234")])


@pytest.mark.parametrize("name", ["map", "gm_map", "IPrec@0.1", "infAP", "Judged@10", "binG"])
def test_measures_of_every_form_are_taken_or_refused(name: str) -> None:
    target = Target.parse("0.1234")
    if name == "gm_map":
        with pytest.raises(UsageError, match="mean of its queries"):
            diagnose([GRADED], name, [target])
        return
    diagnosis = diagnose([GRADED], name, [target])
    levels = {
        rule.name for one in diagnosis.effects for rule in one.rules if "level" in rule.changes
    }
    levels |= {rule.name for rule in diagnosis.without_effect if "level" in rule.changes}
    expected = {"relevant from grade 2", "relevant from grade 3"}
    assert levels == (set() if name in ("Judged@10", "binG") else expected)
