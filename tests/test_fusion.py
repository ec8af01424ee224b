"""Fused runs against arithmetic of their own, and what ranx alone would get wrong."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import statistics
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement, ScoredDoc
from ranklens.data.runs import Run, read_run
from ranklens.eval.measures import evaluate
from ranklens.retrieval.fusion import METHODS, NORMS, Fusion, fuse, optimise

# Found, not imported: that takes seconds, in every process that collects tests.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ranx") is None, reason="the extra hybrid is not installed"
)
pytest_plugins = ["cli_fixtures"]

Scores = Mapping[str, float]


def ranked(queries: Mapping[str, Scores], tag: str = "test") -> Run:
    """Return a run of scores, equal ones by document id."""
    rankings = {
        query_id: [ScoredDoc(d, -s) for s, d in sorted((-s, d) for d, s in scores.items())]
        for query_id, scores in queries.items()
    }
    return Run(rankings, tag=tag)


def random_runs(seed: int, number: int) -> list[Run]:
    """Return runs with ties, scores below 0, and queries that are missing or without a document."""
    rng = random.Random(seed)
    runs = []
    for which in range(number):
        queries: dict[str, Scores] = {}
        for query in range(12):
            documents = rng.sample(range(30), rng.choice([0, 1, 2, 9, 20]))
            if rng.random() < 0.8:
                queries[f"q {query}"] = {f"d{n}": rng.randint(-6, 6) / 2 for n in documents}
        runs.append(ranked(queries, f"run {which}"))
    return runs


def normalised(docs: tuple[ScoredDoc, ...], norm: str) -> dict[str, float]:
    scores = [doc.score for doc in docs]
    if not scores:
        return {}
    low, high, n = min(scores), max(scores), len(scores)
    shift, by = {
        "min-max": (low, high - low),
        "sum": (low, sum(scores) - n * low),
        "z-score": (statistics.fmean(scores), statistics.pstdev(scores)),
    }.get(norm, (0.0, 1.0))
    if norm == "rank":
        return {doc.doc_id: 1 - place / n for place, doc in enumerate(docs)}
    return {doc.doc_id: (doc.score - shift) / by if by else 0.0 for doc in docs}


def expected(runs: list[Run], fusion: Fusion) -> dict[str, list[tuple[str, float]]]:
    """Compute what the docstring of Fusion says, one document at a time."""
    result = {}
    for query in dict.fromkeys(q for run in runs for q in run):
        lists = [run.get(query, ()) for run in runs]
        ranks = [{doc.doc_id: r for r, doc in enumerate(docs, 1)} for docs in lists]
        values = [normalised(docs, fusion.norm or "") for docs in lists]
        rows = []
        for doc in {doc.doc_id for docs in lists for doc in docs}:
            of = [r[doc] for r in ranks if doc in r]
            got = [v[doc] for v in values if doc in v]
            every = len({d for r in ranks for d in r})
            weights = fusion.weights or [1 / len(runs)] * len(runs)
            score = {
                "rrf": sum(1 / ((fusion.k or 0) + rank) for rank in of),
                "isr": len(of) * sum(1 / rank**2 for rank in of),
                "bordafuse": sum(
                    every + 1 - r[doc] if doc in r else (every - len(r) + 1) / 2 for r in ranks
                ),
                "wsum": sum(w * v.get(doc, 0.0) for w, v in zip(weights, values, strict=True)),
                "combsum": sum(got),
                "combmnz": len(got) * sum(got),
                "combmax": max(got),
            }[fusion.method]
            rows.append((-round(score, 9), min(of), doc))
        result[query] = [(doc, -score + 0.0) for score, _, doc in sorted(rows)]
    return result


@pytest.mark.parametrize(
    "text",
    [
        "rrf", "rrf(k=0)", "isr", "bordafuse", "wsum", "wsum(norm=z-score,weights=0.3,0.5,0.2)",
        "wsum(norm=sum,weights=2,0,1)", "combsum(norm=rank)", "combmnz", "combmnz(norm=sum)",
        "combmax(norm=min-max)", "combsum(norm=z-score)",
    ],
)  # fmt: skip
def test_scores_and_order_are_those_of_the_formulas(text: str) -> None:
    fusion = Fusion.parse(text)
    for seed in range(3):
        runs = random_runs(seed, 3)
        fused = fusion.fuse(runs)
        wanted = expected(runs, fusion)
        assert list(fused) == list(wanted)
        assert fused.tag == fusion.method
        for query, rows in wanted.items():
            assert [doc.doc_id for doc in fused[query]] == [doc_id for doc_id, _ in rows]
            scores = [doc.score for doc in fused[query]]
            assert scores == pytest.approx([score for _, score in rows], abs=2e-9)
            assert all(type(score) is float for score in scores)


def test_max_divides_by_the_highest() -> None:
    runs = [ranked({"q": {"a": 4.0, "b": 1.0, "c": -2.0}}), ranked({"q": {"b": 2.0}})]
    fused = fuse(runs, "combsum", norm="max")
    assert [(d.doc_id, d.score) for d in fused["q"]] == [("b", 1.25), ("a", 1.0), ("c", -0.5)]
    with pytest.raises(InvalidInputError, match="run 'low', query 'q': the highest score is -1"):
        fuse([*runs, ranked({"q": {"a": -1.0}}, "low")], "combsum", norm="max")


def test_ties_go_by_the_best_rank_then_by_id_whatever_the_order_of_the_dicts() -> None:
    one = {"z": 9.0, "a": 8.0, "m": 8.0, "y": 1.0}
    other = {"y": 3.0, "m": 2.0, "a": 2.0, "z": 1.0}
    fused = fuse([ranked({"q": one}), ranked({"q": other})])
    # z and y are both first and last; m, behind a for its id alone, is third in both.
    assert [doc.doc_id for doc in fused["q"]] == ["a", "y", "z", "m"]
    assert fused["q"][1].score == fused["q"][2].score
    # y, z and a add up to 1; a is second in both and would be the first by id.
    halves = [{"z": 2.0, "a": 1.0, "x": 0.0}, {"y": 2.0, "a": 1.0, "z": 0.0}]
    equal = fuse([ranked({"q": scores}) for scores in halves], "combsum")
    assert [(d.doc_id, d.score) for d in equal["q"]] == [
        ("y", 1.0), ("z", 1.0), ("a", 1.0), ("x", 0.0),
    ]  # fmt: skip
    turned = dict(reversed(one.items()))
    assert fuse([ranked({"q": turned}), ranked({"q": other})]) == fused
    assert fuse([ranked({"q": other}), ranked({"q": one})]) == fused


def test_the_order_of_runs_changes_nothing() -> None:
    runs = random_runs(5, 4)
    for method in METHODS:
        one, other = fuse(runs, method), fuse(runs[::-1], method)
        assert {q: one[q] for q in one} == {q: other[q] for q in one}


def test_nothing_is_dropped_and_ids_may_be_anything() -> None:
    odd = {"a b": 1.0, "a\x00": 0.5, "a": 0.4, "é/日": 0.2, "\ud800": 0.1}
    runs = [ranked({"only here": odd, "empty": {}}), ranked({"3": {"7": -1.0}}), Run({})]
    for method in METHODS:
        fused = fuse(runs, method)
        assert {query: len(docs) for query, docs in fused.items()} == {
            "only here": 5, "empty": 0, "3": 1,
        }  # fmt: skip
        assert [doc.doc_id for doc in fused["only here"]] == list(odd)
    assert dict(fuse([Run({"q": []}), Run({})])) == {"q": ()}
    assert len(fuse(runs, depth=2)["only here"]) == 2


def test_scores_too_large_are_an_error() -> None:
    huge = ranked({"q": {"a": 1.7e308, "b": -1.7e308}})
    with pytest.raises(NumericalError, match=r"query 'q': document '[ab]' has the fused score"):
        fuse([huge, huge], "combsum")


@pytest.mark.parametrize("method", METHODS)
def test_a_fusion_reads_back_as_it_is_written(method: str) -> None:
    fusions = [Fusion(method)]
    if method == "rrf":
        fusions.append(Fusion(method, k=7))
    elif Fusion(method).norm:
        norms = [norm for norm in NORMS if (method, norm) != ("combmnz", "z-score")]
        fusions += [Fusion(method, norm) for norm in norms]
    if method == "wsum":
        fusions.append(Fusion(method, "max", (0.1, 1 / 3, 2.0)))
    assert len(fusions) == len({str(fusion) for fusion in fusions}) + (len(fusions) > 2)
    for fusion in fusions:
        assert Fusion.parse(str(fusion)) == fusion
    assert str(Fusion("wsum", weights=(0.3, 0.7))) == "wsum(norm=min-max,weights=0.3,0.7)"
    assert Fusion.parse("wsum( weights = 1, 2 )").weights == (1.0, 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mapfuse", "unknown fusion 'mapfuse'; choose rrf, isr, bordafuse, wsum, combsum"),
        ("combsum(norm=l2)", "unknown norm 'l2'; choose min-max, z-score, max, sum, rank"),
        ("rrf(norm=max)", "rrf goes by ranks: it takes no norm"),
        ("combmnz(norm=z-score)", "use another norm than z-score"),
        ("combsum(weights=1,2)", "weights are of wsum; combsum has none"),
        ("wsum(weights=0,0)", "not all 0; got 0, 0"),
        ("wsum(weights=1,-1)", "at least 0, not all 0; got 1, -1"),
        ("wsum(weights=nan,1)", "got nan, 1"),
        ("wsum(weights=a,1)", "could not convert string to float: 'a'"),
        ("isr(k=2)", "k is of rrf; isr has none"),
        ("rrf(k=-1)", "rrf's k must be at least 0 and at most 1000000000, got -1"),
        (f"rrf(k={10**30})", "at most 1000000000, got 1000"),
        ("rrf(k=1.5)", "invalid literal"),
        ("rrf(z=1)", "has no setting 'z'"),
        ("rrf(60)", "cannot read '60'"),
        ("rrf(k=1", "cannot read the fusion"),
        ("", "cannot read the fusion ''"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Fusion.parse(text)
    assert said in str(caught.value)


def test_runs_and_weights_must_match() -> None:
    run = ranked({"q": {"a": 1.0}})
    with pytest.raises(UsageError, match="at least two runs, got 1"):
        fuse([run])
    with pytest.raises(UsageError, match="2 runs take as many weights, got 3"):
        fuse([run, run], "wsum", weights=[1, 2, 3])
    with pytest.raises(UsageError, match="the depth must be at least 1, got 0"):
        fuse([run, run], depth=0)


def judged_runs() -> tuple[list[Run], Qrels]:
    """Return a good and a poor run, and the judgements."""
    rng = random.Random(3)
    qrels, good, poor = [], {}, {}
    for query in range(20):
        grades = {f"d{n}": rng.choice([-1, 0, 0, 1, 2]) for n in range(15)}
        qrels += [Judgement(f"q{query}", doc_id, grade) for doc_id, grade in grades.items()]
        good[f"q{query}"] = {d: g + rng.gauss(0, 1.2) for d, g in grades.items()}
        poor[f"q{query}"] = {d: g + rng.gauss(0, 3) for d, g in grades.items()}
    good["unjudged"] = {"d1": 1.0}
    return [ranked(good), ranked(poor)], Qrels(qrels)


@pytest.mark.parametrize("measure", ["nDCG@10", "AP(rel=2)", "RR", "P@5", "R(rel=1)@5"])
def test_the_weights_found_are_the_best_of_the_grid(measure: str) -> None:
    """trec_eval's measures of every weight say so; ranx computed its own."""
    runs, qrels = judged_runs()
    tried: dict[tuple[float, ...], float] = {}
    for step in range(11):
        weights = (round(step / 10, 1), round(1 - step / 10, 1))
        fused = fuse(runs, "wsum", norm="z-score", weights=weights)
        tried[weights] = evaluate(qrels, fused, [measure]).measures[measure].value
    found = optimise(runs, qrels, norm="z-score", measure=measure)
    assert found.weights is not None
    assert tried[found.weights] == pytest.approx(max(tried.values()), abs=1e-9)
    assert min(tried.values()) < max(tried.values())
    assert (found.method, found.norm) == ("wsum", "z-score")


