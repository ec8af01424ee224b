"""Agreement figures on real data: published ones, and pinned ones worked out a second time here."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from ranklens.data.qrels import read_qrels
from ranklens.data.score_table import read_score_table
from ranklens.eval.agree.labels import Scale, label_agreement
from ranklens.eval.agree.report import Reporter
from ranklens.eval.agree.significance import Method, decisions

Find = Callable[[str], Path]
Values = NDArray[np.float64]

ANCHORS = Path(__file__).resolve().parents[2] / "shared" / "anchors" / "llmjudge_published.tsv"


def test_the_165_published_label_figures_of_llmjudge(shared_collection: Find) -> None:
    """Tables 3 and 4 of arXiv 2502.13908: 33 label sets, κ × 4 and α, four decimals."""
    folder = shared_collection("llmjudge-dl23")
    if not ANCHORS.is_file():
        pytest.skip("the published figures are not beside this checkout")
    with ANCHORS.open(encoding="utf-8", newline="") as stream:
        published = {row["submission"]: row for row in csv.DictReader(stream, delimiter="\t")}
    gold = read_qrels(folder / "qrels.test.txt")
    clipped = {}
    cells = 0
    for path in sorted((folder / "submissions").glob("*.txt")):
        found = label_agreement(gold, read_qrels(path), Scale(0, 3))
        figures = found.overall
        row = published[path.stem]
        names = ("kappa4", "k_0|123", "k_01|23", "k_012|3", "alpha_ordinal")
        values = (figures.kappa, *figures.binary.values(), figures.alpha)
        for name, value in zip(names, values, strict=True):
            assert value is not None
            assert f"{value + 0.0:.4f}" == row[name], (path.stem, name)
            cells += 1
        assert figures.pairs == found.gold_pairs == 4423
        if found.judge_clipped:
            clipped[path.stem] = found.judge_clipped
    assert cells == 165
    assert clipped == {"RMITIR-llama70B": {5: 2}, "h2oloo-zeroshot2": {10: 1}}


# Human judgements against synthetic ones (SynDL), nDCG@10, paired t test, Holm over all pairs. The
# synthetic tables have other topics: means are over each one's own (in 2022 `full` shares none
# with the human one, and `partial` holds the human labels where topics are shared). The runs are
# the same on both sides; of the 37 of 2019, idst_bert_p1 is in neither.
# systems, topics; τ_b, τ_AP, RBO, ρ, top-10 τ; cells AA AD MA_g MA_j MD_g MD_j PA PD.
SYNDL = {
    ("2019", "full"): (
        36, (43, 192), (0.8571, 0.7664, 0.8059, 0.9671, 0.6889), (253, 0, 1, 182, 0, 1, 149, 44)
    ),
    ("2019", "partial"): (
        36, (43, 200), (0.8952, 0.8701, 0.9408, 0.9771, 0.7778), (253, 0, 1, 203, 0, 0, 140, 33)
    ),
    ("2020", "full"): (
        59, (54, 194), (0.8527, 0.6560, 0.5380, 0.9613, -0.1556), (933, 0, 22, 324, 2, 5, 306, 119)
    ),
    ("2020", "partial"): (
        59, (54, 200), (0.8901, 0.6985, 0.6052, 0.9763, 0.1556), (950, 0, 7, 376, 0, 0, 284, 94)
    ),
    ("2022", "full"): (
        100, (76, 424), (0.8710, 0.8159, 0.7015, 0.9741, 0.6000),
        (2521, 0, 3, 1314, 0, 28, 793, 291),
    ),
    ("2022", "partial"): (
        100, (76, 500), (0.8977, 0.8477, 0.7372, 0.9829, 0.6889),
        (2524, 0, 0, 1438, 0, 14, 735, 239),
    ),
}  # fmt: skip


@pytest.mark.parametrize("year", ["2019", "2020", "2022"])
def test_human_against_synthetic_judgements(shared_collection: Find, year: str) -> None:
    folder = shared_collection("trec-dl-run-scores")
    official = folder / f"dl{year}.official.tsv.gz"
    reporter = Reporter("nDCG@10", topics="own", gold_table=read_score_table(official, "nDCG@10"))
    gold = plainly_read(official)
    for kind in ("full", "partial"):
        path = folder / f"dl{year}.syndl-{kind}.tsv.gz"
        ranked = reporter.report(kind, table=read_score_table(path, "nDCG@10")).ranked
        assert ranked is not None
        found = ranked.agreement
        systems, topics, figures, cells = SYNDL[year, kind]
        assert (found.systems, ranked.topics) == (systems, topics)
        ours = (found.tau, found.tau_ap, found.rbo, found.rho, found.top[1].tau)
        assert ours == pytest.approx(figures, abs=5e-5)
        assert astuple(ranked.cells) == cells
        assert sum(cells) == systems * (systems - 1) // 2

        judge = plainly_read(path)
        assert list(judge) == list(gold)
        again = plain_figures(
            np.array([v.mean() for v in gold.values()]),
            np.array([v.mean() for v in judge.values()]),
        )
        assert ours == pytest.approx(again, abs=1e-9)
        assert plain_cells(list(gold.values()), list(judge.values())) == cells


@pytest.mark.parametrize(
    ("first", "second", "cell"),
    [("UNH_bm25", "p_exp_bert", "AA"), ("TUW19-p1-re", "bm25tuned_rm3_p", "MA_j")],
)
def test_two_pairs_by_hand(shared_collection: Find, first: str, second: str, cell: str) -> None:
    """Of the differences t = mean / (sd / √n), two-sided; 630 pairs."""
    folder = shared_collection("trec-dl-run-scores")
    signs, claims = [], []
    for name, claimed in (("official", 254), ("syndl-full", 436)):
        path = folder / f"dl2019.{name}.tsv.gz"
        scores = plainly_read(path)
        differences = [a - b for a, b in zip(scores[first], scores[second], strict=True)]
        n = len(differences)
        mean = math.fsum(differences) / n
        variance = math.fsum((d - mean) ** 2 for d in differences) / (n - 1)
        t = mean / math.sqrt(variance / n)
        p = 2 * stats.t.sf(abs(t), n - 1)
        # Holm: the smallest p that is no claim has been multiplied by the pairs that are left.
        by_hand = p * (630 - claimed) < 0.05
        # Bonferroni, which is stricter, agrees with every claim here.
        assert by_hand == (p * 630 < 0.05)

        table = read_score_table(path, "nDCG@10")
        systems = list(table.systems)
        pair = systems.index(first), systems.index(second)
        assert pair[0] < pair[1]
        place = list(itertools.combinations(range(len(systems)), 2)).index(pair)
        found = decisions(table, Method())
        assert int(found.significant.sum()) == claimed
        assert (found.signs[place], found.significant[place]) == (math.copysign(1, t), by_hand)
        signs.append(t > 0)
        claims.append(by_hand)
    assert signs[0] == signs[1]
    assert claims == {"AA": [True, True], "MA_j": [False, True]}[cell]


def plainly_read(path: Path) -> dict[str, Values]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        scores: dict[str, list[float]] = {}
        for row in csv.DictReader(stream, delimiter="\t"):
            if row["topic"] != "all":
                scores.setdefault(row["run"], []).append(float(row["ndcg_cut_10"]))
    # Without ties in the means but for one pair of 2022, the order of names breaks them.
    return {run: np.array(scores[run]) for run in sorted(scores)}


def plain_figures(gold: Values, judge: Values) -> tuple[float, ...]:
    by_gold = sorted(range(len(gold)), key=lambda s: (-gold[s], s))
    by_judge = sorted(range(len(gold)), key=lambda s: (-judge[s], s))
    tau_ap, rbo, shared = 0.0, 0.0, 0
    for place in range(1, len(gold)):
        above = [s for s in by_judge[:place] if by_gold.index(s) < by_gold.index(by_judge[place])]
        tau_ap += len(above) / place
    for depth in range(1, len(gold) + 1):
        shared = len(set(by_gold[:depth]) & set(by_judge[:depth]))
        rbo += 0.1 * 0.9 ** (depth - 1) * shared / depth
    top = by_gold[:10]
    return (
        stats.kendalltau(gold, judge).statistic,
        2 / (len(gold) - 1) * tau_ap - 1,
        rbo + 0.9 ** len(gold),
        stats.spearmanr(gold, judge).statistic,
        stats.kendalltau(gold[top], judge[top]).statistic,
    )


def plain_cells(gold: list[Values], judge: list[Values]) -> tuple[int, ...]:
    """Return AA AD MA_g MA_j MD_g MD_j PA PD of t tests with Holm's step-down, pair by pair."""
    gold_says, judge_says = holm_by_hand(gold), holm_by_hand(judge)
    counts = dict.fromkeys(itertools.product((True, False), repeat=3), 0)
    for pair, (g_up, g) in gold_says.items():
        j_up, j = judge_says[pair]
        counts[g, j, g_up == j_up or 0 in (g_up, j_up)] += 1
    order = [(True, True), (True, False), (False, True), (False, False)]
    same, opposite = ([counts[*cell, sign] for cell in order] for sign in (True, False))
    (aa, ma_g, ma_j, pa), (ad, md_g, md_j, pd) = same, opposite
    return aa, ad, ma_g, ma_j, md_g, md_j, pa, pd


def holm_by_hand(scores: list[Values]) -> dict[tuple[int, int], tuple[int, bool]]:
    """Return the sign of the mean difference, and whether it is significant, by pair."""
    p_values: dict[tuple[int, int], float] = {}
    for i in range(len(scores) - 1):
        rest = np.array(scores[i + 1 :])
        # Two runs that are the same have no t: they do not differ.
        p_row = np.nan_to_num(stats.ttest_rel(scores[i][None], rest, axis=1).pvalue, nan=1.0)
        p_values |= {(i, i + 1 + n): p for n, p in enumerate(p_row.tolist())}
    rejected = set()
    for step, pair in enumerate(sorted(p_values, key=lambda pair: p_values[pair])):
        if p_values[pair] * (len(p_values) - step) >= 0.05:
            break
        rejected.add(pair)
    return {
        (i, j): (int(np.sign(scores[i].mean() - scores[j].mean())), (i, j) in rejected)
        for i, j in p_values
    }
