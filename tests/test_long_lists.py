"""Lists that one prompt cannot hold, and passes that memory cannot hold."""

from __future__ import annotations

import dataclasses
import logging
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ranklens import AttentionReranker, Document
from ranklens.data.errors import InvalidInputError, RanklensError, UsageError
from ranklens.rerank import backoff
from ranklens.rerank.engine import AttentionEngine, TokenSignal
from ranklens.rerank.long_lists import Dealt, LongLists, deal, merge
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.profile import PoolingChoice, Profile
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout

MakeModel = Callable[..., Path]
ICR = load_profile("icr")
PLAIN = dataclasses.replace(ICR, pooling=PoolingChoice(None, "sum"))
"""ICR without the filter that gives a document of equal tokens no score."""
DOCUMENTS = [
    Document(f"d{n}", f"Document {n} is about {'abcdefghijklmnop'[n]}.") for n in range(16)
]


def engine_of(folder: Path) -> AttentionEngine:
    return AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32")


# Dealing and merging


@pytest.mark.parametrize(("documents", "prompts", "anchors"), [(7, 2, 1), (30, 4, 3), (101, 7, 2)])
def test_every_document_is_dealt_once_and_anchors_to_all(
    documents: int, prompts: int, anchors: int
) -> None:
    dealt = deal(documents, prompts, anchors)
    assert len(dealt.prompts) == prompts
    assert len(set(dealt.anchors)) == anchors
    assert all(set(dealt.anchors) <= set(prompt) for prompt in dealt.prompts)
    assert all(list(prompt) == sorted(prompt) for prompt in dealt.prompts)
    others = [d for prompt in dealt.prompts for d in prompt if d not in dealt.anchors]
    assert sorted([*others, *dealt.anchors]) == list(range(documents))
    sizes = [len(prompt) for prompt in dealt.prompts]
    assert max(sizes) - min(sizes) <= 1


def test_every_prompt_has_documents_from_the_whole_list() -> None:
    dealt = deal(12, 3, 3)
    assert dealt.anchors == (2, 6, 10)
    assert dealt.prompts == ((0, 2, 4, 6, 8, 10), (1, 2, 5, 6, 9, 10), (2, 3, 6, 7, 10, 11))


def test_anchors_are_drawn_evenly() -> None:
    assert deal(30, 2, 3).anchors == (5, 15, 25)
    assert deal(30, 1, 3) == Dealt((tuple(range(30)),))


def test_merging_takes_a_prompts_own_level_out() -> None:
    dealt = Dealt(((0, 1, 2), (0, 2, 3)), anchors=(0, 2))
    # The second prompt gives everything 10 more.
    assert merge([[1.0, 5.0, 3.0], [11.0, 13.0, 14.0]], dealt) == [1.0, 5.0, 3.0, 4.0]
    # Where the anchors disagree about more than the level, they get the mean.
    assert merge([[1.0, 5.0, 3.0], [12.0, 12.0, 14.0]], dealt) == [1.5, 5.0, 2.5, 4.0]


def test_one_prompt_keeps_its_scores() -> None:
    assert merge([[3.0, 1.0]], Dealt(((0, 1),))) == [3.0, 1.0]


# The whole way


