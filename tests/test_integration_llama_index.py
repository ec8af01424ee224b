"""The node postprocessor, in LlamaIndex's own query engine, with its events and callbacks."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler
from pydantic import PrivateAttr, ValidationError
from tests.stand_in_rerankers import HOSTILE, Given, Held, Overlap, while_it_reads

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.rerank.integrations.llama_index import RanklensRerank

pytest_plugins = ["integration_fixtures"]

QUERY = "capital of France"


def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(
                id_="same",
                text="Cells have walls.",
                metadata={"topic": "biology", "path": "a.txt", "at": {"line": 3}},
                excluded_embed_metadata_keys=["path"],
            ),
            score=0.9,
        ),
        NodeWithScore(node=TextNode(id_="berlin", text="Berlin is the capital of Germany.")),
        NodeWithScore(
            node=IndexNode(id_="same", text="Paris is the capital of France.", index_id="i"),
            score=0.7,
        ),
        NodeWithScore(node=ImageNode(id_="image", text="Cells have walls."), score=0.6),
    ]


def texts(found: list[NodeWithScore]) -> list[str]:
    return [one.text[:5] for one in found]


class Heard(BaseEventHandler):
    """Keeps the events it hears."""

    _events: list[BaseEvent] = PrivateAttr(default_factory=list)

    def handle(self, event: BaseEvent, **more: Any) -> None:
        self._events.append(event)

    @property
    def reranking(self) -> list[BaseEvent]:
        return [one for one in self._events if isinstance(one, ReRankStartEvent | ReRankEndEvent)]


@pytest.fixture
def heard() -> Iterator[Heard]:
    dispatcher, handler = get_dispatcher(), Heard()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


def test_the_best_come_first_with_score_metadata_id_and_type() -> None:
    given = nodes()
    before = copy.deepcopy(given)
    found = RanklensRerank(Overlap(), top_n=None).postprocess_nodes(given, query_str=QUERY)
    assert texts(found) == ["Paris", "Berli", "Cells", "Cells"]
    assert [one.node_id for one in found] == ["same", "berlin", "image", "same"]
    assert [type(one.node) for one in found] == [IndexNode, TextNode, ImageNode, TextNode]
    assert isinstance(found[0].node, IndexNode)
    assert found[0].node.index_id == "i"
    assert found[3].metadata == before[0].metadata
    assert [type(one.score) for one in found] == [float] * 4
    json.dumps([one.to_dict() for one in found])
    assert given == before
    assert not {id(one.node) for one in found} & {id(one.node) for one in given}
    assert not {id(one.metadata) for one in found} & {id(one.metadata) for one in given}


def test_the_model_reads_what_embedding_models_read() -> None:
    reranker = Overlap()
    RanklensRerank(reranker).postprocess_nodes(nodes()[:1], QueryBundle(QUERY))
    assert reranker.asked == [(QUERY, ["topic: biology\nat: {'line': 3}\n\nCells have walls."])]


def test_the_score_before_is_kept_where_no_model_reads_it() -> None:
    given = nodes()
    before = copy.deepcopy(given)
    postprocessor = RanklensRerank(Overlap(), top_n=None, keep_retrieval_score=True)
    found = postprocessor.postprocess_nodes(given, query_str=QUERY)
    assert [one.metadata["retrieval_score"] for one in found] == [0.7, None, 0.6, 0.9]
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert found[3].get_content(mode) == before[0].get_content(mode)
    assert given == before


def test_it_works_in_a_query_engine() -> None:
    index = VectorStoreIndex(
        [one.node for one in nodes()[1:3]], embed_model=MockEmbedding(embed_dim=4)
    )
    engine = index.as_query_engine(
        llm=MockLLM(),
        similarity_top_k=2,
        node_postprocessors=[RanklensRerank(Overlap(), top_n=1)],
    )
    assert [one.node_id for one in engine.query(QUERY).source_nodes] == ["same"]
    assert "Paris" in str(engine.query(QUERY))
    answer = asyncio.run(engine.aquery(QUERY))
    assert [one.node_id for one in answer.source_nodes] == ["same"]


def test_listeners_are_told_sync_and_async(heard: Heard) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    postprocessor = RanklensRerank(
        Overlap("overlap:7"), top_n=2, callback_manager=CallbackManager([debug])
    )
    given = nodes()
    for found in (
        postprocessor.postprocess_nodes(given, query_str=QUERY),
        asyncio.run(postprocessor.apostprocess_nodes(given, query_str=QUERY)),
    ):
        start, end = heard.reranking[-2:]
        assert isinstance(start, ReRankStartEvent)
        assert isinstance(end, ReRankEndEvent)
        assert start.query == QueryBundle(QUERY)
        assert (start.nodes, start.top_n, start.model_name) == (given, 2, "overlap:7")
        assert end.nodes == found
        assert texts(found) == ["Paris", "Berli"]
    assert len(heard.reranking) == 4
    pairs = debug.get_event_pairs(CBEventType.RERANKING)
    assert len(pairs) == 2
    for first, last in pairs:
        assert first.payload is not None
        assert last.payload is not None
        assert first.payload[EventPayload.MODEL_NAME] == "overlap:7"
        assert first.payload[EventPayload.QUERY_STR] == QUERY
        assert first.payload[EventPayload.TOP_K] == 2
        assert texts(last.payload[EventPayload.NODES]) == ["Paris", "Berli"]


def test_a_failure_comes_through_and_has_no_end_event(heard: Heard) -> None:
    failing = RanklensRerank(Given(NumericalError("layer 3")))
    with pytest.raises(NumericalError, match="layer 3"):
        failing.postprocess_nodes(nodes(), query_str=QUERY)
    with pytest.raises(NumericalError, match="layer 3"):
        asyncio.run(failing.apostprocess_nodes(nodes(), query_str=QUERY))
    assert [type(one) for one in heard.reranking] == [ReRankStartEvent, ReRankStartEvent]


def test_the_event_loop_is_free_while_the_model_reads() -> None:
    held = Held()
    call = RanklensRerank(held, top_n=1).apostprocess_nodes(nodes(), query_str=QUERY)
    assert texts(asyncio.run(while_it_reads(held, call))) == ["Paris"]


def test_empty_lists_are_fine_and_a_query_is_needed() -> None:
    postprocessor = RanklensRerank(Overlap())
    assert postprocessor.postprocess_nodes([], query_str=QUERY) == []
    assert asyncio.run(postprocessor.apostprocess_nodes([], query_str=QUERY)) == []
    with pytest.raises(InvalidInputError, match="no query: give query_str or query_bundle"):
        postprocessor.postprocess_nodes(nodes())
    with pytest.raises(InvalidInputError, match="query is empty"):
        postprocessor.postprocess_nodes(nodes(), query_str=" ")


def test_a_wrong_call_is_refused_before_a_model_is_loaded(loads: list[Any]) -> None:
    with pytest.raises(InvalidInputError, match="top_n must be at least 1, or None for all: 0"):
        RanklensRerank(top_n=0)
    with pytest.raises(ValidationError, match="topn"):
        RanklensRerank(topn=3)
    assert loads == []
    with pytest.raises(UsageError, match="device: settings are for"):
        RanklensRerank(Overlap(), settings={"device": "cpu"})


def test_a_spec_is_loaded_once_written_and_read_back(loads: list[Any]) -> None:
    postprocessor = RanklensRerank("attention:x", settings={"profile": "icr"}, top_n=2)
    for _ in range(2):
        postprocessor.postprocess_nodes(nodes(), query_str=QUERY)
    written = json.loads(postprocessor.to_json())
    assert written == {
        "reranker": "attention:x", "settings": {"profile": "icr"}, "top_n": 2,
        "keep_retrieval_score": False, "class_name": "RanklensRerank",
    }  # fmt: skip
    assert "attention:x" in repr(postprocessor)
    assert len(loads) == 1
    for again in (
        RanklensRerank.from_dict(written),
        pickle.loads(pickle.dumps(postprocessor)),
    ):
        assert again.to_dict() == written
        assert texts(again.postprocess_nodes(nodes(), query_str=QUERY)) == ["Paris", "Berli"]
    assert loads == [("attention:x", {"profile": "icr"})] * 3


def test_an_object_is_written_as_what_cannot_be_read_back_and_not_pickled() -> None:
    postprocessor = RanklensRerank(Overlap())
    written = json.loads(postprocessor.to_json())
    assert written["reranker"] == "<Overlap overlap:test>"
    with pytest.raises(UsageError, match="unknown reranker"):
        RanklensRerank.from_dict(written)
    with pytest.raises(UsageError, match="given as an object, which cannot be pickled"):
        pickle.dumps(postprocessor)


def test_hostile_texts_many_threads_and_a_real_model(
    tiny_model: Callable[..., Path], counted: list[str]
) -> None:
    postprocessor = RanklensRerank(
        f"attention:{tiny_model()}", settings={"device": "cpu"}, top_n=None
    )
    given = [
        NodeWithScore(node=TextNode(id_="same", text=text[:200], metadata={"n": n}))
        for n, text in enumerate([*HOSTILE, *HOSTILE])
    ]
    queries = ["capital", "<|im_end|> \ud800", "x"]

    def places(query: str) -> list[tuple[int, float | None]]:
        found = postprocessor.postprocess_nodes(given, query_str=query)
        return [(one.metadata["n"], one.score) for one in found]

    alone = [places(query) for query in queries]
    assert all(sorted(n for n, _ in one) == list(range(len(given))) for one in alone)
    assert alone[0] != alone[2]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(places, queries * 2)) == alone * 2
    assert len(counted) == 1


def test_without_the_framework_the_install_line_is_shown(
    uninstall: Callable[[str, str], None],
) -> None:
    module = "ranklens.rerank.integrations.llama_index"
    for missing in ("llama_index.core", "llama_index"):
        uninstall(missing, module)
        line = rf"^{missing} is not installed: pip install 'ranklens\[llama-index\]'"
        with pytest.raises(MissingPrerequisiteError, match=line):
            importlib.import_module(module)
