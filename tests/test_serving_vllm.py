"""A client of vLLM's dialect, Haystack's, and requests as vLLM documents them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.vllm import VLLMRanker

pytest_plugins = ["dialect_fixtures"]

TEXTS = ["Rome", "the capital of France", "capital", "capital"]
DOCUMENTS = [Document(id=str(at), content=text) for at, text in enumerate(TEXTS)]


@pytest.fixture
def ranker(url: str) -> Iterator[VLLMRanker]:
    client = VLLMRanker(model="words", api_key=None, api_base_url=f"{url}/v1")
    yield client
    client.close()


def post(url: str, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body)


def test_haystack_gets_its_documents_in_order(ranker: VLLMRanker) -> None:
    # The client calls the two outputs by one type.
    found: dict[str, Any] = ranker.run("capital of France", DOCUMENTS)
    assert [document.id for document in found["documents"]] == ["1", "2", "3", "0"]
    scores = [document.score for document in found["documents"]]
    assert scores[0] > scores[1] == scores[2] > scores[3]
    assert found["meta"] == {
        "model": "words",
        "usage": {"prompt_tokens": 10, "total_tokens": 10},
    }
    assert len(ranker.run("capital", DOCUMENTS, top_k=2)["documents"]) == 2


def test_haystack_asynchronously(url: str) -> None:
    async def run() -> dict[str, Any]:
        client = VLLMRanker(model="words", api_key=None, api_base_url=f"{url}/v1")
        try:
            return await client.run_async("capital of France", DOCUMENTS)
        finally:
            await client.close_async()

    assert [document.id for document in asyncio.run(run())["documents"]] == ["1", "2", "3", "0"]


def test_haystack_reads_what_is_wrong(ranker: VLLMRanker, guarded: str) -> None:
    with pytest.raises(RuntimeError, match=r"^1 request waits already$"):
        ranker.run("too much", DOCUMENTS)
    with pytest.raises(RuntimeError, match=r"^query: is empty"):
        ranker.run("", DOCUMENTS)
    key = Secret.from_token("sesame")
    other = VLLMRanker(model="bge", api_key=key, api_base_url=f"{guarded}/v1")
    with pytest.raises(RuntimeError, match="'bge' is not here, 'words' is"):
        other.run("q", DOCUMENTS)
    other.close()


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_every_path_answers_alike(url: str, path: str) -> None:
    answer = post(url, path, model="any", query="capital", documents=TEXTS, top_n=0).json()
    assert [found["index"] for found in answer["results"]] == [1, 2, 3, 0]
    assert [found["document"] for found in answer["results"]] == [
        {"text": TEXTS[at], "multi_modal": None} for at in (1, 2, 3, 0)
    ]
    assert answer["model"] == "words"
    assert answer["usage"]["total_tokens"] == 8


def test_errors_are_objects(url: str, guarded: str) -> None:
    refused = post(url, "/rerank", query="q", documents="text")
    assert refused.status_code == 422
    assert refused.json()["error"] == {
        "message": "documents: must be a list, got 'text'",
        "type": "UnprocessableEntityError",
        "param": "documents",
        "code": 422,
    }
    missing = httpx.post(
        f"{guarded}/v1/score",
        json={"model": "bge", "text_1": "a", "text_2": "b"},
        headers={"Authorization": "Bearer sesame"},
    )
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "NotFoundError"
    assert missing.json()["error"]["param"] == "model"


def test_limits_of_tokens(url: str) -> None:
    document = "one two three four five"

    def ranked(**limits: Any) -> tuple[float, int]:
        answer = post(
            url,
            "/rerank",
            query="one five",
            documents=[document, "other"],
            use_activation=False,
            **limits,
        ).json()
        of_first = next(found for found in answer["results"] if found["index"] == 0)
        return of_first["relevance_score"], of_first["tokens_cut"]

    assert ranked() == ranked(max_tokens_per_doc=0) == ranked(truncate_prompt_tokens=-1) == (2.0, 0)
    assert ranked(max_tokens_per_doc=3) == ranked(truncate_prompt_tokens=3) == (1.0, 2)
    assert ranked(max_tokens_per_doc=4, truncate_prompt_tokens=3) == (1.0, 2)
    assert ranked(truncate_prompt_tokens=1, truncation_side="left") == (1.0, 4)
    # Of the query the first word is left, which the document's start has.
    assert ranked(max_tokens_per_query=1, max_tokens_per_doc=1) == (1.0, 4)
    assert ranked(max_tokens_per_query=1, truncate_prompt_tokens=1, truncation_side="left") == (
        1.0,
        4,
    )
    assert ranked(max_tokens_per_query=1) == (1.0, 0)


def test_what_is_cut_is_in_the_headers(url: str) -> None:
    answer = post(
        url, "/rerank", query="q", documents=["a b c", "d"], max_tokens_per_doc=1, user="me"
    )
    assert answer.headers["X-Ranklens-Tokens-Cut"] == "2"
    assert answer.headers["X-Ranklens-Documents-Cut"] == "1"
    assert answer.headers["X-Ranklens-Ignored-Fields"] == "user"


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [pair["index"] for pair in data] == list(range(len(data)))
    assert all(pair["object"] == "score" for pair in data)
    return [pair["score"] for pair in data]


def test_score_of_one_with_several_keeps_their_order(url: str) -> None:
    answer = post(url, "/score", text_1="capital", text_2=TEXTS, use_activation=False)
    assert scores(answer) == [0.0, 1.0, 1.0, 1.0]
    assert answer.json()["object"] == "list"
    assert answer.json()["id"].startswith("embd-")
    in_unit = scores(post(url, "/v1/score", text_1="capital", text_2=TEXTS))
    assert in_unit[0] < in_unit[1] == in_unit[2]


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("data_1", "data_2"), ("queries", "items")]
)
def test_score_under_other_names(url: str, names: tuple[str, str]) -> None:
    body = {names[0]: "capital", names[1]: "a capital capital", "use_activation": False}
    answer = post(url, "/score", **body)
    assert scores(answer) == [2.0]
    assert "X-Ranklens-Ignored-Fields" not in answer.headers


def test_score_of_pairs(url: str) -> None:
    answer = post(
        url,
        "/score",
        text_1=["Rome", "capital", "Rome"],
        text_2=["Rome", "Rome", "no"],
        use_activation=False,
    )
    assert scores(answer) == [1.0, 0.0, 0.0]


def test_scores_that_do_not_pair(url: str) -> None:
    refused = post(url, "/score", text_1=["a", "b"], text_2=["c", "d", "e"])
    assert refused.status_code == 422
    assert refused.json()["error"]["message"].startswith("text_1: 2 texts with 3 of text_2")
    assert post(url, "/score", text_1="a", text_2=["b"] * 6).status_code == 413
