"""Documents found by their passages, against a search of every passage."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.parts import COMBINE, Combine, Passages
from ranklens.data.passages import split_passages
from ranklens.data.records import Document, Query
from ranklens.data.runs import Run
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.passages import PassageRetriever


class Asked(BM25Retriever):
    """BM25 that keeps what it is asked: how many queries, and how deep."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int]] = []

    def search(self, queries: Sequence[Query], k: int) -> Run:
        self.asked.append((len(queries), k))
        return super().search(queries, k)


def corpus(seed: int) -> list[Document]:
    rng = random.Random(seed)
    words = ["oak", "elm", "fir", "ash", "yew", "the"]
    documents = []
    for number in range(25):
        sentences = [
            " ".join(rng.choices(words, k=rng.randint(2, 5))).capitalize() + "."
            for _ in range(rng.choice([0, 1, 3, 12]))
        ]
        documents.append(Document(f"{number}:{number % 3}", " ".join(sentences), "Tree"))
    return documents


def by_passage(documents: Iterable[Document], query: str, size: int) -> dict[str, list[float]]:
    """Return the scores of every passage, in order and 0 for no match, by document."""
    texts, owners = [], []
    for document in documents:
        ranges = split_passages(document.text, size, size // 4) or [(0, 0)]
        texts += [document.text[a:b] for a, b in ranges]
        owners += [document.id] * len(ranges)
    plain = BM25Retriever()
    plain.index(Document(f"p{n}", text, "Tree") for n, text in enumerate(texts))
    found = {d.doc_id: d.score for d in plain.search([Query("q", query)], len(texts))["q"]}
    scores: dict[str, list[float]] = {}
    for number, owner in enumerate(owners):
        scores.setdefault(owner, []).append(found.get(f"p{number}", 0.0))
    return scores


@pytest.mark.parametrize("how", ["max", "sum"])
@pytest.mark.parametrize("query", ["oak", "elm fir", "tree", "yew yew ash", "nothing"])
def test_every_document_scores_as_its_passages(how: Combine, query: str) -> None:
    documents = corpus(1)
    retriever = PassageRetriever(BM25Retriever(), Passages(6, 1, how))
    retriever.index(iter(documents))
    whole = max if how == "max" else math.fsum
    scores = {d: whole(s) for d, s in by_passage(documents, query, 6).items() if any(s)}
    ranked = sorted(scores, key=lambda d: (-scores[d], d))
    # So deep that no passage is missing from a sum.
    found = retriever.search([Query("q", query)], 100)
    assert [d.doc_id for d in found["q"]] == ranked
    assert {d.doc_id: d.score for d in found["q"]} == pytest.approx(scores, abs=1e-6)
    assert found.tag == f"bm25-{how}"


def test_max_is_exact_at_every_k_also_where_scores_tie() -> None:
    documents = corpus(2)
    retriever = PassageRetriever(BM25Retriever(), Passages(6, 1))
    retriever.index(documents)
    queries = [Query(text, text) for text in ("oak", "tree", "fir ash", "nothing")]
    full = retriever.search(queries, 100)
    assert len(full["tree"]) == len(documents)
    for k in range(1, 26):
        found = retriever.search(queries, k)
        assert {q: found[q] for q in found} == {q: full[q][:k] for q in full}


def test_a_sum_is_of_the_passages_that_a_search_reaches() -> None:
    documents = [Document("a", "Oak one. Oak two. Oak three. Oak four. Oak five. Oak six.")]
    retriever = PassageRetriever(BM25Retriever(), Passages(2, 0, "sum"))
    retriever.index(documents)
    of_each = by_passage(documents, "oak", 2)["a"]
    assert len(of_each) == 6
    (found,) = retriever.search([Query("q", "oak")], 1)["q"]
    assert found.score == pytest.approx(math.fsum(of_each[:4]), abs=1e-6)
    (found,) = retriever.search([Query("q", "oak")], 2)["q"]
    assert found.score == pytest.approx(math.fsum(of_each), abs=1e-6)


def test_first_reads_the_first_passage_alone() -> None:
    documents = [
        Document("early", "Oak trees. Elm and fir. Ash and yew."),
        Document("late", "Elm and fir. Ash and yew. Oak trees."),
    ]
    retriever = PassageRetriever(BM25Retriever(), Passages(3, 0, "first"))
    retriever.index(documents)
    found = retriever.search([Query("oak", "oak"), Query("yew", "yew")], 5)
    assert [d.doc_id for d in found["oak"]] == ["early"]
    assert found["yew"] == ()


@pytest.mark.parametrize("how", COMBINE)
def test_one_document_of_fifty_passages_leaves_room_for_others(how: Combine) -> None:
    long = Document("long", "Oak oak oak. " * 50)
    others = [Document(f"{n}", f"Oak and elm {n} fir.") for n in range(6)]
    inner = Asked()
    retriever = PassageRetriever(inner, Passages(3, 0, how))
    retriever.index([long, *others])
    queries = [Query("a", "oak"), Query("b", "fir"), Query("c", "2")]
    found = retriever.search(queries, 4)
    assert len(found["a"]) == 4
    assert len({d.doc_id for d in found["a"]}) == 4
    assert found["a"][0].doc_id == "long"
    assert [d.doc_id for d in found["c"]] == (["2"] if how != "first" else [])
    if how == "max":
        assert [d.doc_id for d in found["a"]] == ["long", "0", "1", "2"]
        # Only the query that wants them asks for more: 50 passages come before the others'.
        assert inner.asked == [(3, 16), (1, 32), (1, 64)]


def test_titles_stand_on_every_passage_and_ids_may_be_anything() -> None:
    ids = ["a", "0:a", "1:a", ":", "a:0", "::", "a b/é\\n"]
    documents = [Document(i, f"Elm {n}. Fir {n}. Yew {n}.", "Oak") for n, i in enumerate(ids)]
    retriever = PassageRetriever(BM25Retriever(), Passages(2, 0, "sum"))
    retriever.index(documents)
    found = retriever.search([Query("q", "oak"), *(Query(i, str(n)) for n, i in enumerate(ids))], 9)
    assert [d.doc_id for d in found["q"]] == sorted(ids)
    for doc_id in ids:
        assert [d.doc_id for d in found[doc_id]] == [doc_id]


def test_documents_stream_and_can_be_read_again_where_they_are_no_iterator() -> None:
    seen: list[object] = []

    class Keeps(BM25Retriever):
        def index(self, documents: Iterable[Document]) -> None:
            seen.append([[d.id for d in documents] for _ in range(2)])

    documents = [Document("a", "One two. Three four."), Document("b", "")]
    retriever: Retriever = PassageRetriever(Keeps(), Passages(2, 0))
    retriever.index(documents)
    retriever.index(iter(documents))
    ids = ["0:a", "1:a", "0:b"]
    assert seen == [[ids, ids], [ids, []]]


def test_errors_are_the_inner_retrievers() -> None:
    retriever = PassageRetriever(BM25Retriever(), Passages())
    with pytest.raises(UsageError, match="search before index"):
        retriever.search([Query("q", "x")], 1)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        retriever.search([Query("q", "x")], 0)
    with pytest.raises(InvalidInputError, match="nothing to index: 1 documents"):
        retriever.index([Document("a", "")])
    retriever.close()
