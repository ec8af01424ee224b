"""Shuffles by request: a query's number is its place, in a call, a command or a resumed run."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens import AttentionReranker, Document, Query, Ranking, load_collection, read_run
from ranklens.rerank.bias import read_orders
from ranklens.rerank.explain import Explainer
from ranklens.rerank.faithfulness import erase
from ranklens.rerank.long_lists import LongLists
from ranklens.rerank.profile import OrderChoice, Profile
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.prompt import orders

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]
FILES = ["manifest.json", "candidates.run", "results.jsonl", "reranked.run", "metrics.json"]
TEXTS = ["bread is baked", "sort numbers", "tomatoes grow in soil", "tune a guitar", "six days"]
CHOICE = OrderChoice("shuffled-by-request", seed=42)


def by_request() -> Profile:
    """Return ICR, whose causal prompt depends on the order, shuffled by request."""
    icr = load_profile("icr")
    return dataclasses.replace(icr, prompt=dataclasses.replace(icr.prompt, order=CHOICE))


@pytest.fixture
def reranker(tiny_model: Callable[..., Path]) -> AttentionReranker:
    return AttentionReranker.from_pretrained(
        tiny_model(), profile=by_request(), device="cpu", dtype="float32"
    )


def scores(ranking: Ranking) -> dict[str, float]:
    return {one.id: one.score for one in ranking}


def test_a_number_is_an_order_of_its_own() -> None:
    found = [orders(CHOICE, 20, number) for number in range(8)]
    assert [sorted(one) for [one] in found] == [list(range(20))] * 8
    assert len({tuple(one) for [one] in found}) == 8
    assert orders(CHOICE, 20) == found[0]
    # The sum counts: the next seed's first request is the second one of this.
    assert orders(OrderChoice("shuffled-by-request", seed=43), 20) == found[1]
    # And other arrangements do not ask for it.
    assert orders(OrderChoice("shuffled"), 20, 3) == orders(OrderChoice("shuffled"), 20)


def test_places_in_rank_many_are_numbers(reranker: AttentionReranker) -> None:
    given = [("bread", TEXTS)] * 5
    found = list(reranker.rank_many(given, window=2))
    assert found == [reranker.rank("bread", TEXTS, request=number) for number in range(5)]
    assert len({tuple(sorted(scores(one).items())) for one in found}) == 5
    assert reranker.rank("bread", TEXTS) == found[0]
    assert reranker.rank_queries(["bread"], TEXTS) == [found[0]]


def test_several_prompts_of_one_request_share_its_number(reranker: AttentionReranker) -> None:
    spread = AttentionReranker(
        reranker.engine, by_request(), long_lists=LongLists("anchors", anchors=1, most=3)
    )
    found = [spread.rank("bread", TEXTS, request=number) for number in (0, 1)]
    assert scores(found[0]) != scores(found[1])
    assert list(spread.rank_many([("bread", TEXTS)] * 2)) == found


def test_explanations_and_orders_are_of_the_same_prompt(reranker: AttentionReranker) -> None:
    explainer = Explainer(reranker)
    ranking = reranker.rank("bread", TEXTS, request=3)
    explained = explainer.explain("bread", TEXTS, request=3)
    assert [(one.document.id, one.score) for one in explained] == [
        (one.id, one.score) for one in ranking
    ]
    one = next(one for one in explained if one.spans)
    erased = erase(explainer, "bread", TEXTS, one, spans=1, draws=1, request=3)
    assert erased is not None
    assert erased != erase(explainer, "bread", TEXTS, one, spans=1, draws=1)
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    read = read_orders(reranker, Query("q", "bread"), documents, permutations=2, request=3)
    assert list(read.own) == pytest.approx([scores(ranking)[str(n)] for n in range(5)])


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    save_profile(by_request(), tmp_path / "by-request.json")
    return tmp_path / "by-request.json"


@pytest.fixture
def expected(collection: Path, decoder: str, profile: Path) -> dict[str, dict[str, float]]:
    """Return scores by query, each ranked by its place in the collection."""
    reranker = AttentionReranker.from_pretrained(
        decoder.removeprefix("attention:"), profile=profile
    )
    loaded = load_collection(str(collection))
    candidates, texts = loaded.candidates("all"), {d.id: d for d in loaded.documents}
    return {
        query.id: scores(
            reranker.rank(
                query, [texts[doc.doc_id] for doc in candidates[query.id][:5]], request=number
            )
        )
        for number, query in enumerate(loaded.queries)
    }


def results(folder: Path) -> dict[str, dict[str, float]]:
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {
        line["query_id"]: {one["id"]: one["score"] for one in line["documents"]}
        for line in map(json.loads, lines)
    }


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_resumed_run_keeps_the_numbers(
    call: Call,
    collection: Path,
    decoder: str,
    profile: Path,
    expected: dict[str, dict[str, float]],
    tmp_path: Path,
    left: int,
) -> None:
    def run(out: Path) -> None:
        done = call(
            "run", collection, "--candidates", "all", "--reranker", decoder, "--profile", profile,
            "--depth", 5, "--out", out,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    whole, out = tmp_path / "whole", tmp_path / "out"
    run(whole)
    assert results(whole) == expected
    shutil.copytree(whole, out)
    for name in ("metrics.json", "reranked.run"):
        (out / name).unlink()
    lines = (whole / "results.jsonl").read_bytes().splitlines(keepends=True)
    (out / "results.jsonl").write_bytes(b"".join(lines[:left]))
    run(out)
    for name in FILES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_queries_without_candidates_count(
    call: Call,
    collection: Path,
    decoder: str,
    profile: Path,
    expected: dict[str, dict[str, float]],
    tmp_path: Path,
) -> None:
    """The third query keeps its number where the first two are not ranked."""
    file = collection / "all.run"
    kept = [line for line in file.read_text().splitlines() if line.startswith("q3")]
    file.write_text("\n".join(kept) + "\n")
    how = ["--reranker", decoder, "--profile", profile, "--depth", 5]
    done = call("rerank", collection, "all", "-o", tmp_path / "out.run", *how)
    assert done.returncode == 0, done.stderr
    found = {doc.doc_id: doc.score for doc in read_run(tmp_path / "out.run")["q3"][:5]}
    assert found == pytest.approx(expected["q3"], rel=1e-6)
    done = call(
        "explain", "--collection", collection, "--query-id", "q3", "--candidates", "all",
        "--draws", 0, "--show", 5, "--json", *how,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    documents = json.loads(done.stdout)["documents"]
    assert {one["id"]: one["score"] for one in documents} == pytest.approx(expected["q3"])
