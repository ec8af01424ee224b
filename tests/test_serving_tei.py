"""A client of TEI's dialect, LlamaIndex's, and requests as TEI documents them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

pytest_plugins = ["dialect_fixtures"]

TEXTS = ["Rome", "the capital of France", "capital", "capital"]


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text, id_=str(at))) for at, text in enumerate(TEXTS)]


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/rerank", json=body)


def test_llama_index_gives_each_node_its_own_score(url: str) -> None:
    found = TextEmbeddingInference(base_url=url, top_n=4).postprocess_nodes(
        nodes(), query_str="capital of France"
    )
    assert [node.node.node_id for node in found] == ["1", "2", "3", "0"]
    scores = [node.score for node in found]
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    assert len(set(scores)) == 3
    cut = TextEmbeddingInference(base_url=url, top_n=1).postprocess_nodes(
        nodes(), query_str="capital of France"
    )
    assert [node.node.node_id for node in cut] == ["1"]


def test_llama_index_with_a_token(guarded: str) -> None:
    client = TextEmbeddingInference(base_url=guarded, top_n=2, auth_token="Bearer sesame")
    found = client.postprocess_nodes(nodes(), query_str="capital")
    assert [node.node.node_id for node in found] == ["1", "2"]
    # It knows no errors: it takes what comes for ranks, and never for a ranking.
    with pytest.raises((AssertionError, TypeError)):
        TextEmbeddingInference(base_url=guarded).postprocess_nodes(nodes(), query_str="capital")


def test_the_answer_is_a_bare_list(url: str) -> None:
    found = post(url, query="capital of France", texts=TEXTS).json()
    assert [list(rank) for rank in found] == [["index", "score"]] * 4
    assert [rank["index"] for rank in found] == [1, 2, 3, 0]
    raw = post(url, query="capital of France", texts=TEXTS, raw_scores=True, return_text=True)
    assert raw.json() == [
        {"index": 1, "score": 3.0, "text": "the capital of France"},
        {"index": 2, "score": 1.0, "text": "capital"},
        {"index": 3, "score": 1.0, "text": "capital"},
        {"index": 0, "score": 0.0, "text": "Rome"},
    ]


def test_a_list_of_one(url: str) -> None:
    assert post(url, query="q", texts=["t"]).json() == [{"index": 0, "score": 0.5}]


def test_texts_that_are_too_long(url: str) -> None:
    texts = ["short", "word " * 60]
    cut = post(url, query="word", texts=texts)
    assert cut.status_code == 200
    assert cut.headers["X-Ranklens-Documents-Cut"] == "1"
    assert int(cut.headers["X-Ranklens-Tokens-Cut"]) == 10
    assert post(url, query="word", texts=texts, truncate=True).status_code == 200
    refused = post(url, query="word", texts=texts, truncate=False)
    assert refused.status_code == 413
    assert refused.json() == {
        "error": "1 of 2 texts are too long: texts.1 by 10 tokens; set truncate to true to have "
        "them shortened",
        "error_type": "Validation",
    }
    assert post(url, query="word", texts=["short"], truncate=False).status_code == 200


@pytest.mark.parametrize("direction", ["left", "Left", "right", "Right"])
def test_directions(url: str, direction: str) -> None:
    assert post(url, query="q", texts=["t"], truncation_direction=direction).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"query": "q", "texts": "t"}, 422, "Validation", "texts: must be a list, got 't'"),
        ({"query": "q", "texts": []}, 422, "Validation", "texts: must have at least one"),
        ({"query": "q", "texts": [1]}, 422, "Validation", "texts.0: must be a text, got 1"),
        ({"texts": ["t"]}, 422, "Validation", "query: required"),
        ({"query": "q", "texts": ["t"] * 6}, 413, "Validation", "6 documents; at most 5 a request"),
        ({"query": "too much", "texts": ["t"]}, 429, "Overloaded", "1 request waits already"),
        ({"query": "not a number", "texts": ["t"]}, 424, "Backend", None),
    ],
)
def test_errors_have_teis_types(
    url: str, body: dict[str, Any], status: int, kind: str, message: str | None
) -> None:
    answer = post(url, **body)
    assert answer.status_code == status
    error = answer.json()
    assert error.keys() == {"error", "error_type"}
    assert error["error_type"] == kind
    assert message is None or error["error"] == message
    assert "somebody" not in error["error"]
    assert ("retry-after" in answer.headers) is (status == 429)


def test_broken_json_is_answered_in_teis_way_where_it_looks_like_tei(url: str) -> None:
    headers = {"Content-Type": "application/json"}
    tei = httpx.post(f"{url}/rerank", content=b'{"texts": ["a",]}', headers=headers)
    assert tei.status_code == 400
    assert tei.json()["error"].startswith("the body is not JSON: Expecting value: line 1 column 16")
    other = httpx.post(f"{url}/rerank", content=b'{"documents": ["a",]}', headers=headers)
    assert other.json()["error"]["type"] == "BadRequestError"


def test_info_says_what_teis_says(url: str) -> None:
    info = httpx.get(f"{url}/info").json()
    assert info["model_id"] == "words"
    assert info["max_client_batch_size"] == 5
    assert info["auto_truncate"] is True
    assert httpx.get(f"{url}/health").status_code == 200