def test_what_cannot_be_optimised() -> None:
    runs, qrels = judged_runs()
    found = optimise(runs, qrels, "rrf")
    assert found.k in range(10, 101, 10)
    with pytest.raises(UsageError, match="combsum has nothing to optimise"):
        optimise(runs, qrels, "combsum")
    with pytest.raises(UsageError, match="cannot optimise for 'ERR@10'"):
        optimise(runs, qrels, measure="ERR@10")
    with pytest.raises(InvalidInputError, match="no query with a relevant document in common"):
        optimise(runs, Qrels([Judgement("q0", "d1", 0), Judgement("other", "d1", 1)]))


def test_the_command_line(
    collection: Path,
    call: Callable[..., subprocess.CompletedProcess[str]],
    program_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    other, out = tmp_path / "other.run", tmp_path / "fused.run"
    assert call("retrieve", collection, "-o", other).returncode == 0
    runs = [collection / "all.run", other]
    # Once as users have it: compiled.
    uncompiled = program_environment.pop("NUMBA_DISABLE_JIT")
    done = call("fuse", *runs, "-o", out, "--depth", 5)
    program_environment["NUMBA_DISABLE_JIT"] = uncompiled
    assert done.returncode == 0, done.stderr
    assert "4 queries, 20 documents, rrf(k=60)" in done.stderr
    assert done.stdout == ""
    wanted = fuse([read_run(path) for path in runs], depth=5)
    read = read_run(out)
    assert {q: [d.doc_id for d in read[q]] for q in read} == {
        q: [d.doc_id for d in wanted[q]] for q in wanted
    }
    done = call("fuse", *runs, "-o", out, "--optimise", collection, "--metric", "RR@10", "--json")
    found = json.loads(done.stdout)
    assert found["fusion"].startswith("wsum(norm=min-max,weights=")
    assert found["warnings"][-1].endswith("figures on these are optimistic")
    # What was found can be given back, and gives the figure that was shown.
    done = call("fuse", *runs, "-o", out, "--method", found["fusion"])
    done = call("evaluate", collection, out, "-m", "RR@10", "--json")
    shown = json.loads(done.stdout)["results"][0]["measures"]["RR@10"]["value"]
    assert math.isclose(shown, found["value"], abs_tol=1e-9)
    done = call("fuse", *runs, "-o", out, "--optimise", collection / "qrels.txt", "--method", "rrf")
    assert done.stdout.startswith("rrf(k=")
    assert "warning: the settings were found on the judgements" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "mapfuse"], "unknown fusion 'mapfuse'"),
        (["--weights", "1"], "2 runs take as many weights, got 1"),
        (["--weights", "a,b"], "--weights is 'a,b'; expected a number for each run"),
        (["--method", "rrf(k=2)", "--norm", "max"], "has its settings in it"),
        (["--metric", "AP"], "give --optimise too"),
        (["--optimise", "x", "--weights", "1,2"], "it excludes --weights"),
        (["--depth", "0"], "--depth must be at least 1, got 0"),
    ],
)
def test_the_command_line_refuses(
    options: list[str], said: str, call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = call("fuse", "a.run", "b.run", "-o", "out.run", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not Path("out.run").exists()
