"""Clients of Jina's dialect, Haystack's and LlamaIndex's, against the server."""

from __future__ import annotations

import httpx
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.jina import JinaRanker
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank

pytest_plugins = ["dialect_fixtures"]

TEXTS = ["Rome", "the capital of France", "capital", "capital"]


def haystack(url: str, key: str = "any", top_k: int | None = None) -> JinaRanker:
    return JinaRanker(
        api_key=Secret.from_token(key), base_url=f"{url}/v1/rerank", top_k=top_k, model="jina-x"
    )


def llama_index(url: str, top_n: int = 4) -> JinaRerank:
    return JinaRerank(base_url=f"{url}/v1", api_key="any", top_n=top_n)


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(at))) for at, text in enumerate(TEXTS)]


def test_haystack_gets_its_documents_in_order(url: str) -> None:
    documents = [Document(id=str(at), content=text) for at, text in enumerate(TEXTS)]
    # Without top_k the client sends a null.
    found = haystack(url).run("capital of France", documents)
    assert [document.id for document in found["documents"]] == ["1", "2", "3", "0"]
    scores = [document.score for document in found["documents"]]
    assert scores[0] > scores[1] == scores[2] > scores[3]
    assert all(0 <= score <= 1 for score in scores)
    assert found["meta"]["model"] == "words"
    assert found["meta"]["usage"] == {"prompt_tokens": 10, "total_tokens": 10}


def test_haystack_top_k(url: str) -> None:
    documents = [Document(id=str(at), content=text) for at, text in enumerate(TEXTS)]
    found = haystack(url, top_k=2).run("capital", documents)
    assert [document.id for document in found["documents"]] == ["1", "2"]


def test_haystack_reads_what_is_wrong(url: str, guarded: str) -> None:
    documents = [Document(content="text")]
    for query, message in (
        (" ", "^query: is empty"),
        ("too much", "^1 request waits already$"),
        ("not a number", "^the request failed; the server's log says more under"),
    ):
        with pytest.raises(RuntimeError, match=message):
            haystack(url).run(query, documents)
    with pytest.raises(RuntimeError, match=r"^6 documents; at most 5 a request$"):
        haystack(url).run("q", documents * 6)
    with pytest.raises(RuntimeError, match="Bearer"):
        haystack(guarded, "wrong").run("q", documents)


def test_llama_index_gets_its_nodes_in_order(url: str) -> None:
    found = llama_index(url).postprocess_nodes(nodes(), query_str="capital of France")
    assert [node.node.node_id for node in found] == ["1", "2", "3", "0"]
    assert [
        node.node.node_id
        for node in llama_index(url, 1).postprocess_nodes(nodes(), query_str="capital")
    ] == ["1"]


def test_llama_index_reads_what_is_wrong(url: str) -> None:
    with pytest.raises(RuntimeError, match=r"^1 request waits already$"):
        llama_index(url).postprocess_nodes(nodes(), query_str="too much")


def test_documents_come_back_unless_refused(url: str) -> None:
    body = {"query": "capital", "documents": ["Rome", {"text": "capital"}], "top_n": 1}
    for asked, there in (
        ({}, True),
        ({"return_documents": True}, True),
        ({"return_documents": False}, False),
    ):
        answer = httpx.post(f"{url}/v1/rerank", json=body | asked).json()
        (best,) = answer["results"]
        assert best["index"] == 1
        assert ("document" in best) is there
        if there:
            assert best["document"]["text"] == "capital"


def test_images_are_refused(url: str) -> None:
    body = {"query": "capital", "documents": ["text", {"image": "https://example.org/a.png"}]}
    refused = httpx.post(f"{url}/v1/rerank", json=body)
    assert refused.status_code == 422
    assert refused.json()["detail"] == (
        "documents.1: only text can be ranked, no images or other media"
    )
