"""Many requests: order, laziness, windows, errors, throughput."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ranklens import AttentionReranker, Document, Query
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.parts import Passages
from ranklens.rerank.many import Request, Throughput
from ranklens.rerank.prompt import PromptLayout

MakeModel = Callable[..., Path]


@pytest.fixture
def reranker(tiny_model: MakeModel) -> AttentionReranker:
    return AttentionReranker.from_pretrained(tiny_model(), device="cpu", dtype="float32")


def requests(number: int) -> list[Request]:
    # Lengths go up and down, so that running by length is another order.
    return [
        (f"query {n}", [f"document {k} " + "word " * (7 * n % 5) for k in range(1 + n % 3)])
        for n in range(number)
    ]


@pytest.mark.parametrize("window", [1, 4, 64])
def test_it_equals_rank_one_by_one(reranker: AttentionReranker, window: int) -> None:
    given = requests(10)
    expected = [reranker.rank(query, documents) for query, documents in given]
    assert list(reranker.rank_many(iter(given), window=window)) == expected


def test_passages_and_many_go_together(tiny_model: MakeModel) -> None:
    reranker = AttentionReranker.from_pretrained(tiny_model(), passages=Passages(16, 4))
    given: list[Request] = [("capital", ["One. " * 30, "Two two."]), ("b", ["Three. " * 9])]
    assert list(reranker.rank_many(given)) == [reranker.rank(q, d) for q, d in given]


def test_it_reads_no_further_than_a_window(reranker: AttentionReranker) -> None:
    read = 0

    def endless() -> Iterator[Request]:
        nonlocal read
        while True:
            read += 1
            yield "capital", ["a document"]

    stream = reranker.rank_many(endless(), window=3)
    assert read == 0
    next(stream)
    assert read == 3
    next(stream), next(stream)
    assert read == 3
    next(stream)
    assert read == 6


def test_the_longest_of_a_window_runs_first(
    reranker: AttentionReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    read = reranker.read

    def watched(layout: PromptLayout) -> object:
        lengths.append(layout.length)
        return read(layout)

    monkeypatch.setattr(reranker, "read", watched)
    list(reranker.rank_many(requests(8), window=4))
    for of_window in (lengths[:4], lengths[4:]):
        assert of_window == sorted(of_window, reverse=True)
    assert lengths[:4] != sorted(lengths[:4])


BAD: list[tuple[object, str]] = [
    ((Query("q7", " "), ["a"]), r"request 2 \('q7'\), counted from 0: the query is empty"),
    (("q", []), r"request 2, counted from 0: no documents"),
    (("q",), r"request 2, counted from 0: expected \(query, documents\), got \('q',\)"),
    (7, r"request 2, counted from 0: expected \(query, documents\), got 7"),
]


@pytest.mark.parametrize("window", [1, 2, 64])
@pytest.mark.parametrize(("bad", "message"), BAD)
def test_an_error_names_its_request_after_those_before_it(
    reranker: AttentionReranker, bad: Request, message: str, window: int
) -> None:
    good = requests(4)
    stream = reranker.rank_many([*good[:2], bad, *good[2:]], window=window)
    assert [next(stream), next(stream)] == [reranker.rank(q, d) for q, d in good[:2]]
    with pytest.raises(InvalidInputError, match=message):
        next(stream)


def test_an_error_while_reading_names_its_request(
    reranker: AttentionReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = requests(3)
    read = reranker.read
    calls = 0

    def breaks(layout: PromptLayout) -> object:
        nonlocal calls
        calls += 1
        if len(layout.spans) == 2:
            raise ValueError("broken")
        return read(layout)

    monkeypatch.setattr(reranker, "read", breaks)
    # Of the three the second fails; a fourth one, shorter than all, would never be handed out.
    stream = reranker.rank_many([good[0], good[1], good[2], ("q", ["a"])])
    next(stream)
    with pytest.raises(ValueError, match="broken") as caught:
        next(stream)
    assert caught.value.__notes__ == ["in request 1, counted from 0"]
    assert calls == 3


def test_an_iterable_that_breaks_does_not_lose_what_it_gave(reranker: AttentionReranker) -> None:
    def breaking() -> Iterator[tuple[str, Sequence[str | Document]]]:
        yield "capital", ["a"]
        raise OSError("the file ended")

    stream = reranker.rank_many(breaking())
    assert next(stream).ids == ["0"]
    with pytest.raises(OSError, match="the file ended"):
        next(stream)


def test_throughput_is_told_and_logged(
    reranker: AttentionReranker, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Throughput] = []
    given = requests(5)
    with caplog.at_level(logging.INFO, logger="ranklens"):
        list(reranker.rank_many(given, window=2, on_progress=told.append))
    assert [t.requests for t in told] == [1, 2, 3, 4, 5]
    last = told[-1]
    assert last.documents == sum(len(documents) for _, documents in given)
    tokens = 0
    for query, documents in given:
        layout = reranker.layout(query.text if isinstance(query, Query) else query, [
            d if isinstance(d, Document) else Document(str(n), d) for n, d in enumerate(documents)
        ])  # fmt: skip
        tokens += len(layout.shared) + sum(len(tail.ids) for tail in layout.tails)
    assert last.tokens == tokens
    assert last.documents_per_second == pytest.approx(last.documents / last.seconds)
    assert last.tokens_per_second == pytest.approx(tokens / last.seconds)
    assert caplog.messages == [f"ranked {last}"]
    assert "docs/s" in caplog.text


def test_nothing_to_rank(reranker: AttentionReranker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="ranklens"):
        assert list(reranker.rank_many([])) == []
    assert caplog.messages == []
    assert Throughput().documents_per_second == 0.0


def test_a_window_below_one_is_refused_at_once(reranker: AttentionReranker) -> None:
    with pytest.raises(UsageError, match="at least 1 request, got 0"):
        reranker.rank_many([], window=0)
