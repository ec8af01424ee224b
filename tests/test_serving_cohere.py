"""Cohere's own client, v1 and v2, against the server."""

from __future__ import annotations

from collections.abc import Iterator

import cohere
import cohere.core
import httpx
import pytest
from cohere.core.request_options import RequestOptions
from tests.dialect_servers import served, tiny_reranker

from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.explain import Explainer
from ranklens.rerank.profile_file import load_profile

pytest_plugins = ["dialect_fixtures"]

ONCE: RequestOptions = {"max_retries": 0}
CAPITALS = ["Rome", "the capital of France", "capital", "capital"]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


@pytest.fixture
def v1(url: str, http: httpx.Client) -> cohere.Client:
    return cohere.Client(api_key="any", base_url=url, httpx_client=http)


@pytest.fixture
def v2(url: str, http: httpx.Client) -> cohere.ClientV2:
    return cohere.ClientV2(api_key="any", base_url=url, httpx_client=http)


def test_v2_orders_and_keeps_positions_of_duplicates(v2: cohere.ClientV2) -> None:
    answer = v2.rerank(model="rerank-v3.5", query="capital of France", documents=CAPITALS)
    assert [found.index for found in answer.results] == [1, 2, 3, 0]
    scores = [found.relevance_score for found in answer.results]
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    assert scores[0] > scores[1] == scores[2] > scores[3]
    assert all(found.relevant_spans is None for found in answer.results)
    assert answer.id
    assert answer.meta is not None
    assert answer.meta.billed_units is not None
    assert answer.meta.billed_units.search_units == 1
    assert answer.meta.tokens is not None
    # Query 3, documents 1 + 4 + 1 + 1 words.
    assert answer.meta.tokens.input_tokens == 10
    assert answer.meta.warnings is None


def test_v2_top_n(v2: cohere.ClientV2) -> None:
    answer = v2.rerank(model="m", query="capital", documents=CAPITALS, top_n=2)
    assert [found.index for found in answer.results] == [1, 2]


def test_v2_cut_documents_are_counted_and_warned_of(v2: cohere.ClientV2) -> None:
    answer = v2.rerank(
        model="m", query="five", documents=["one two three four five"], max_tokens_per_doc=3
    )
    assert answer.meta is not None
    assert answer.meta.warnings == ["1 of 1 documents were shortened, by 2 tokens together"]
    # What came behind the limit was not read: no word of the query is in what was.
    assert answer.results[0].relevance_score == 0.5


def test_v2_names_fields_without_effect(v2: cohere.ClientV2) -> None:
    answer = v2.rerank(model="m", query="q", documents=["d"], priority=3)
    assert answer.meta is not None
    assert answer.meta.warnings == ["fields without effect: priority"]


def test_v1_documents_as_objects(v1: cohere.Client) -> None:
    documents = [{"text": "Rome", "id": "7"}, {"text": "capital", "lang": "en"}]
    answer = v1.rerank(
        model="rerank-english-v3.0", query="capital", documents=documents, return_documents=True
    )
    assert [found.index for found in answer.results] == [1, 0]
    best = answer.results[0].document
    assert best is not None
    assert best.text == "capital"
    assert best.model_dump()["lang"] == "en"


def test_v1_without_documents_or_model(v1: cohere.Client) -> None:
    answer = v1.rerank(query="capital", documents=CAPITALS, return_documents=False)
    assert [found.index for found in answer.results] == [1, 2, 3, 0]
    assert all(found.document is None for found in answer.results)


def test_v1_rank_fields_are_what_is_ranked(v1: cohere.Client) -> None:
    documents = [
        {"title": "capital", "body": "Rome", "note": "x"},
        {"title": "no", "body": "no", "note": "capital capital"},
    ]
    ranked = v1.rerank(query="capital", documents=documents, rank_fields=["title", "body"])
    assert [found.index for found in ranked.results] == [0, 1]
    assert ranked.results[0].document is not None
    assert ranked.results[0].document.text == "capital\nRome"
    with pytest.raises(cohere.UnprocessableEntityError, match=r"documents\.0: has none"):
        v1.rerank(query="q", documents=documents, rank_fields=["absent"])