def test_several_prompts_though_one_would_do(
    tiny_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(tiny_model())
    forced = AttentionReranker(engine, ICR, long_lists=LongLists("anchors", most=7))
    given = list(DOCUMENTS)
    with caplog.at_level(logging.INFO, logger="ranklens"):
        ranking = forced.rank("about b", given)
    # 16 documents, 3 of them anchors: 13 others in prompts of 4.
    assert [r.message for r in caplog.records] == ["16 documents in 4 prompts that share 3 of them"]
    assert given == DOCUMENTS
    assert sorted(r.index for r in ranking) == list(range(16))
    assert all(type(r.score) is float and math.isfinite(r.score) for r in ranking)
    assert forced.rank("about b", given) == ranking


def test_the_level_of_every_prompt_is_the_first_ones(tiny_model: MakeModel) -> None:
    reranker = AttentionReranker(engine_of(tiny_model()), ICR)
    forced = AttentionReranker(
        reranker.engine, ICR, long_lists=LongLists("anchors", anchors=2, most=9)
    )
    dealt = deal(16, 2, 2)
    scores = {r.index: r.score for r in forced.rank("about b", DOCUMENTS)}
    apart = [reranker.rank("about b", [DOCUMENTS[d] for d in p]) for p in dealt.prompts]
    own = [
        {prompt[r.index]: r.score for r in ranking}
        for prompt, ranking in zip(dealt.prompts, apart, strict=True)
    ]
    first, second = own
    level = sum(first[a] - second[a] for a in dealt.anchors) / 2
    for document in range(16):
        if document in dealt.anchors:
            expected = (first[document] + second[document] + level) / 2
        else:
            expected = first[document] if document in first else second[document] + level
        assert scores[document] == pytest.approx(expected, abs=1e-9)


def test_a_list_that_fits_is_ranked_as_without(
    tiny_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    engine = engine_of(tiny_model())
    with caplog.at_level(logging.INFO, logger="ranklens"):
        anchored = AttentionReranker(engine, ICR, long_lists="anchors").rank("b", DOCUMENTS)
    assert anchored == AttentionReranker(engine, ICR).rank("b", DOCUMENTS)
    assert "prompts" not in caplog.text


def test_a_list_longer_than_the_context(tiny_model: MakeModel) -> None:
    engine = engine_of(tiny_model(max_position_embeddings=900))
    documents = [f"{n} " + "word " * 40 for n in range(40)]
    with pytest.raises(InvalidInputError, match="40 documents do not fit"):
        AttentionReranker(engine, ICR).rank("word", documents)
    ranking = AttentionReranker(engine, ICR, long_lists="anchors").rank("word", documents)
    assert sorted(r.index for r in ranking) == list(range(40))
    # Prompts are added until documents keep 64 tokens, not until they keep the least 16.
    lengths = [len(engine.tokenizer(text)["input_ids"]) for text in documents]
    assert all(lengths[r.index] - r.tokens_cut >= 55 for r in ranking)


def test_what_never_fits_says_what_to_do(tiny_model: MakeModel) -> None:
    engine = engine_of(tiny_model(max_position_embeddings=600))
    anchored = AttentionReranker(engine, ICR, long_lists="anchors")
    with pytest.raises(InvalidInputError, match=r"9 documents do not fit .* 600 .*LongLists"):
        anchored.rank("why " * 1000, ["word " * 90] * 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LongLists("perhaps"), "'refuse' or 'anchors', got 'perhaps'"),
        (lambda: LongLists("anchors", anchors=0), "at least 1 anchor, got 0"),
        (lambda: LongLists("anchors", anchors=3, most=3), "at most 3 documents has no room for 3"),
        (lambda: LongLists("anchors", document_tokens=3), "at least 16, got 3"),
    ],
)
def test_choices_that_make_no_sense(make: Callable[[], LongLists], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_several_queries_and_shuffles(tiny_model: MakeModel) -> None:
    order = dataclasses.replace(ICR.prompt.order, arrange="shuffled", permutations=2)
    profile = dataclasses.replace(ICR, prompt=dataclasses.replace(ICR.prompt, order=order))
    reranker = AttentionReranker(
        engine_of(tiny_model()), profile, long_lists=LongLists("anchors", most=10)
    )
    both = reranker.rank_queries(["about b", "document"], DOCUMENTS)
    for query, ranking in zip(["about b", "document"], both, strict=True):
        alone = {r.id: r.score for r in reranker.rank(query, DOCUMENTS)}
        assert {r.id: r.score for r in ranking} == pytest.approx(alone, abs=1e-5)


def test_a_softmax_is_over_all_prompts(tiny_model: MakeModel) -> None:
    calibration = dataclasses.replace(ICR.calibration, temperature=0.5)
    profile = dataclasses.replace(ICR, calibration=calibration)
    engine, choice = engine_of(tiny_model()), LongLists("anchors", most=10)
    shares = AttentionReranker(engine, profile, long_lists=choice).rank("b", DOCUMENTS)
    scores = AttentionReranker(engine, ICR, long_lists=choice).rank("b", DOCUMENTS)
    assert sum(r.score for r in shares) == pytest.approx(1)
    assert shares.ids == scores.ids
    assert [math.log(r.score / shares[0].score) * 0.5 for r in shares] == pytest.approx(
        [r.score - scores[0].score for r in scores], abs=1e-6
    )


class Planted:
    """Reads attention as planted: relevance by document, put on some scale by each prompt."""

    def __init__(
        self, reranker: AttentionReranker, relevance: dict[str, float], scale: str
    ) -> None:
        # A document is known by its tokens without its number in the prompt.
        self.by_ids = {
            tuple(reranker._pieces.text(" " + text)): value for text, value in relevance.items()
        }
        self.scale = scale
        self.prompts = 0

    def __call__(self, layout: PromptLayout, plan: SignalPlan) -> TokenSignal:
        self.prompts += 1
        values = [self.find(layout.shared[a:b]) for a, b in layout.spans]
        if self.scale == "softmax":
            weights = [math.exp(value) for value in values]
            values = [weight / sum(weights) for weight in weights]
        else:
            values = [value + 3.0 * self.prompts for value in values]
        mass = torch.zeros(1, len(layout.tails), len(layout.shared))
        for (first, end), value in zip(layout.spans, values, strict=True):
            mass[0, 0, first:end] = value / (end - first)
        return TokenSignal(mass, plan)

    def find(self, ids: Sequence[int]) -> float:
        return next(v for known, v in self.by_ids.items() if tuple(ids[-len(known) :]) == known)


def planted(
    folder: Path, relevance: dict[str, float], scale: str, monkeypatch: pytest.MonkeyPatch
) -> AttentionReranker:
    choice = LongLists("anchors", most=12)
    reranker = AttentionReranker(engine_of(folder), PLAIN, long_lists=choice)
    monkeypatch.setattr(reranker.engine, "read", Planted(reranker, relevance, scale))
    return reranker


def test_a_planted_order_is_found_across_prompts(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(4)
    relevance = {f"text number {n} of the list": rng.gauss(0, 1) for n in range(50)}
    reranker = planted(tiny_model(), relevance, "level", monkeypatch)
    ranking = reranker.rank("q", list(relevance))
    texts = list(relevance)
    assert [texts[r.index] for r in ranking] == sorted(texts, key=lambda t: -relevance[t])


def test_planted_relevant_documents_come_first_under_a_softmax(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    good = {3, 17, 18, 31, 44}
    relevance = {
        f"text number {n} of the list": rng.gauss(3.0 if n in good else 0.0, 0.2) for n in range(50)
    }
    reranker = planted(tiny_model(), relevance, "softmax", monkeypatch)
    ranking = reranker.rank("q", list(relevance))
    assert {r.index for r in ranking[:5]} == good


# Out of memory


def test_a_list_of_no_more_documents_than_anchors_is_one_prompt(tiny_model: MakeModel) -> None:
    engine = engine_of(tiny_model(max_position_embeddings=240))
    documents = ["word " * 100] * 3
    refusing = AttentionReranker(engine, ICR).rank("b", documents)
    assert AttentionReranker(engine, ICR, long_lists="anchors").rank("b", documents) == refusing


class Small:
    """An engine that runs out of memory with more than ``most`` tails."""

    def __init__(self, engine: AttentionEngine, error: Exception, most: int) -> None:
        self.engine, self.error, self.most = engine, error, most
        self.tails: list[int] = []
        self.rope_switch: int | None = None

    def read(self, layout: PromptLayout, plan: SignalPlan) -> TokenSignal:
        self.tails.append(len(layout.tails))
        if len(layout.tails) > self.most:
            raise self.error
        return self.engine.read(layout, plan)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process forget that it has already said it."""
    import threading

    monkeypatch.setattr(backoff, "_said", threading.Event())


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize("combine", ["tokens", "documents"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_fewer_tails_a_pass_give_the_same(
    tiny_model: MakeModel, error: Exception, combine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    signal = dataclasses.replace(ICR.signal, combine=combine)
    profile: Profile = dataclasses.replace(ICR, signal=signal)
    reranker = AttentionReranker(engine_of(tiny_model()), profile)
    # The third query is the content-free one.
    layout = reranker.layout(["about b", "about c and more", "N/A", "d"], DOCUMENTS)
    whole = reranker.read(layout).mass
    for most in (1, 2, 3):
        small = Small(reranker.engine, error, most)
        with caplog.at_level(logging.WARNING, logger="ranklens"):
            pieces = backoff.read_in_pieces(small, layout, reranker.plan)
        assert torch.allclose(pieces.mass, whole, rtol=0, atol=1e-5)
        assert torch.equal(pieces.mass[:, 2], pieces.mass[:, 4]), "equal tails are one branch"
        assert max(small.tails[1:]) <= 3
    assert len(caplog.records) == 1, "said once in a process"
    assert "reading fewer at a time" in caplog.text


@pytest.mark.usefixtures("unsaid")
def test_ranking_backs_off(tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = AttentionReranker(engine_of(tiny_model()), ICR)
    expected = {r.id: r.score for r in reranker.rank("about b", DOCUMENTS)}
    small = Small(engine_of(tiny_model()), ERRORS[0], 1)
    monkeypatch.setattr(reranker.engine, "read", small.read)
    assert {r.id: r.score for r in reranker.rank("about b", DOCUMENTS)} == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.usefixtures("unsaid")
def test_a_single_tail_that_does_not_fit_is_an_honest_error(tiny_model: MakeModel) -> None:
    reranker = AttentionReranker(engine_of(tiny_model()), ICR)
    layout = reranker.layout("about b", DOCUMENTS)
    small = Small(reranker.engine, ERRORS[0], 0)
    with pytest.raises(RanklensError, match=r"out of memory .* 16 documents.*--depth.*bfloat16"):
        backoff.read_in_pieces(small, layout, reranker.plan)


@pytest.mark.usefixtures("unsaid")
def test_parts_with_other_rotations_are_not_read_apart(tiny_model: MakeModel) -> None:
    reranker = AttentionReranker(engine_of(tiny_model()), ICR)
    layout = reranker.layout("about b and c", DOCUMENTS)
    real, null = (len(layout.shared) + len(tail.ids) for tail in layout.tails)
    assert real > null
    for switch, apart in ((real, True), (null, False), (null - 1, True)):
        small = Small(reranker.engine, ERRORS[0], 1)
        small.rope_switch = switch
        if apart:
            backoff.read_in_pieces(small, layout, reranker.plan)
            continue
        with pytest.raises(RanklensError, match=f"beyond {switch} tokens .* other rotations"):
            backoff.read_in_pieces(small, layout, reranker.plan)


def test_other_errors_pass_through(tiny_model: MakeModel) -> None:
    reranker = AttentionReranker(engine_of(tiny_model()), ICR)
    small = Small(reranker.engine, RuntimeError("shape mismatch"), 0)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        backoff.read_in_pieces(small, reranker.layout("b", DOCUMENTS), reranker.plan)
    assert small.tails == [2]
