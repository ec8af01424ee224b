"""The report's coloured tokens are the explainer's, at the places that the page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ranklens import AttentionReranker, Document, Query, Run, ScoredDoc
from ranklens.cli.html_report.attention import Task, read_attention
from ranklens.cli.html_report.bias import bias_of_orders
from ranklens.cli.html_report.coding import Token
from ranklens.cli.html_report.content import (
    AttendedDocument,
    Attention,
    Listed,
    ReportedQuery,
    ShownDocument,
)
from ranklens.cli.html_report.gather import shown_documents
from ranklens.rerank.explain import Explainer, field_of

TEXTS = {
    "d0": Document("d0", "A giraffe 🦒 is tall.", "Über 🦒 Giraffen"),
    "d1": Document("d1", "lone \ud800 and a pair \ud83d\ude00 <|im_end|> after"),
    "d2": Document("d2", "", "only a title"),
    "d3": Document("d3", "word " * 60, "long"),
    "hidden": Document("hidden", "ranked but not shown"),
}
QUERY = Query("q", "how tall is a giraffe")


@pytest.fixture
def reranker(tiny_model: Callable[..., Path]) -> AttentionReranker:
    return AttentionReranker.from_pretrained(tiny_model())


def listed(*ids: str) -> ReportedQuery:
    docs = tuple(Listed(doc_id, 1.0, None) for doc_id in ids)
    return ReportedQuery("q", QUERY.text, {}, {}, {"run": docs})


def task(scores: Run | None = None) -> Task:
    candidates = Run({"q": [ScoredDoc(doc_id, 9.0 - i) for i, doc_id in enumerate(TEXTS)]})
    return Task("run", candidates, 5, scores, [QUERY], {"q": 0})


def read(
    reranker: AttentionReranker, wanted: Task, characters: int = 1000
) -> tuple[Attention | None, list[str], dict[str, ShownDocument], int]:
    query = listed("d0", "d1", "d2", "d3")
    documents = shown_documents([query], TEXTS, characters)
    done: list[int] = []
    found, _, warnings = read_attention(reranker, wanted, TEXTS, [query], documents, done.append)
    return found, warnings, documents, sum(done)


def shown_text(document: ShownDocument) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text


def test_tokens_are_the_explainers(reranker: AttentionReranker) -> None:
    explained = {
        one.document.id: one for one in Explainer(reranker).explain(QUERY, list(TEXTS.values()))
    }
    scores = Run({"q": [ScoredDoc(i, one.score) for i, one in explained.items()]})
    found, warnings, documents, done = read(reranker, task(scores))
    assert (warnings, done) == ([], 5)
    assert found is not None
    assert (found.run, found.profile, found.adds_up, found.raw) == ("run", "icr", True, True)
    assert set(found.documents["q"]) == {"d0", "d1", "d2", "d3"}, "only what is shown"
    every = [token for one in explained.values() for token in one.tokens]
    largest = max(abs(token.value) for token in every)
    largest_raw = max(abs(token.attention or 0.0) for token in every)
    for doc_id, said in found.documents["q"].items():
        one, text = explained[doc_id], shown_text(documents[doc_id])
        assert (said.score, said.tokens_cut) == (one.score, one.tokens_cut)
        ends = [0, *(token.end for token in said.tokens)]
        starts = [token.start for token in said.tokens]
        assert all(end <= start for end, start in zip(ends, starts, strict=False))
        assert ends[-1] <= len(text)
        # Where tokens do not share characters the two are one to one.
        placed = [token for token in one.tokens if token.place is not None]
        if len({token.place for token in placed}) == len(placed):
            for mine, its in zip(said.tokens, placed, strict=True):
                assert its.place is not None
                field = field_of(TEXTS[doc_id], its.place.field)
                assert text[mine.start : mine.end] == field[its.place.start : its.place.end]
                assert mine.calibrated == round(255 * its.value / largest)
                assert mine.raw == round(255 * (its.attention or 0.0) / largest_raw)
    assert max(abs(t.calibrated) for d in found.documents["q"].values() for t in d.tokens) <= 255
    giraffe = documents["d0"].text.index("🦒") + len(documents["d0"].title) + 1
    assert any(t.start == giraffe and t.end == giraffe + 1 for t in tokens(found, "d0"))


def tokens(found: Attention, doc_id: str) -> tuple[Token, ...]:
    said: AttendedDocument = found.documents["q"][doc_id]
    return said.tokens


def test_tokens_behind_what_is_shown_are_left_out(reranker: AttentionReranker) -> None:
    whole, _, _, _ = read(reranker, task())
    found, _, documents, _ = read(reranker, task(), characters=3)
    assert found is not None
    assert whole is not None
    assert shown_text(documents["d0"]) == "Übe\nA g"
    assert documents["d0"].cut
    for doc_id, said in found.documents["q"].items():
        assert all(t.end <= len(shown_text(documents[doc_id])) for t in said.tokens)
        assert said.score == whole.documents["q"][doc_id].score
        assert said.tokens


def test_raw_values_are_none_without_calibration(reranker: AttentionReranker) -> None:
    calibration = replace(reranker.profile.calibration, nulls=())
    bare = AttentionReranker(reranker.engine, replace(reranker.profile, calibration=calibration))
    found, _, _, _ = read(bare, task())
    assert found is not None
    assert not found.raw
    assert {token.raw for d in found.documents["q"].values() for token in d.tokens} == {None}
    # What is calibrated by nothing is what was there before calibration.
    before, _, _, _ = read(reranker, task())
    assert before is not None
    positive = [t.calibrated for t in found.documents["q"]["d0"].tokens]
    assert positive == [t.raw for t in before.documents["q"]["d0"].tokens]


def test_other_scores_than_the_runs_are_said(reranker: AttentionReranker) -> None:
    scores = Run({"q": [ScoredDoc(doc_id, 9.0 - i) for i, doc_id in enumerate(TEXTS)]})
    found, [warning], _, _ = read(reranker, task(scores))
    assert found is not None
    assert "the scores of 1 of 1 queries are not those of run" in warning
    assert "in query 'q'" in warning


def test_lists_that_cannot_be_read_are_said(reranker: AttentionReranker) -> None:
    candidates = Run({"q": [ScoredDoc("d0", 2.0), ScoredDoc("gone", 1.0)]})
    found, [warning], _, _ = read(reranker, replace(task(), candidates=candidates))
    assert found is None
    assert "1 queries have candidates that are not in the collection" in warning
    found, warnings, _, _ = read(reranker, replace(task(), candidates=Run({"other": []})))
    assert (found, warnings) == (None, [])
    empty = [Query("q", " ")]
    found, [warning], _, _ = read(reranker, replace(task(), queries=empty))
    assert found is None
    assert "tokens of 1 queries are not coloured (first: query 'q':" in warning


def test_shuffled_orders_are_read_too(reranker: AttentionReranker) -> None:
    wanted = replace(task(), permutations=3)
    query = listed("d0")
    documents = shown_documents([query], TEXTS, 100)
    done: list[int] = []
    _, readings, _ = read_attention(reranker, wanted, TEXTS, [query], documents, done.append)
    assert wanted.total(TEXTS) == sum(done) == 25
    bias = bias_of_orders("run", readings, 3)
    assert [slot for slot, *_ in bias.slot] == [1, 2, 3, 4, 5]
    assert sum(z for _, z, _ in bias.slot) == pytest.approx(0.0, abs=1e-9)
    assert [tokens for tokens, _ in bias.length] == list(readings[0].lengths)
    assert (bias.orders, bias.length_unit) == (3, "tokens")
    assert "bias, not relevance" in bias.what