def test_errors_are_the_clients_own(
    v1: cohere.Client, v2: cohere.ClientV2, guarded: str, http: httpx.Client
) -> None:
    wrong, right = (
        cohere.ClientV2(api_key=key, base_url=guarded, httpx_client=http)
        for key in ("wrong", "sesame")
    )
    with pytest.raises(cohere.UnprocessableEntityError) as refused:
        v2.rerank(model="m", query="q", documents=[], request_options=ONCE)
    assert refused.value.body["message"] == "documents: must have at least one"
    with pytest.raises(cohere.UnprocessableEntityError, match="query: is empty"):
        v1.rerank(query=" ", documents=["d"], request_options=ONCE)
    with pytest.raises(cohere.TooManyRequestsError) as later:
        v2.rerank(model="m", query="too much", documents=["d"], request_options=ONCE)
    assert later.value.headers is not None
    assert later.value.headers["retry-after"] == "7"
    with pytest.raises(cohere.UnauthorizedError) as closed:
        wrong.rerank(model="words", query="q", documents=["d"])
    assert "message" in closed.value.body
    with pytest.raises(cohere.NotFoundError, match=r"'rerank-v3\.5' is not here"):
        right.rerank(model="rerank-v3.5", query="q", documents=["d"])
    with pytest.raises(cohere.InternalServerError) as failed:
        v2.rerank(model="m", query="not a number", documents=["d"], request_options=ONCE)
    assert "somebody" not in str(failed.value.body)
    with pytest.raises(cohere.core.ApiError) as large:
        v2.rerank(model="m", query="q", documents=["d"] * 6, request_options=ONCE)
    assert large.value.status_code == 413
    assert large.value.body["message"] == "6 documents; at most 5 a request"


def test_the_right_token_opens(guarded: str, http: httpx.Client) -> None:
    right = cohere.ClientV2(api_key="sesame", base_url=guarded, httpx_client=http)
    answer = right.rerank(model="words", query="q", documents=["d"])
    assert answer.results[0].index == 0


def test_rerankers_without_attention_refuse_spans(v2: cohere.ClientV2) -> None:
    with pytest.raises(cohere.UnprocessableEntityError, match="reads no attention"):
        v2.rerank(
            model="m",
            query="q",
            documents=["d"],
            relevant_spans=cohere.RerankRelevantSpans(mode="enabled"),
        )


MARKED = [
    "The 🦊 fox jumped over the 👩‍👩‍👧‍👦 family.",
    "Cafe\u0301 a\u0308 in Zu\u0308rich, e\u0301te\u0301.",
    "東京は日本の首都です。パリはフランスの首都です。",
    "plain words about a capital",
]


@pytest.fixture(scope="module")
def attention() -> AttentionReranker:
    return tiny_reranker(load_profile("icr-block"))


@pytest.fixture(scope="module")
def attentive(attention: AttentionReranker) -> Iterator[str]:
    with served(lambda: attention, model="tiny") as address:
        yield address


def test_spans_are_code_points_of_the_document(
    attention: AttentionReranker, attentive: str, http: httpx.Client
) -> None:
    client = cohere.ClientV2(api_key="any", base_url=attentive, httpx_client=http)
    explained = {one.index: one for one in Explainer(attention).explain("首都 café 🦊", MARKED)}
    answer = client.rerank(
        model="m",
        query="首都 café 🦊",
        documents=MARKED,
        relevant_spans=cohere.RerankRelevantSpans(mode="enabled", threshold=0.0),
    )
    assert sorted(found.index for found in answer.results) == [0, 1, 2, 3]
    seen = 0
    for found in answer.results:
        spans = found.relevant_spans or []
        cut_out = [MARKED[found.index][span.start : span.end] for span in spans]
        one = explained[found.index]
        assert sorted(cut_out) == sorted(one.cut_out(span.place) for span in one.spans)
        assert all(cut_out)
        scores = [span.score for span in spans]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        seen += len(spans)
    assert seen > 4


def test_threshold_and_max_spans(attentive: str) -> None:
    def spans(**choice: object) -> list[list[float]]:
        body = {
            "query": "首都",
            "documents": MARKED,
            "relevant_spans": {"mode": "enabled", **choice},
        }
        results = httpx.post(f"{attentive}/v2/rerank", json=body).json()["results"]
        # Absent, not empty, where there are none.
        assert all(result.get("relevant_spans") != [] for result in results)
        return [[s["score"] for s in result.get("relevant_spans", ())] for result in results]

    everything = spans(threshold=0.0)
    assert any(len(scores) > 1 for scores in everything)
    assert spans(threshold=0.0, max_spans=1) == [scores[:1] for scores in everything]
    assert spans(threshold=0.6) == [[s for s in scores if s >= 0.6] for scores in everything]
    assert spans() == [[s for s in scores if s >= 0.1] for scores in everything]


def test_spans_switched_off(attentive: str, http: httpx.Client) -> None:
    client = cohere.ClientV2(api_key="any", base_url=attentive, httpx_client=http)
    answer = client.rerank(
        model="m",
        query="q",
        documents=MARKED,
        relevant_spans=cohere.RerankRelevantSpans(mode="disabled"),
    )
    assert all(found.relevant_spans is None for found in answer.results)
