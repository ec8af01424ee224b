"""MTEB: a whole two-stage run of a task of its own classes, and the files it makes."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mteb
import pytest
from datasets import Dataset
from mteb.cache import ResultCache
from mteb.models import ModelMeta, SearchProtocol
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol
from tests.mteb_task import CORPUS, FIRST_STAGE, QUERIES, GivenSearch, TinyRetrieval
from tests.stand_in_rerankers import Given, Overlap

from ranklens import AttentionReranker, Ranking
from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run
from ranklens.eval.export.mteb import MtebModel, MtebTask, write_predictions
from ranklens.rerank.base import RankedDocument
from ranklens.rerank.integrations.mteb import RanklensSearch

pytest_plugins = ["integration_fixtures"]

WHERE: dict[str, Any] = {
    "task_metadata": TinyRetrieval.metadata,
    "hf_split": "test",
    "hf_subset": "default",
    "encode_kwargs": {"batch_size": 2},
    "num_proc": None,
}
CANDIDATES = {query: list(documents) for query, documents in FIRST_STAGE.items()}


def indexed(reranker: Any) -> RanklensSearch:
    search = RanklensSearch(reranker)
    search.index(Dataset.from_list(CORPUS), **WHERE)
    return search


def searched(search: RanklensSearch, **changes: Any) -> dict[str, dict[str, float]]:
    settings = {"top_k": 10, "top_ranked": CANDIDATES, **WHERE, **changes}
    return search.search(Dataset.from_list(QUERIES), **settings)


@pytest.fixture
def reranking(tmp_path: Path) -> TinyRetrieval:
    """Run the first stage, and return its task as one of reranking."""
    predictions = tmp_path / "predictions"
    mteb.evaluate(GivenSearch(), TinyRetrieval(), prediction_folder=predictions, cache=None)
    return TinyRetrieval().convert_to_reranking(predictions, top_k=3)


def test_a_two_stage_run_gives_results_that_mteb_reads(
    reranking: TinyRetrieval, tmp_path: Path
) -> None:
    overlap = Overlap()
    search = RanklensSearch(overlap)
    cache = ResultCache(tmp_path / "cache")
    found = mteb.evaluate(search, reranking, cache=cache, prediction_folder=tmp_path / "reranked")
    # Three lists, those of the queries with the same words among them, each of its own three.
    assert [(query, len(texts)) for query, texts in overlap.asked] == [
        ("bread oven", 3), ("warm soil", 3), ("bread oven", 2),
    ]  # fmt: skip
    (entry,) = found.task_results[0].scores["test"]
    assert entry["main_score"] == entry["ndcg_at_10"] == 1.0
    assert entry["previous_results_model_meta"] == {"model_name": "tests/given", "revision": "1"}
    path = tmp_path / "cache/results/ranklens__overlap-test/no_revision_available"
    read = mteb.TaskResult.from_disk(path / "TinyRetrieval.json")
    assert read.task_name == "TinyRetrieval"
    assert read.get_score() == 1.0
    meta = json.loads((path / "model_meta.json").read_text())
    assert (meta["name"], meta["model_type"]) == ("ranklens/overlap-test", ["cross-encoder"])
    loaded = cache.load_task_result("TinyRetrieval", search.mteb_model_meta)
    assert loaded is not None
    assert loaded.get_score() == 1.0
    again = cache.load_results(models=[search.mteb_model_meta], tasks=[reranking])
    assert [one.model_name for one in again.model_results] == ["ranklens/overlap-test"]
    # By query ids, scores as they are.
    written = json.loads((tmp_path / "reranked/TinyRetrieval_predictions.json").read_text())
    assert written["default"]["test"]["q3"] == {"d5": pytest.approx(0.97), "d4": -0.05}
    assert set(written["default"]["test"]) == {"q1", "q2", "q3"}


def test_candidates_of_a_run_file_of_ours(tmp_path: Path) -> None:
    run = Run(
        {
            query: [ScoredDoc(doc, score) for doc, score in documents.items()]
            for query, documents in FIRST_STAGE.items()
        }
    )
    write_predictions(tmp_path, MtebModel("tests/bm25", "1"), MtebTask("TinyRetrieval"), run)
    task = TinyRetrieval().convert_to_reranking(tmp_path, top_k=100)
    found = mteb.evaluate(RanklensSearch(Overlap()), task, cache=None)
    assert found.task_results[0].scores["test"][0]["ndcg_at_10"] == 1.0


def test_it_is_a_search_model_and_no_other() -> None:
    search = RanklensSearch("identity")
    assert isinstance(search, SearchProtocol)
    assert not isinstance(search, EncoderProtocol | CrossEncoderProtocol)
    meta = search.mteb_model_meta
    assert isinstance(meta, ModelMeta)
    assert (meta.name, meta.revision) == ("ranklens/identity", "no_revision_available")
    assert meta.is_cross_encoder
    assert ModelMeta.model_validate(meta.model_dump()) == meta
    other = Overlap()
    other.revision = "3"
    assert RanklensSearch(other).mteb_model_meta.revision == "3"
    named = RanklensSearch("identity", name="me/first-stage", revision="2").mteb_model_meta
    assert (named.name, named.revision) == ("me/first-stage", "2")
    with pytest.raises(UsageError, match="ORGANISATION/NAME"):
        RanklensSearch("identity", name="../up/there")


def test_an_attention_reranker_is_named_with_profile_and_revision(
    tiny_model: Callable[..., Path],
) -> None:
    reranker = AttentionReranker.from_pretrained(tiny_model(), profile="icr", device="cpu")
    meta = RanklensSearch(reranker).mteb_model_meta
    assert meta.name == f"ranklens/{reranker.name.replace(':', '-')}-icr"
    assert reranker.model is not None
    assert meta.revision == reranker.model.revision
    assert meta.max_tokens == 4096
    found = searched(indexed(reranker))
    assert {query: set(documents) for query, documents in found.items()} == {
        query: set(documents) for query, documents in CANDIDATES.items()
    }
    assert {type(score) for documents in found.values() for score in documents.values()} == {float}


def test_without_candidates_the_way_to_get_them_is_told() -> None:
    task = TinyRetrieval()
    with pytest.raises(UsageError, match=r"prediction_folder.*convert_to_reranking.*mteb-pred"):
        mteb.evaluate(RanklensSearch(Overlap()), task, cache=None)


def test_titles_and_instructions_are_read(tmp_path: Path) -> None:
    titles: list[tuple[str, str]] = []

    class Titles(Overlap):
        def rank(self, query: Any, documents: Any) -> Ranking:
            titles.extend((one.title, one.text) for one in documents)
            return super().rank(query, documents)

    task = TinyRetrieval()
    task.instructions = {"q1": "not by hand", "q2": "", "q3": "quickly"}
    reranker = Titles()
    mteb.evaluate(GivenSearch(), task, prediction_folder=tmp_path, cache=None)
    mteb.evaluate(RanklensSearch(reranker), task.convert_to_reranking(tmp_path), cache=None)
    assert [query for query, _ in reranker.asked] == [
        "bread oven not by hand", "warm soil", "bread oven quickly",
    ]  # fmt: skip
    assert ("Soil", "tomatoes grow in warm soil") in titles
    assert ("", "bread needs time") in titles


def test_lists_are_cut_after_ranking_and_doubles_count_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    overlap = Overlap()
    search = indexed(overlap)
    before = {query: list(documents) for query, documents in CANDIDATES.items()}
    assert {query: list(found) for query, found in searched(search, top_k=1).items()} == {
        "q1": ["d1"], "q2": ["d2"], "q3": ["d5"],
    }  # fmt: skip
    assert before == CANDIDATES
    with caplog.at_level(logging.WARNING, "ranklens"):
        found = searched(search, top_ranked={"q1": ["d4", "d1", "d4"], "q2": []})
    assert {query: list(documents) for query, documents in found.items()} == {
        "q1": ["d1", "d4"], "q2": [], "q3": [],
    }  # fmt: skip
    assert "2 of 3 queries have no candidates" in caplog.text


def test_what_cannot_be_ranked_is_refused() -> None:
    search = indexed(Overlap())
    with pytest.raises(InvalidInputError, match="query 'q1' has the candidate 'd9', which"):
        searched(search, top_ranked={"q1": ["d1", "d9"]})
    with pytest.raises(UsageError, match="call index first"):
        searched(search, hf_split="dev")
    with pytest.raises(UsageError, match="call index first"):
        searched(RanklensSearch(Overlap()))
    with pytest.raises(InvalidInputError, match="document 'd1' twice, in rows 0 and 5"):
        search.index(Dataset.from_list([*CORPUS, CORPUS[0]]), **WHERE)
    with pytest.raises(InvalidInputError, match=r"corpus of TinyRetrieval have no texts.*image"):
        search.index(Dataset.from_list([{"id": "d1", "image": "x"}]), **WHERE)
    talk = Dataset.from_list([{"id": "q1", "text": [{"role": "user", "content": "bread"}]}])
    with pytest.raises(InvalidInputError, match=r"'q1' is no text .* conversations"):
        search.search(talk, top_k=10, top_ranked=CANDIDATES, **WHERE)


def test_a_ranking_that_is_none_is_not_handed_to_mteb() -> None:
    for ranking, error in (
        (Ranking([RankedDocument(0, "d1", 1.0)]), InvalidInputError),
        (Ranking([RankedDocument(0, "d4", float("nan")), RankedDocument(1, "d5", 1.0)]),
         NumericalError),
    ):  # fmt: skip
        with pytest.raises(error, match="q3"):
            searched(indexed(Given(ranking)), top_ranked={"q3": ["d4", "d5"]})


def test_a_spec_is_loaded_once_with_its_settings(
    loads: list[tuple[str, dict[str, Any]]],
) -> None:
    search = indexed("attention:some")
    searched(search)
    searched(search)
    RanklensSearch("attention:some", profile="icr")
    assert loads == [("attention:some", {}), ("attention:some", {"profile": "icr"})]


def test_without_mteb_the_install_line_is_told(uninstall: Callable[[str, str], None]) -> None:
    module = "ranklens.rerank.integrations.mteb"
    uninstall("mteb", module)
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[mteb\]'"):
        importlib.import_module(module)
