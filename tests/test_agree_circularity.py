from __future__ import annotations

from collections.abc import Mapping

import pytest

from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement
from ranklens.eval.agree.circularity import judge_as_reranker, judge_orders, self_preference
from ranklens.eval.agree.families import families_of, names_model
from ranklens.eval.measures import Scorer
from ranklens.eval.policy import Orders


def run(ranking: str) -> Orders:
    return {"q": list(ranking)}


def qrels(labels: Mapping[str, int]) -> Qrels:
    return Qrels(Judgement("q", doc, grade) for doc, grade in labels.items())


def precision(judged: Qrels, ranked: Orders) -> float:
    return Scorer(judged, "P@2").mean(ranked)


def test_self_preference_of_one_and_of_a_family() -> None:
    gold = {"own": 0.50, "kin": 0.60, "x": 0.70, "y": 0.40}
    judge = {"own": 0.80, "kin": 0.70, "x": 0.75, "y": 0.45}
    own = self_preference(gold, judge, {"own"})
    assert own.inflation == pytest.approx(0.3)
    assert own.others == pytest.approx((0.1 + 0.05 + 0.05) / 3)
    assert own.preference == pytest.approx(0.3 - 0.2 / 3)
    assert own.rank_gain == 3 - 1
    family = self_preference(gold, judge, {"own", "kin"})
    assert family.systems == ("own", "kin")
    assert family.preference == pytest.approx(0.2 - 0.05)
    assert family.rank_gain == ((3 - 1) + (2 - 3)) / 2
    everyone = self_preference(gold, judge, set(gold))
    assert (everyone.others, everyone.preference) == (None, None)
    with pytest.raises(InvalidInputError, match="none of the judge's own"):
        self_preference(gold, judge, {"z"})


def test_the_judge_as_everyones_reranker() -> None:
    gold = qrels({"a": 1, "b": 1, "c": 0, "d": 0})
    judge = qrels({"a": 0, "b": 1, "c": 1, "d": 0})
    runs = {"good": run("abcd"), "bad": run("dcba"), "deep": run("adbc")}
    before = (
        {name: precision(gold, ranked) for name, ranked in runs.items()},
        {name: precision(judge, ranked) for name, ranked in runs.items()},
    )
    assert before == ({"good": 1, "bad": 0, "deep": 0.5}, {"good": 0.5, "bad": 0.5, "deep": 0})
    score = Scorer(gold, "P@2").mean, Scorer(judge, "P@2").mean
    found = judge_as_reranker(runs, judge, before, score, depth=3)
    # After: good b c a, bad c b d, deep b a d: only c is out of deep's reach.
    assert found.gold_change == pytest.approx(((0.5 - 1) + (0.5 - 0) + (1 - 0.5)) / 3)
    assert found.tau_before == pytest.approx(0, abs=1e-12)
    assert found.tau_after == pytest.approx(-1)
    # The judge run: b and c are good, each second somewhere; b is the earlier id.
    assert judge_orders(runs, judge, 3)["q"] == ["b", "c", "a", "d"]
    assert (found.run_gold, found.run_judge) == (0.5, 1)
    assert (found.run_gold_rank, found.run_judge_rank) == (2, 1)


def test_the_judge_run_is_of_what_the_systems_found() -> None:
    judge = qrels({"a": 0, "b": 2, "c": 3, "z": 3})
    ranked = judge_orders({"x": run("uab"), "y": run("bvc")}, judge, 2)
    assert ranked["q"] == ["b", "u", "a", "v"]


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("gpt-4o", {"gpt"}), ("chatgpt_rerank.run", {"gpt"}), ("o3-mini", {"gpt"}),
        ("rank_gpt35", {"gpt"}), ("BM25__vicuna-7b-v1.5_4096", {"llama"}),
        ("meta-llama/Llama-3-8B", {"llama"}), ("RankLLaMA-13b", {"llama"}), ("llama70b", {"llama"}),
        ("rank_zephyr_7b", {"mistral"}), ("Mixtral-8x7B", {"mistral"}), ("monot5-3b", {"t5"}),
        ("dl2019_flant5large", {"t5"}), ("flan-t5-xl", {"t5"}), ("rank1-32b-awq", {"qwen"}),
        ("Qwen2.5-7B", {"qwen"}), ("Phi-3-mini", {"phi"}),
        ("DeepSeek-R1-Distill-Llama-8B", {"deepseek", "llama"}),
        ("bm25", set()), ("rank100", set()), ("graphite", set()), ("philosophy", set()),
        ("run_t50", {"t5"}), ("splade-v3", set()), ("go1", set()), ("", set()),
    ],
)  # fmt: skip
def test_families_by_name(name: str, families: set[str]) -> None:
    assert families_of(name) == families


def test_a_models_own_run_has_its_name() -> None:
    assert names_model("BM25__gpt-3.5-turbo_4096", "openai/GPT-3.5-turbo")
    assert names_model("rank_zephyr_7b", "castorini/rank-zephyr-7b/")
    assert not names_model("gpt-3.5-turbo", "gpt-3.5-turbo-16k")
    assert not names_model("gpt-4o-mini2", "gpt-4o-mini")
    assert not names_model("anything", "/")
