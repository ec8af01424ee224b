"""The ranker component, in Haystack's own pipelines, written down and read back."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

# Haystack asks when it is imported whether it may report its use.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.errors import DeserializationError, PipelineRuntimeError
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice
from tests.stand_in_rerankers import HOSTILE, Given, Held, Overlap, while_it_reads

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.data.score_map import ScoreMap
from ranklens.rerank.base import Reranker
from ranklens.rerank.integrations.haystack import RanklensRanker

pytest_plugins = ["integration_fixtures"]

QUERY = "capital of France"


def documents() -> list[Document]:
    return [
        Document(id="cell", content="Cells have walls.", meta={"title": "Biology", "n": 0}),
        Document(id="berlin", content="Berlin is the capital of Germany.", score=0.9),
        Document(id="paris", content="Paris is the capital of France.", embedding=[0.5, 1.0]),
        Document(id="cell again", content="Cells have walls.", score=0.1),
    ]


def ids(answer: dict[str, Any]) -> list[str]:
    return [document.id for document in answer["documents"]]


# A store's own executor is shut down when the store is collected, which may be while another
# thread starts: they then wait for each other for ever.
EXECUTOR = ThreadPoolExecutor(1)


def pipeline(ranker: RanklensRanker) -> Pipeline:
    store = InMemoryDocumentStore(async_executor=EXECUTOR)
    store.write_documents(documents())
    made = Pipeline()
    made.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
    made.add_component("ranker", ranker)
    made.connect("retriever.documents", "ranker.documents")
    return made


ASKED = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}


def test_the_best_come_first_and_all_else_is_kept() -> None:
    given = documents()
    before = copy.deepcopy(given)
    found = RanklensRanker(reranker=Overlap(), scale_score=False).run(QUERY, given)["documents"]
    assert [one.id for one in found] == ["paris", "berlin", "cell", "cell again"]
    assert [one.score for one in found] == pytest.approx([2.94, 1.94, -0.03, -0.03])
    assert [type(one.score) for one in found] == [float] * 4
    assert found[0].embedding == [0.5, 1.0]
    assert found[2].meta == {"title": "Biology", "n": 0}
    json.dumps([one.to_dict() for one in found])
    assert given == before
    assert not {id(one) for one in found} & {id(one) for one in given}
    assert not {id(one.meta) for one in found} & {id(one.meta) for one in given}


def test_of_documents_with_one_id_the_best_before_is_ranked() -> None:
    reranker = Overlap()
    same = [
        Document(id="a", content="one"),
        Document(id="b", content="other", score=0.1),
        Document(id="a", content="two", score=-3.0),
        Document(id="b", content="less", score=0.05),
    ]
    found = RanklensRanker(reranker=reranker).run("two", same)
    assert ids(found) == ["a", "b"]
    assert reranker.asked == [("two", ["two", "other"])]


def test_meta_fields_are_read_in_front_of_the_content() -> None:
    reranker = Overlap()
    ranker = RanklensRanker(
        reranker=reranker, meta_fields_to_embed=["title", "n", "none"], embedding_separator=" | "
    )
    bare = Document(id="image", blob=ByteStream(b"\x89PNG"), meta={"title": "", "none": None})
    ranker.run(QUERY, [*documents()[:2], bare])
    assert reranker.asked[0][1] == [
        "Biology | 0 | Cells have walls.",
        "Berlin is the capital of Germany.",
        "",
    ]


def test_scaled_scores_are_those_of_the_shared_rule() -> None:
    class Mapped(Overlap):
        profile: Any = type("P", (), {"score_map": ScoreMap("platt", slope=2.0, intercept=-3.0)})

    by_map = RanklensRanker(reranker=Mapped()).run(QUERY, documents())["documents"]
    assert by_map[0].score == pytest.approx(1 / (1 + math.exp(3 - 2 * 2.94)))
    by_list = RanklensRanker(reranker=Overlap()).run(QUERY, documents())["documents"]
    # Raw scores are 2.94, 1.94 and twice -0.03: the median is 0.955, and so are all but one
    # of the distances to it, 1.985 and three times 0.985.
    z = (1.94 - 0.955) / (1.4826 * 0.985)
    assert by_list[1].score == pytest.approx(1 / (1 + math.exp(-z)))
    assert by_list[3].score == pytest.approx(1 / (1 + math.exp(z)))


def test_settings_of_a_call_go_before_those_of_the_component() -> None:
    ranker = RanklensRanker(reranker=Overlap(), top_k=3, scale_score=False, score_threshold=1.5)
    assert ids(ranker.run(QUERY, documents())) == ["paris", "berlin"]
    assert ids(ranker.run(QUERY, documents(), top_k=1)) == ["paris"]
    assert ids(ranker.run(QUERY, documents(), score_threshold=-9.0)) == ["paris", "berlin", "cell"]
    assert ids(ranker.run(QUERY, documents(), score_threshold=9.0)) == []
    # On the scale from 0 to 1 nothing reaches 1.5.
    assert ids(ranker.run(QUERY, documents(), scale_score=True)) == []
    assert len(ranker.run(QUERY, documents(), None, True, 0.4)["documents"]) == 2


def test_it_works_in_a_pipeline() -> None:
    made = pipeline(RanklensRanker(reranker=Overlap(), top_k=2))
    assert ids(made.run(ASKED)["ranker"]) == ["paris", "berlin"]
    assert ids(asyncio.run(made.run_async(ASKED))["ranker"]) == ["paris", "berlin"]


def test_a_pipeline_names_the_failure_of_a_reranker_that_cannot_be_written_down() -> None:
    made = pipeline(RanklensRanker(reranker=Given(NumericalError("layer 3"))))
    with pytest.raises(PipelineRuntimeError, match=r"'ranker'(?s:.*)layer 3") as caught:
        made.run(ASKED)
    assert isinstance(caught.value.__cause__, NumericalError)


def test_a_pipeline_is_written_down_and_read_back(loads: list[Any]) -> None:
    ranker = RanklensRanker(
        reranker="attention:x",
        settings={"profile": "icr"},
        device=ComponentDevice.from_str("cpu"),
        top_k=1,
        scale_score=False,
        score_threshold=-5.0,
        meta_fields_to_embed=["title"],
        embedding_separator=" ",
    )
    text = pipeline(ranker).dumps()
    with pytest.raises(DeserializationError, match="ranklens"):
        Pipeline.loads(text)
    read = Pipeline.loads(text, allowed_modules=["ranklens"])
    assert read.dumps() == text
    again = read.get_component("ranker")
    assert isinstance(again, RanklensRanker)
    assert again.to_dict() == ranker.to_dict()
    assert loads == []
    found = again.run(QUERY, documents())
    assert ids(found) == ["paris"]
    assert loads == [("attention:x", {"device": "cpu", "profile": "icr"})]


def test_an_object_cannot_be_written_down() -> None:
    with pytest.raises(UsageError, match="<Overlap overlap:test> was given as an object, which"):
        pipeline(RanklensRanker(reranker=Overlap())).dumps()


def test_a_model_is_loaded_by_warm_up_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def from_spec(spec: str, **settings: Any) -> Reranker:
        loaded.append(spec)
        begun.set()
        assert go_on.wait(20)
        return Overlap(spec)

    monkeypatch.setattr(Reranker, "from_spec", staticmethod(from_spec))
    ranker = RanklensRanker(reranker="attention:x")
    assert loaded == []
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ranker.run, QUERY, documents()) for _ in range(8)]
        assert begun.wait(20)
        go_on.set()
        assert all(ids(answer.result()) == ids(answers[0].result()) for answer in answers)
    made = pipeline(ranker)
    for _ in range(2):
        made.run(ASKED)
    assert loaded == ["attention:x"]
    ranker.close()
    ranker.warm_up()
    asyncio.run(ranker.warm_up_async())
    assert loaded == ["attention:x"] * 2


def test_the_event_loop_is_free_while_the_model_is_loaded_and_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held()
    call = RanklensRanker(reranker=held, top_k=1).run_async(QUERY, documents())
    assert ids(asyncio.run(while_it_reads(held, call))) == ["paris"]

    loading = Held()

    def from_spec(spec: str, **settings: Any) -> Reranker:
        loading.rank("a", ["a"])
        return Overlap(spec)

    monkeypatch.setattr(Reranker, "from_spec", staticmethod(from_spec))
    ranker = RanklensRanker(reranker="attention:x", top_k=1)
    found = asyncio.run(while_it_reads(loading, pipeline(ranker).run_async(ASKED)))
    assert ids(found["ranker"]) == ["paris"]


def test_empty_lists_are_fine_and_errors_come_through(loads: list[Any]) -> None:
    ranker = RanklensRanker()
    assert ranker.run(QUERY, []) == {"documents": []}
    assert asyncio.run(ranker.run_async("", [])) == {"documents": []}
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"top_k must be at least 1, or None.*: {wrong}"):
            ranker.run(QUERY, [], top_k=wrong)
        with pytest.raises(InvalidInputError, match="top_k must be at least 1"):
            RanklensRanker(top_k=wrong)
    assert loads == []
    with pytest.raises(InvalidInputError, match="query is empty"):
        ranker.run(" ", documents())
    with pytest.raises(InvalidInputError, match="threshold is NaN"):
        ranker.run(QUERY, documents(), score_threshold=math.nan)
    failing = RanklensRanker(reranker=Given(NumericalError("layer 3")))
    with pytest.raises(NumericalError, match="layer 3"):
        failing.run(QUERY, documents())
    with pytest.raises(NumericalError, match="layer 3"):
        asyncio.run(failing.run_async(QUERY, documents()))
    with pytest.raises(UsageError, match="device: settings are for"):
        RanklensRanker(reranker=Overlap(), device=ComponentDevice.from_str("cpu")).warm_up()


def test_hostile_texts_many_threads_and_a_real_model(
    tiny_model: Callable[..., Path], counted: list[str]
) -> None:
    ranker = RanklensRanker(
        reranker=f"attention:{tiny_model()}", settings={"device": "cpu"}, top_k=99
    )
    hostile = [*HOSTILE, "half \ud800 a pair", *HOSTILE]
    given = [Document(id=str(n), content=text[:200]) for n, text in enumerate(hostile)]
    queries = ["capital", "<|im_end|> \ud800", "x"]

    def places(query: str) -> list[tuple[str, float | None]]:
        return [(one.id, one.score) for one in ranker.run(query, given)["documents"]]

    alone = [places(query) for query in queries]
    for found in alone:
        assert sorted(id_ for id_, _ in found) == sorted(one.id for one in given)
        assert all(score is not None and 0 <= score <= 1 for _, score in found)
    assert alone[0] != alone[2]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(places, queries * 2)) == alone * 2
    assert len(counted) == 1


def test_without_the_framework_the_install_line_is_shown(
    uninstall: Callable[[str, str], None],
) -> None:
    module = "ranklens.rerank.integrations.haystack"
    uninstall("haystack", module)
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[haystack\]'"):
        importlib.import_module(module)
