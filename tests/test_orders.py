"""What a profile says about the prompt: order, markers, spans, lengths, titles and frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.frames import Frame
from ranklens.rerank.profile import OrderChoice, Profile
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptBuilder, PromptLayout, orders

ICR = load_profile("icr")
FRAME = Frame("mine", prefix="<|im_start|>", suffix="<|im_end|>")
DOCUMENTS = [
    Document("a", "Paris is the capital of France.", title="Paris"),
    Document("b", "The mitochondrion is the powerhouse of the cell."),
    Document("c", "Berlin is the capital of Germany.", title="Berlin"),
    Document("d", "A capital is the top of a column."),
]


def icr(**prompt: Any) -> Profile:
    return dataclasses.replace(ICR, prompt=dataclasses.replace(ICR.prompt, **prompt))


@pytest.fixture
def engine(tiny_model: Callable[..., Path]) -> AttentionEngine:
    return AttentionEngine.from_pretrained(tiny_model(), device="cpu", dtype="float32")


@pytest.fixture
def tokenizer(engine: AttentionEngine) -> Any:
    return engine.tokenizer


def build(
    tokenizer: Any,
    profile: Profile,
    documents: list[Document] = DOCUMENTS,
    frame: Frame = FRAME,
    context: int = 10_000,
) -> PromptLayout:
    return PromptBuilder(PieceTokenizer(tokenizer), frame, profile).build(
        ["capital of France"], documents, context
    )


def texts(tokenizer: Any, layout: PromptLayout) -> list[str]:
    return [tokenizer.decode(layout.shared[first:end]) for first, end in layout.spans]


def test_best_last_and_best_first_are_the_input_backwards_and_as_it_is() -> None:
    assert orders(OrderChoice("best-last"), 4) == [[3, 2, 1, 0]]
    assert orders(OrderChoice("best-first"), 4) == [[0, 1, 2, 3]]
    assert orders(OrderChoice("best-last"), 1) == orders(OrderChoice("shuffled"), 1) == [[0]]


def test_a_seed_is_an_order() -> None:
    def drawn(seed: int) -> list[int]:
        [order] = orders(OrderChoice("shuffled", seed=seed), 20)
        return order

    assert drawn(5) == drawn(5)
    assert drawn(5) != drawn(6)
    assert sorted(drawn(5)) == list(range(20))
    assert drawn(5) not in (list(range(20)), list(range(20))[::-1])


def test_permutations_are_the_shuffles_of_the_seeds_that_follow() -> None:
    several = orders(OrderChoice("shuffled", seed=5, permutations=3), 20)
    assert several == [orders(OrderChoice("shuffled", seed=s), 20)[0] for s in (5, 6, 7)]


@pytest.mark.parametrize(
    "order",
    [
        OrderChoice("best-last"),
        OrderChoice("best-first"),
        OrderChoice("shuffled", seed=1),
        OrderChoice("shuffled", seed=2),
    ],
)
def test_markers_count_in_prompt_order_and_spans_follow_the_input(
    tokenizer: Any, order: OrderChoice
) -> None:
    layout = build(tokenizer, icr(order=order))
    [arranged] = orders(order, len(DOCUMENTS))
    bodies = [f"{d.title}\n{d.text}" if d.title else d.text for d in DOCUMENTS]
    numbers = {index: number for number, index in enumerate(arranged, start=1)}
    assert texts(tokenizer, layout) == [f"[{numbers[i]}] {bodies[i]}" for i in range(4)]
    starts = [layout.spans[index][0] for index in arranged]
    assert starts == sorted(starts)
    paragraphs = "".join(f"[{n}] {bodies[i]}\n\n" for n, i in enumerate(arranged, start=1))
    assert tokenizer.decode(layout.shared) == (
        f"<|im_start|> Here are some paragraphs:\n\n{paragraphs}"
    )


def scores(engine: AttentionEngine, order: OrderChoice) -> dict[str, float]:
    ranking = AttentionReranker(engine, icr(order=order)).rank("capital of France", DOCUMENTS)
    return {ranked.id: ranked.score for ranked in ranking}


def test_permutations_average_the_scores_of_single_shuffles(engine: AttentionEngine) -> None:
    averaged = scores(engine, OrderChoice("shuffled", seed=5, permutations=3))
    singles = [scores(engine, OrderChoice("shuffled", seed=seed)) for seed in (5, 6, 7)]
    assert len({tuple(sorted(single.items())) for single in singles}) == 3
    for document, score in averaged.items():
        mean = sum(single[document] for single in singles) / 3
        assert score == pytest.approx(mean, abs=1e-9)


def test_a_shuffle_ranks_the_same_twice_and_is_neither_given_order(
    engine: AttentionEngine,
) -> None:
    shuffled = OrderChoice("shuffled", seed=5)
    [order] = orders(shuffled, len(DOCUMENTS))
    assert order not in ([0, 1, 2, 3], [3, 2, 1, 0])
    found = scores(engine, shuffled)
    assert found == scores(engine, shuffled)
    assert found != scores(engine, OrderChoice("best-last"))
    assert found != scores(engine, OrderChoice("best-first"))


def test_an_order_given_by_the_caller_outranks_the_profile_s(engine: AttentionEngine) -> None:
    reranker = AttentionReranker(engine, ICR)
    given = reranker.layout("capital", DOCUMENTS, order=[1, 3, 0, 2])
    assert [text[:3] for text in texts(engine.tokenizer, given)] == ["[3]", "[1]", "[4]", "[2]"]


def test_document_tokens_cut_every_document_to_the_budget_and_count(tokenizer: Any) -> None:
    whole = build(tokenizer, icr(span="text"))
    lengths = [end - first for first, end in whole.spans]
    assert whole.tokens_cut == (0,) * 4
    # The shortest document fits whole, so the budget takes nothing from it.
    budget = min(lengths)
    cut = build(tokenizer, icr(span="text", document_tokens=budget))
    assert [end - first for first, end in cut.spans] == [budget] * 4
    assert list(cut.tokens_cut) == [length - budget for length in lengths]
    assert 0 in cut.tokens_cut
    assert max(cut.tokens_cut) > 0
    for (first, end), (whole_first, _) in zip(cut.spans, whole.spans, strict=True):
        kept = whole.shared[whole_first : whole_first + budget]
        assert cut.shared[first:end] == kept, "the beginning is kept"


def test_words_tokens_and_context_add_up_in_tokens_cut(tokenizer: Any) -> None:
    documents = [Document("long", " ".join(f"w{i}" for i in range(60))), Document("short", "w")]
    [whole, _] = [e - f for f, e in build(tokenizer, icr(span="text"), documents).spans]
    both = icr(span="text", document_words=30, document_tokens=40)
    [first, end], _ = build(tokenizer, both, documents).spans
    by_profile = build(tokenizer, both, documents)
    assert end - first == 40
    assert by_profile.tokens_cut == (whole - 40, 0)
    tight = build(tokenizer, both, documents, context=by_profile.length - 7)
    assert tight.length == by_profile.length - 7
    assert tight.tokens_cut == (whole - 33, 0)


def test_a_title_separator_of_none_leaves_titles_out(tokenizer: Any) -> None:
    assert texts(tokenizer, build(tokenizer, icr(title_separator=": ")))[0] == (
        "[4] Paris: Paris is the capital of France."
    )
    without = build(tokenizer, icr(title_separator=None))
    assert texts(tokenizer, without)[0] == "[4] Paris is the capital of France."
    untitled = [Document(d.id, d.text) for d in DOCUMENTS]
    assert without == build(tokenizer, ICR, untitled)


def test_a_span_is_the_text_or_the_text_and_the_next_token(tokenizer: Any) -> None:
    marked, text, following = (
        build(tokenizer, icr(span=span)) for span in ("marker-and-text", "text", "text-and-next")
    )
    assert marked.shared == text.shared == following.shared, "spans do not change the prompt"
    assert [tokenizer.decode(text.shared[a:b]) for a, b in text.spans] == [
        " Paris\nParis is the capital of France.",
        " The mitochondrion is the powerhouse of the cell.",
        " Berlin\nBerlin is the capital of Germany.",
        " A capital is the top of a column.",
    ]
    newline = tokenizer("\n")["input_ids"]
    for (_, end), (first, last), (next_first, next_last) in zip(
        marked.spans, text.spans, following.spans, strict=True
    ):
        assert end == last
        assert (next_first, next_last) == (first, last + 1)
        assert following.shared[last:next_last] == newline


def test_without_a_separator_the_next_token_never_leaves_the_shared_part(tokenizer: Any) -> None:
    frame = Frame("tight", prefix="<|im_start|>", suffix="<|im_end|>", separator="")
    layout = build(tokenizer, icr(span="text-and-next"), frame=frame)
    assert max(end for _, end in layout.spans) == len(layout.shared)
    neighbours = pairwise(sorted(layout.spans))
    assert all(end <= first for (_, end), (first, _) in neighbours)


def test_a_frame_of_the_profile_replaces_the_model_s(engine: AttentionEngine) -> None:
    own = AttentionReranker(engine, ICR)
    frame = Frame("mine", prefix="<|im_start|>system ", suffix=" Answer:", separator=" ## ")
    mine = AttentionReranker(engine, icr(frame=frame))
    assert own.frame.name == "chatml"
    assert mine.frame == frame
    documents = [Document("x", "one Answer: two"), Document("y", "three")]
    layout = mine.layout("why", documents)
    decode = engine.tokenizer.decode
    assert decode(layout.shared) == (
        "<|im_start|>system  Here are some paragraphs: ## "
        # A document cannot spell the frame's own mark.
        "[1] three ## [2] one A nswer: two ## "
    )
    assert decode(layout.tails[0].ids) == (f"{ICR.prompt.instruction} ## Query: why Answer:")
    assert sorted(mine.rank("why", documents).ids) == ["x", "y"]
    found = [{r.id: r.score for r in each.rank("why", DOCUMENTS)} for each in (own, mine)]
    assert found[0] != found[1]


def test_a_layout_without_documents_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InvalidInputError, match="no documents"):
        build(tokenizer, ICR, [])
