"""Splitting texts at sentence ends, and ranking documents by their passages."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens import AttentionReranker, Document
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.parts import Parts, Passages, combine, split
from ranklens.data.passages import count_words, sentences, split_passages
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.long_lists import LongLists
from ranklens.rerank.profile_file import load_profile

MakeModel = Callable[..., Path]
ICR = load_profile("icr")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is. Two was!  Three?", ["One is.", "Two was!", "Three?"]),
        ("It has approx. five of 3.14 e.g. here.", ["It has approx. five of 3.14 e.g. here."]),
        ('He said "stop." Then left.', ['He said "stop."', "Then left."]),
        ("A heading\n\nand a text\nin lines", ["A heading", "and a text\nin lines"]),
        ("end of one.\n \nnext one", ["end of one.", "next one"]),
        ("东京是首都。京都呢？好！", ["东京是首都。", "京都呢？", "好！"]),
        ("Wait... What?! Yes", ["Wait...", "What?!", "Yes"]),
        ("  \n\n \t", []),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert [text[a:b] for a, b in sentences(text)] == expected


def test_passages_end_at_sentences_and_overlap() -> None:
    text = "One two three. Four five. Six seven eight. Nine ten. Eleven."
    assert [text[a:b] for a, b in split_passages(text, 6, 3)] == [
        "One two three. Four five.",
        "Four five. Six seven eight.",
        "Six seven eight. Nine ten. Eleven.",
    ]
    assert [text[a:b] for a, b in split_passages(text, 6)] == [
        "One two three. Four five.",
        "Six seven eight. Nine ten. Eleven.",
    ]


def test_a_text_that_fits_is_one_passage_and_a_blank_one_none() -> None:
    text = " One. Two. "
    assert split_passages(text, 2) == [(1, 10)]
    assert split_passages(" \n ", 2) == []


def test_a_sentence_longer_than_the_window_is_halved_at_white_space() -> None:
    text = "a b c d e f g h i j"
    parts = [text[a:b] for a, b in split_passages(text, 3)]
    assert " ".join(parts) == text
    assert all(count_words(part) <= 3 for part in parts)


@pytest.mark.parametrize("seed", range(20))
def test_passages_cover_the_text_within_their_size(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices("ab. !\n。é𝕏\t", k=400))
    window = rng.randint(1, 30)
    overlap = rng.randrange(window)
    ranges = split_passages(text, window, overlap, len)
    covered: set[int] = set()
    for first, end in ranges:
        assert 0 <= first < end <= len(text)
        covered.update(range(first, end))
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    assert [a for a, _ in ranges] == sorted({a for a, _ in ranges})
    assert [b for _, b in ranges] == sorted({b for _, b in ranges})
    # Sizes are those of the sentences, without the white space between them.
    assert all(len("".join(text[a:b].split())) <= window for a, b in ranges)


@pytest.mark.parametrize(
    "unit", ["!", ".", "x", "\n", "\n ", ". ", "。", ".)", " ", "a. ", "\n\t\n", '."'], ids=repr
)
def test_hostile_repetition_takes_linear_time(unit: str) -> None:
    # What follows keeps the run from ending as a sentence does at the end of a text.
    text = unit * (100_000 // len(unit)) + "x"
    began = time.perf_counter()
    split_passages(text, 200, 50)
    # A quadratic pass over so much takes minutes.
    assert time.perf_counter() - began < 10


@pytest.mark.parametrize(("window", "overlap"), [(0, 0), (5, 5), (5, -1)])
def test_sizes_that_make_no_sense(window: int, overlap: int) -> None:
    with pytest.raises(UsageError, match=r"at least 1|must lie in \[0, 5\)"):
        split_passages("a", window, overlap)
    with pytest.raises(UsageError, match=r"at least 1|must lie in \[0, 5\)"):
        Passages(window, overlap)


# Documents


def test_only_long_documents_are_split_and_empty_ones_keep_their_place() -> None:
    documents = [Document("s", " short "), Document("l", "One two. Three four. Five.", "T"),
                 Document("e", "")]  # fmt: skip
    parts = split(documents, Passages(3, 0), count_words)
    assert [(p.text, p.title) for p in parts.passages] == [
        (" short ", ""), ("One two.", "T"), ("Three four. Five.", "T"), ("", ""),
    ]  # fmt: skip
    assert list(parts.owners) == [0, 1, 1, 2]


def test_combining() -> None:
    parts = Parts([Document(str(n), "") for n in range(4)], [0, 1, 1, 2])
    assert combine([1.0, -2.0, 0.5, 3.0], parts, "max") == [1.0, 0.5, 3.0]
    assert combine([1.0, -2.0, 0.5, 3.0], parts, "sum") == [1.0, -1.5, 3.0]
    assert combine([1, 2, 3, 4], parts, "max") == [1.0, 3.0, 4.0]
    assert combine([1.0, -2.0, 0.5, 3.0], parts, "first") == [1.0, -2.0, 3.0]


def test_first_leaves_the_rest_unread() -> None:
    documents = [Document("s", " short "), Document("l", " One two. Three four. Five."),
                 Document("e", "")]  # fmt: skip
    parts = split(documents, Passages(3, 2, "first"))
    assert [p.text for p in parts.passages] == [" short ", "One two.", ""]
    assert list(parts.owners) == [0, 1, 2]
    assert list(parts.unread) == [0, 3, 0]
    assert split(documents, Passages(3, 2)).unread == []


def test_first_ranks_by_the_first_passages_and_counts_the_rest_as_cut(
    tiny_model: MakeModel,
) -> None:
    engine = AttentionEngine.from_pretrained(tiny_model(), device="cpu", dtype="float32")
    text = "Paris is the capital. Berlin is not. " * 4
    documents = [Document("long", text), Document("short", "A cell.")]
    reranker = AttentionReranker(engine, ICR, passages=Passages(40, 10, "first"))
    tokens = reranker._pieces.text
    (first, end), *_ = split_passages(text, 40, 10, lambda part: len(tokens(part)))
    plain = AttentionReranker(engine, ICR)
    alone = plain.rank("b", [Document("long", text[first:end]), documents[1]])
    found = reranker.rank("b", documents)
    assert [(r.id, r.score) for r in found] == [(r.id, r.score) for r in alone]
    cut = {r.id: r.tokens_cut for r in found}
    assert cut == {"long": len(tokens(text[end:])), "short": 0}
    assert cut["long"] > 0


def test_a_document_scores_as_its_passages(tiny_model: MakeModel) -> None:
    engine = AttentionEngine.from_pretrained(tiny_model(), device="cpu", dtype="float32")
    text = "Paris is the capital. Berlin is not. " * 4
    documents = [Document("long", text), Document("short", "A cell.")]
    plain = AttentionReranker(engine, ICR)
    pieces = split(documents, Passages(40, 10), lambda part: len(plain._pieces.text(part)))
    assert len(pieces.passages) > 3
    apart = plain.rank(
        "capital", [dataclasses.replace(p, id=str(n)) for n, p in enumerate(pieces.passages)]
    )
    by_passage = {r.index: r.score for r in apart}
    of_long = [by_passage[n] for n, owner in enumerate(pieces.owners) if owner == 0]
    for how, whole in (("max", max), ("sum", sum)):
        reranker = AttentionReranker(engine, ICR, passages=Passages(40, 10, how))  # type: ignore[arg-type]
        scores = {r.id: r.score for r in reranker.rank("capital", documents)}
        assert scores["long"] == pytest.approx(whole(of_long), abs=1e-9)
        assert scores["short"] == by_passage[len(by_passage) - 1]
        assert all(type(score) is float for score in scores.values())


def test_short_documents_are_ranked_as_without(tiny_model: MakeModel) -> None:
    engine = AttentionEngine.from_pretrained(tiny_model(), device="cpu", dtype="float32")
    documents = ["Paris.", "", "A cell."]
    assert AttentionReranker(engine, ICR, passages=Passages()).rank("b", documents) == (
        AttentionReranker(engine, ICR).rank("b", documents)
    )


def test_a_long_document_is_read_to_its_end_in_several_prompts(tiny_model: MakeModel) -> None:
    engine = AttentionEngine.from_pretrained(tiny_model(max_position_embeddings=1200))
    documents = ["Paris is a capital. " * 200, "A cell."]
    whole = AttentionReranker(engine, ICR).rank("capital", documents)
    assert max(r.tokens_cut for r in whole) > 1000
    both = AttentionReranker(
        engine, ICR, long_lists=LongLists("anchors", document_tokens=200), passages=Passages(128)
    )
    ranking = both.rank("capital", documents)
    assert sorted(r.index for r in ranking) == [0, 1]
    assert [r.tokens_cut for r in ranking] == [0, 0]
    refusing = AttentionReranker(engine, ICR, passages=Passages(128))
    with pytest.raises(InvalidInputError, match=r"do not fit .*\(passages of 2 documents\)"):
        refusing.rank("capital", documents)


def test_passages_are_not_shortened_by_the_profile(tiny_model: MakeModel) -> None:
    """Indentation is many words and few tokens; a title comes on top of a passage's own."""
    engine = AttentionEngine.from_pretrained(tiny_model())
    code = Document("code", ("\n" + " " * 400 + "x = 1.") * 8, title="a title of some words")
    assert AttentionReranker(engine, ICR).rank("b", [code])[0].tokens_cut > 0
    limited = dataclasses.replace(ICR, prompt=dataclasses.replace(ICR.prompt, document_tokens=40))
    for profile in (ICR, limited):
        (found,) = AttentionReranker(engine, profile, passages=Passages(40, 0)).rank("b", [code])
        assert found.tokens_cut == 0
    with pytest.raises(UsageError, match="'max', 'sum' or 'first', got 'mean'"):
        Passages(combine="mean")  # type: ignore[arg-type]
