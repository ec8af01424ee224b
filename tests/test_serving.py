"""The service behind the server: limits, batches, spans, overload, all without HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from openinference.semconv.trace import (
    DocumentAttributes,
    OpenInferenceSpanKindValues,
    RerankerAttributes,
    SpanAttributes,
)
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.serving_fixtures import PATIENCE, WordReranker

from ranklens import AttentionReranker, DocumentCache
from ranklens.data.errors import InvalidInputError, RanklensError, UsageError
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, checked_request
from ranklens.rerank.serving.batching import Batches, alike_together
from ranklens.rerank.serving.jobs import (
    Answer,
    OverloadedError,
    RankJob,
    SpanChoice,
    TooLargeError,
    UnavailableError,
)
from ranklens.rerank.serving.limits import keep
from ranklens.rerank.serving.service import Pace, Service
from ranklens.rerank.serving.settings import Settings
from ranklens.rerank.serving.waiting import Accepted, Waiting

TEXTS = ("a cat", "a dog and a cat and a cat", "nothing")
T = TypeVar("T")


@pytest.fixture
def words() -> Iterator[WordReranker]:
    made = WordReranker()
    yield made
    # A thread that a failed test holds would wait on.
    made.gate.set()


def service_of(reranker: WordReranker, settings: Settings | None = None) -> Service:
    service = Service(lambda: reranker, settings, model="words")
    service.start()
    return service


def run(work: Awaitable[T]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(work, PATIENCE)

    return asyncio.run(limited())


def answer_alone(reranker: AttentionReranker, job: RankJob) -> Answer:
    accepted = Accepted(job)
    Batches(reranker, Settings(), "m").answer([accepted])
    return accepted.future.result(0)


# Settings, and the line of jobs.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_documents": 0}, "max_documents must be at least 1: 0"),
        ({"timeout": float("nan")}, "timeout must be more than 0"),
        ({"batch_wait_ms": -1.0}, "batch_wait_ms must lie in 0..1000: -1"),
        ({"max_held_bytes": 5}, "less than one body"),
        ({"token": ""}, "printable ASCII"),
        ({"token": "a b"}, "without blanks"),
        ({"token": "a\r\nb"}, "printable ASCII"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        dataclasses.replace(Settings(), **changes)


def test_a_token_is_not_shown() -> None:
    assert "s3cret" not in repr(Settings(token="s3cret"))


def test_the_line_is_bounded_and_clients_who_left_make_room() -> None:
    line = Waiting(2)
    jobs = [Accepted(RankJob(f"q{i}", ("d",))) for i in range(4)]
    assert [line.put(job) for job in jobs[:3]] == [True, True, False]
    jobs[0].future.cancel()
    assert line.put(jobs[3])
    assert line.take(5, 0.0) == [jobs[1], jobs[3]]
    line.close()
    assert not line.put(jobs[2])
    assert line.take(5, 0.0) == []


def test_what_waits_when_the_line_closes_is_still_taken() -> None:
    line = Waiting(2)
    job = Accepted(RankJob("q", ("d",)))
    line.put(job)
    line.close()
    assert line.take(1, 0.0) == [job]


def test_the_pace_is_seconds_for_characters() -> None:
    pace = Pace()
    assert pace.seconds(100) == 0.0
    pace.add(1000, 2.0)
    assert pace.seconds(500) == pytest.approx(1.0)


# Answers.


def test_results_come_best_first_with_their_place_and_scores_in_the_unit_interval(
    words: WordReranker,
) -> None:
    service = service_of(words)
    answer = run(service.rank(RankJob("cat", TEXTS)))
    assert [r.index for r in answer.results] == [1, 0, 2]
    assert all(0 <= r.score <= 1 for r in answer.results)
    assert answer.results[1].score == 0.5  # the list's median
    assert (answer.tokens, answer.tokens_cut, answer.documents_cut) == (12, 0, 0)
    raw = run(service.rank(RankJob("cat", TEXTS, top_n=2, raw_scores=True)))
    assert [(r.index, r.score) for r in raw.results] == [(1, 2.0), (0, 1.0)]
    assert service.close()


def test_documents_are_cut_where_asked_and_what_was_cut_is_counted(words: WordReranker) -> None:
    service = service_of(words, Settings(max_tokens_per_doc=4))
    answer = run(service.rank(RankJob("cat", TEXTS, raw_scores=True, top_n=1)))
    # Its cats lie behind the fourth word, so the first document comes first.
    assert [(r.index, r.tokens_cut) for r in answer.results] == [(0, 0)]
    assert (answer.tokens_cut, answer.documents_cut) == (4, 1)
    tail = run(service.rank(RankJob("cat", TEXTS, max_tokens_per_doc=1, cut_from="start")))
    assert {r.index: r.tokens_cut for r in tail.results} == {0: 1, 1: 7, 2: 0}
    assert service.close()


def test_a_query_that_is_too_long_is_refused_or_cut_when_asked(words: WordReranker) -> None:
    service = service_of(words, Settings(max_query_tokens=2))
    with pytest.raises(InvalidInputError, match="the query has 3 tokens; at most 2"):
        run(service.rank(RankJob("cat dog bird", TEXTS)))
    answer = run(service.rank(RankJob("cat dog bird", TEXTS, max_tokens_per_query=2)))
    assert words.next_query() == "cat dog"
    assert answer.tokens_cut == 1
    assert service.close()


@pytest.mark.parametrize(
    ("job", "error", "told"),
    [
        (RankJob(" ", TEXTS), InvalidInputError, "the query is empty"),
        (RankJob("q", ()), InvalidInputError, "no documents"),
        (RankJob("q", ("d",) * 4), TooLargeError, "4 documents; at most 3"),
        (RankJob("q", TEXTS, top_n=0), InvalidInputError, "top_n must be at least 1: 0"),
        (RankJob("q", TEXTS, spans=SpanChoice(2.0)), InvalidInputError, "threshold"),
        (RankJob("q", TEXTS, spans=SpanChoice()), InvalidInputError, "words cannot say which"),
        (RankJob("refuse", TEXTS), InvalidInputError, "this one cannot be ranked"),
        (RankJob("break", TEXTS), RuntimeError, "secret"),
    ],
)
def test_what_cannot_be_ranked_is_an_error_and_the_service_goes_on(
    words: WordReranker, job: RankJob, error: type[Exception], told: str
) -> None:
    service = service_of(words, Settings(max_documents=3))
    with pytest.raises(error, match=told):
        run(service.rank(job))
    assert run(service.rank(RankJob("cat", TEXTS))).results[0].index == 1
    assert service.close()


# Overload, time, clients who leave, the beginning and the end.


def test_what_does_not_find_a_place_is_told_when_to_come_back(words: WordReranker) -> None:
    service = service_of(words, Settings(max_waiting=2, max_batch=1))
    words.gate.clear()

    async def scene() -> list[Answer]:
        accepted = [asyncio.create_task(service.rank(RankJob("cat", TEXTS)))]
        await asyncio.to_thread(words.next_query)
        accepted += [asyncio.create_task(service.rank(RankJob("cat", TEXTS))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="2 requests wait already") as told:
            await service.rank(RankJob("dog", TEXTS))
        assert 1 <= told.value.retry_after <= 60
        words.gate.set()
        return list(await asyncio.gather(*accepted))

    answers = run(scene())
    assert [a.results[0].index for a in answers] == [1, 1, 1]
    assert service.close()


def test_a_client_who_leaves_costs_no_pass(words: WordReranker) -> None:
    service = service_of(words, Settings(max_batch=1))
    words.gate.clear()

    async def scene() -> None:
        first = asyncio.create_task(service.rank(RankJob("first", TEXTS)))
        await asyncio.to_thread(words.next_query)
        leaves = asyncio.create_task(service.rank(RankJob("leaves", TEXTS)))
        stays = asyncio.create_task(service.rank(RankJob("stays", TEXTS)))
        await asyncio.sleep(0)
        leaves.cancel()
        await asyncio.wait({leaves})
        words.gate.set()
        await asyncio.gather(first, stays)

    run(scene())
    assert service.close()
    assert words.next_query() == "stays"
    assert words.entered.empty()


def test_time_that_is_up_is_said_and_the_request_is_dropped(words: WordReranker) -> None:
    service = service_of(words, Settings(timeout=0.05, max_batch=1))
    words.gate.clear()

    async def scene() -> None:
        waiting = [service.rank(RankJob(f"q{i}", TEXTS)) for i in range(2)]
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, UnavailableError)
            assert "not answered within 0.05 s" in str(error)

    run(scene())
    words.gate.set()
    assert service.close()
    assert words.next_query() == "q0"
    assert words.entered.empty()


def test_jobs_of_one_request_have_the_time_of_one_together() -> None:
    class Slow(WordReranker):
        def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
            threading.Event().wait(0.15)
            return super().rank(query, documents)

    service = service_of(Slow(), Settings(timeout=0.25))
    with pytest.raises(UnavailableError, match=r"not answered within 0.25 s"):
        run(service.rank_each(RankJob(f"q{i}", TEXTS) for i in range(3)))
    assert service.close()


def test_closing_answers_what_was_accepted_and_nothing_else(words: WordReranker) -> None:
    service = service_of(words, Settings(max_batch=1))
    words.gate.clear()

    async def scene() -> list[Answer]:
        accepted = [asyncio.create_task(service.rank(RankJob("cat", TEXTS))) for _ in range(3)]
        await asyncio.to_thread(words.next_query)
        service.stop()
        with pytest.raises(UnavailableError, match="stopping"):
            await service.rank(RankJob("late", TEXTS))
        words.gate.set()
        assert await asyncio.to_thread(service.close)
        return list(await asyncio.gather(*accepted))

    assert len(run(scene())) == 3


def test_what_is_not_begun_when_grace_is_over_is_told_so(words: WordReranker) -> None:
    service = service_of(words, Settings(max_batch=1, shutdown_grace=0.05))
    words.gate.clear()

    async def scene() -> None:
        held = asyncio.create_task(service.rank(RankJob("cat", TEXTS)))
        await asyncio.to_thread(words.next_query)
        behind = asyncio.create_task(service.rank(RankJob("cat", TEXTS)))
        await asyncio.sleep(0)
        assert not await asyncio.to_thread(service.close)
        with pytest.raises(UnavailableError, match="has stopped"):
            await behind
        words.gate.set()
        assert (await held).results

    run(scene())
    assert not service.answered_all


def test_a_model_that_cannot_be_loaded_is_told_to_all() -> None:
    def load() -> WordReranker:
        raise RanklensError("no such weights")

    service = Service(load, model="words")
    with pytest.raises(UnavailableError, match="being loaded"):
        run(service.rank(RankJob("cat", TEXTS)))
    with pytest.raises(RanklensError, match="no such weights"):
        service.start()
    with pytest.raises(UnavailableError, match="could not be loaded"):
        run(service.rank(RankJob("cat", TEXTS)))
    assert service.close()


# With attention: batches, spans, kept documents.


@pytest.fixture
def tiny(tiny_model: Callable[..., Path]) -> AttentionReranker:
    return AttentionReranker.from_pretrained(tiny_model(), profile="icr", device="cpu")


DOCUMENTS = ("the cat sat on the mat", "dogs bark at night", "find relevant paragraphs", "")


def test_answers_of_a_batch_are_those_of_each_request_alone(tiny: AttentionReranker) -> None:
    jobs = [
        RankJob("where is the cat", DOCUMENTS, raw_scores=True),
        RankJob("what do dogs do at night, and why do they", DOCUMENTS, raw_scores=True),
        RankJob("paragraphs", DOCUMENTS[:2], raw_scores=True),
        RankJob("x " * 2000, DOCUMENTS, raw_scores=True),
        RankJob("the mat", DOCUMENTS, raw_scores=True, top_n=1),
        RankJob("gone", DOCUMENTS),
    ]
    passes: list[int] = []
    accepted = [Accepted(job) for job in jobs]
    accepted[5].future.cancel()
    Batches(tiny, Settings(), "m", passes.append).answer(accepted)
    assert sorted(passes) == [1, 3]
    with pytest.raises(InvalidInputError, match="the query has"):
        accepted[3].future.result(0)
    for i in (0, 1, 2, 4):
        alone = tiny.rank(jobs[i].query, jobs[i].documents)[: jobs[i].top_n]
        found = accepted[i].future.result(0).results
        assert [r.index for r in found] == [r.index for r in alone]
        assert [r.score for r in found] == pytest.approx([r.score for r in alone], rel=1e-5)


def test_an_error_of_a_shared_pass_stays_with_its_request(
    tiny: AttentionReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    rank = AttentionReranker.rank

    def fails_for_one(self: AttentionReranker, query: str, documents: Sequence[str]) -> Ranking:
        if query == "bad":
            raise RuntimeError("bad one")
        return rank(self, query, documents)

    def fails(*rest: object) -> object:
        raise RuntimeError("together")

    monkeypatch.setattr(AttentionReranker, "rank", fails_for_one)
    monkeypatch.setattr(AttentionReranker, "rank_queries", fails)
    accepted = [Accepted(RankJob(query, DOCUMENTS)) for query in ("good", "bad", "fine")]
    Batches(tiny, Settings(), "m").answer(accepted)
    assert accepted[0].future.result(0).results
    assert accepted[2].future.result(0).results
    with pytest.raises(RuntimeError, match="bad one"):
        accepted[1].future.result(0)


def test_queries_that_would_cut_each_others_documents_are_read_apart(
    tiny_model: Callable[..., Path],
) -> None:
    large = AttentionReranker.from_pretrained(tiny_model(), profile="icr", device="cpu")
    documents = ("the cat sat on the mat " * 9, "dogs bark at night " * 9)
    queries = ("a", "where did the cat sit " * 6)
    room = large.layout(queries[0], checked_request("q", documents)[1]).length
    folder = tiny_model(max_position_embeddings=room)
    small = AttentionReranker.from_pretrained(folder, profile="icr", device="cpu")
    assert alike_together(small, queries[:1] * 2, documents)
    assert not alike_together(small, queries, documents)
    accepted = [Accepted(RankJob(query, documents, raw_scores=True)) for query in queries]
    Batches(small, Settings(), "m").answer(accepted)
    for query, one in zip(queries, accepted, strict=True):
        alone = {r.index: r for r in small.rank(query, documents)}
        for result in one.future.result(0).results:
            assert result.score == pytest.approx(alone[result.index].score, rel=1e-5)
            assert result.tokens_cut == alone[result.index].tokens_cut


def test_spans_are_code_points_of_the_whole_text(tiny: AttentionReranker) -> None:
    texts = ("naïve 🙂🙂 cats, e\u0301tude 猫が好き " * 3, "dogs bark", "   ")
    wanted = RankJob("cats 猫", texts, raw_scores=True, spans=SpanChoice(0.0))
    found = answer_alone(tiny, wanted)
    plain = answer_alone(tiny, dataclasses.replace(wanted, spans=None))
    assert [r.index for r in found.results] == [r.index for r in plain.results]
    expected = pytest.approx([r.score for r in plain.results], rel=1e-5)
    assert [r.score for r in found.results] == expected
    scores = []
    for result in found.results:
        text = texts[result.index]
        for span in result.spans:
            assert text[span.start : span.end] == text[span.start : span.end].strip() != ""
        scores += [span.score for span in result.spans]
        assert [s.score for s in result.spans] == sorted(s.score for s in result.spans)[::-1]
    assert max(scores) == 1.0
    assert min(scores) >= 0.0
    strict = answer_alone(tiny, dataclasses.replace(wanted, spans=SpanChoice(0.5, max_spans=1)))
    kept = [span.score for result in strict.results for span in result.spans]
    assert kept
    assert min(kept) >= 0.5
    assert all(len(result.spans) <= 1 for result in strict.results)


def test_spans_of_a_text_without_its_beginning_lie_in_what_is_left(tiny: AttentionReranker) -> None:
    text = "🙂 nothing here at all; " * 3 + "the cat sat on the mat"
    wanted = RankJob(
        "cat", (text, "dogs"), spans=SpanChoice(0.0), max_tokens_per_doc=8, cut_from="start"
    )
    left = keep(tiny, text, 8, "start")
    assert text[left.start :] == left.text
    assert 0 < left.tokens <= 8
    assert left.tokens_cut == tiny.shortened(text).tokens - left.tokens
    [found] = [r for r in answer_alone(tiny, wanted).results if r.index == 0]
    assert found.spans
    assert all(left.start <= span.start < span.end <= len(text) for span in found.spans)
    assert found.tokens_cut == left.tokens_cut


def test_documents_in_blocks_are_kept_and_counted(tiny_model: Callable[..., Path]) -> None:
    def load() -> AttentionReranker:
        return AttentionReranker.from_pretrained(
            tiny_model(), profile="icr-block", device="cpu", documents=DocumentCache()
        )

    service = Service(load, model="m")
    service.start()

    def kept(source: str) -> float:
        value = service.metrics.registry.get_sample_value(
            "ranklens_kept_documents_total", {"source": source}
        )
        assert value is not None
        return value

    computed, memory = kept("computed"), kept("memory")
    first = run(service.rank(RankJob("cat", DOCUMENTS[:3])))
    assert kept("computed") == computed + 3
    second = run(service.rank(RankJob("cat", DOCUMENTS[:3])))
    assert kept("computed") == computed + 3
    assert kept("memory") == memory + 3
    assert first == second
    assert service.close()


# Tracing.


@pytest.mark.parametrize("contents", [False, True])
def test_a_request_is_a_span_of_openinference(
    words: WordReranker, monkeypatch: pytest.MonkeyPatch, contents: bool
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    service = service_of(words, Settings(trace_documents=contents))
    run(service.rank(RankJob("cat", TEXTS, top_n=1, raw_scores=True)))
    assert service.close()
    [span] = exporter.get_finished_spans()
    found = dict(span.attributes or {})
    taken = f"{RerankerAttributes.RERANKER_INPUT_DOCUMENTS}.2"
    given = f"{RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS}.0"
    texts = {
        f"{taken}.{DocumentAttributes.DOCUMENT_CONTENT}": "nothing",
        f"{given}.{DocumentAttributes.DOCUMENT_CONTENT}": TEXTS[1],
    }
    expected = {
        SpanAttributes.OPENINFERENCE_SPAN_KIND: OpenInferenceSpanKindValues.RERANKER.value,
        RerankerAttributes.RERANKER_MODEL_NAME: "words",
        RerankerAttributes.RERANKER_QUERY: "cat",
        RerankerAttributes.RERANKER_TOP_K: 1,
        f"{taken}.{DocumentAttributes.DOCUMENT_ID}": "2",
        f"{given}.{DocumentAttributes.DOCUMENT_ID}": "1",
        f"{given}.{DocumentAttributes.DOCUMENT_SCORE}": 2.0,
    }
    assert {name: found[name] for name in expected} == expected
    assert {name: found.get(name) for name in texts} == (
        texts if contents else dict.fromkeys(texts)
    )


def test_a_span_that_is_full_keeps_what_matters(
    words: WordReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    service = service_of(words)
    run(service.rank(RankJob("cat", ("a cat",) * 500)))
    assert service.close()
    [span] = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes[RerankerAttributes.RERANKER_QUERY] == "cat"
    first = f"{RerankerAttributes.RERANKER_OUTPUT_DOCUMENTS}.0"
    assert span.attributes[f"{first}.{DocumentAttributes.DOCUMENT_ID}"] == "0"
