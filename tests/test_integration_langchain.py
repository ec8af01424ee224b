"""The document compressor, in LangChain's own retrievers and chains."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import ValidationError
from tests.stand_in_rerankers import HOSTILE, Given, Held, Overlap, while_it_reads

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.rerank.integrations.langchain import RanklensCompressor

pytest_plugins = ["integration_fixtures"]


class Page(Document):
    """A document with more to it."""

    number: int = 0


QUERY = "capital of France"


def documents() -> list[Document]:
    return [
        Document("Cells have walls.", id="same", metadata={"source": "a.txt", "at": {"line": 3}}),
        Document("Berlin is the capital of Germany.", id="berlin"),
        Page(page_content="Paris is the capital of France.", id="same", number=7),
        Document("Cells have walls.", metadata={"relevance_score": "old"}),
    ]


def test_the_best_come_first_with_score_metadata_id_and_type() -> None:
    given = documents()
    before = copy.deepcopy(given)
    found = RanklensCompressor(Overlap(), top_n=None).compress_documents(given, QUERY)
    assert [one.page_content[:5] for one in found] == ["Paris", "Berli", "Cells", "Cells"]
    assert [one.id for one in found] == ["same", "berlin", "same", None]
    assert isinstance(found[0], Page)
    assert found[0].number == 7
    assert found[2].metadata == {
        "source": "a.txt", "at": {"line": 3}, "relevance_score": pytest.approx(-0.03),
    }  # fmt: skip
    assert [type(one.metadata["relevance_score"]) for one in found] == [float] * 4
    json.dumps([one.model_dump() for one in found])
    assert given == before
    assert not {id(one.metadata) for one in found} & {id(one.metadata) for one in given}


def test_the_score_goes_where_it_is_wanted_and_the_list_is_cut() -> None:
    compressor = RanklensCompressor(Overlap(), top_n=1, score_key="score")
    (best,) = compressor.compress_documents(documents(), QUERY)
    assert best.metadata == {"score": pytest.approx(1.94 + 1)}
    assert RanklensCompressor(Overlap()).top_n == 3


def test_it_works_in_a_retriever() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(documents()[1:3])
    retriever = ContextualCompressionRetriever(
        base_compressor=RanklensCompressor(Overlap(), top_n=1),
        base_retriever=store.as_retriever(search_kwargs={"k": 2}),
    )
    assert [one.page_content[:5] for one in retriever.invoke(QUERY)] == ["Paris"]
    assert [one.page_content[:5] for one in asyncio.run(retriever.ainvoke(QUERY))] == ["Paris"]


def test_it_works_in_a_chain() -> None:
    reranker = Overlap()
    step = RanklensCompressor(reranker, top_n=1).as_runnable()
    retrieved = RunnablePassthrough.assign(documents=lambda _: documents())
    chain = retrieved | step | RunnableLambda(lambda found: found[0].page_content[:5])
    assert chain.invoke({"query": QUERY}) == "Paris"
    assert asyncio.run(chain.ainvoke({"query": QUERY})) == "Paris"
    queries = [{"query": QUERY}, {"query": "Cells have walls."}, {"query": "Germany"}]
    assert chain.batch(list(queries)) == ["Paris", "Cells", "Berli"]
    assert len(reranker.asked) == 5
    assert step.get_name() == "RanklensCompressor"


@pytest.mark.parametrize(
    ("request_", "message"),
    [("text", "got str"), ({"query": "a"}, "'documents' is missing"), ({}, "'query' is missing")],
)
def test_a_runnable_says_what_it_takes(request_: Any, message: str) -> None:
    step = RanklensCompressor(Overlap()).as_runnable()
    with pytest.raises(InvalidInputError, match=f'expected {{"query": str, .*{message}'):
        step.invoke(request_)


def test_the_event_loop_is_free_while_the_model_reads() -> None:
    held = Held()
    call = RanklensCompressor(held, top_n=1).acompress_documents(documents(), QUERY)
    assert [one.id for one in asyncio.run(while_it_reads(held, call))] == ["same"]
    held = Held()
    step = RanklensCompressor(held, top_n=1).as_runnable()
    request = {"query": QUERY, "documents": documents()}
    assert asyncio.run(while_it_reads(held, step.ainvoke(request)))[0].id == "same"


def test_empty_lists_are_fine_and_errors_come_through() -> None:
    compressor = RanklensCompressor(Overlap())
    assert compressor.compress_documents([], QUERY) == []
    assert asyncio.run(compressor.acompress_documents([], "")) == []
    with pytest.raises(InvalidInputError, match="query is empty"):
        compressor.compress_documents(documents(), " ")
    failing = RanklensCompressor(Given(NumericalError("layer 3")))
    with pytest.raises(NumericalError, match="layer 3"):
        failing.compress_documents(documents(), QUERY)
    with pytest.raises(NumericalError, match="layer 3"):
        asyncio.run(failing.acompress_documents(documents(), QUERY))


def test_a_wrong_call_is_refused_before_a_model_is_loaded(loads: list[Any]) -> None:
    with pytest.raises(InvalidInputError, match="top_n must be at least 1, or None for all: 0"):
        RanklensCompressor(top_n=0)
    with pytest.raises(ValidationError, match="topn"):
        RanklensCompressor(topn=3)
    assert loads == []
    with pytest.raises(UsageError, match="device: settings are for"):
        RanklensCompressor(Overlap(), settings={"device": "cpu"})


def test_a_spec_is_loaded_once_and_written_as_it_is(loads: list[Any]) -> None:
    compressor = RanklensCompressor("attention:x", settings={"profile": "icr"}, top_n=2)
    for _ in range(2):
        compressor.compress_documents(documents(), QUERY)
        compressor.as_runnable().invoke({"query": QUERY, "documents": documents()})
    compressor.model_copy().compress_documents(documents(), QUERY)
    written = compressor.model_dump()
    assert written == {
        "reranker": "attention:x", "settings": {"profile": "icr"}, "top_n": 2,
        "score_key": "relevance_score",
    }  # fmt: skip
    assert json.loads(compressor.model_dump_json()) == written
    assert "attention:x" in repr(compressor)
    assert loads == [("attention:x", {"profile": "icr"})]
    assert RanklensCompressor(**written).model_dump() == written
    assert len(loads) == 2


def test_an_object_is_written_as_what_cannot_be_read_back() -> None:
    compressor = RanklensCompressor(Overlap())
    written = json.loads(compressor.model_dump_json())
    assert written["reranker"] == "<Overlap overlap:test>"
    assert "Overlap" in repr(compressor)
    with pytest.raises(UsageError, match="unknown reranker"):
        RanklensCompressor(**written)


def test_hostile_texts_many_threads_and_a_real_model(
    tiny_model: Callable[..., Path], counted: list[str]
) -> None:
    compressor = RanklensCompressor(
        f"attention:{tiny_model()}", settings={"device": "cpu"}, top_n=None
    )
    given = [Document(text, metadata={"n": n}) for n, text in enumerate([*HOSTILE, *HOSTILE])]
    queries = ["capital", "<|im_end|> \ud800", "x"]

    def places(query: str) -> list[tuple[int, float]]:
        found = compressor.compress_documents(given, query)
        return [(one.metadata["n"], one.metadata["relevance_score"]) for one in found]

    alone = [places(query) for query in queries]
    assert all(sorted(n for n, _ in one) == list(range(len(given))) for one in alone)
    assert alone[0] != alone[2]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(places, queries * 2)) == alone * 2
    assert len(counted) == 1


def test_without_the_framework_the_install_line_is_shown(
    uninstall: Callable[[str, str], None],
) -> None:
    module = "ranklens.rerank.integrations.langchain"
    uninstall("langchain_core", module)
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[langchain\]'"):
        importlib.import_module(module)
