import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.load import load_collection
from ranklens.data.records import Document, Query
from ranklens.eval.measures import evaluate
from ranklens.retrieval.analysis import LuceneAnalyzer
from ranklens.retrieval.bm25 import BM25Retriever


def indexed(*texts: str, k1: float = 0.9, b: float = 0.4) -> BM25Retriever:
    """Return an index of texts whose ids are a, b, c, …"""
    retriever = BM25Retriever(k1=k1, b=b)
    retriever.index(Document(chr(97 + index), text) for index, text in enumerate(texts))
    return retriever


def found(retriever: BM25Retriever, text: str, k: int = 100) -> dict[str, float]:
    return {doc.doc_id: doc.score for doc in retriever.search([Query("q", text)], k)["q"]}


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Caresses PONIES relational", ["caress", "poni", "relat"]),
        ("the dog's bone, the dogs’ and dog’s", ["dog", "bone", "dog", "dog"]),
        ("It's John's", ["john"]),
        ("I don't know", ["i", "don't", "know"]),
        ("U.S.A. and example.com.", ["u.s.a", "example.com"]),
        ("'quoted' ''twice''", ["quot", "twice"]),
        ("3.14 in 1999, 7mg", ["3.14", "1999", "7mg"]),
        ("snake_case state-of-the-art", ["snake_cas", "state", "art"]),
        ("to be or not to be", []),
        ("", []),
        (" \t\n.,;!?-'", []),
        ("Привет мир", ["привет", "мир"]),
        ("naïve CAFÉ", ["naïv", "café"]),
        ("cats cats", ["cat", "cat"]),
    ],
)
def test_terms_are_those_of_an_english_analyser(text: str, terms: list[str]) -> None:
    assert LuceneAnalyzer()(text) == terms


@pytest.mark.parametrize(
    "text", ["日本語のテキスト", "हिन्दी", "العربية", "👩‍👩‍👧", "\ud800 x", "\x00"]
)
def test_any_text_is_analysed_alike_twice(text: str) -> None:
    analyzer = LuceneAnalyzer()
    assert analyzer(text) == analyzer(text) == LuceneAnalyzer()(text)


def reference(texts: dict[str, str], query: str, k1: float, b: float) -> dict[str, float]:
    """Compute the formula of BM25Retriever's docstring term by term."""
    analyzer = LuceneAnalyzer()
    terms = {doc_id: analyzer(text) for doc_id, text in texts.items()}
    average = sum(map(len, terms.values())) / len(terms)
    scores = {}
    for doc_id, words in terms.items():
        score = 0.0
        for term in analyzer(query):
            df = sum(1 for other in terms.values() if term in other)
            tf = words.count(term)
            idf = math.log(1 + (len(terms) - df + 0.5) / (df + 0.5))
            if tf:
                score += idf * tf / (tf + k1 * (1 - b + b * len(words) / average))
        if score > 0:
            scores[doc_id] = score
    return scores


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.5, 0.75), (0.0, 0.0), (2.0, 1.0)])
def test_scores_follow_the_formula(k1: float, b: float) -> None:
    generator = random.Random(7)
    words = ["alpha", "beta", "gamma", "delta", "omega", "the", "of"]
    texts = {
        f"d{number:02}": " ".join(generator.choices(words, k=generator.randint(1, 30)))
        for number in range(40)
    }
    # Neither an empty text nor one of stop words alone is left out of N and the average.
    texts |= {"empty": "", "stopped": "the of"}
    retriever = BM25Retriever(k1=k1, b=b)
    retriever.index(Document(doc_id, text) for doc_id, text in texts.items())
    for query in ("alpha", "beta omega", "gamma gamma delta", "alpha unknown the"):
        assert found(retriever, query) == pytest.approx(reference(texts, query, k1, b), abs=1e-5)


def test_the_title_counts() -> None:
    retriever = BM25Retriever()
    retriever.index([Document("a", "bark", "Dogs"), Document("b", "purr", "Cats")])
    assert found(retriever, "dog").keys() == {"a"}


def test_results_are_best_first_and_cut_at_k() -> None:
    retriever = indexed("x y y y y", "x x x", "x x y y y y y y", "y")
    ranked = list(found(retriever, "x"))
    assert ranked == ["b", "c", "a"]
    assert list(found(retriever, "x", k=2)) == ["b", "c"]
    assert list(found(retriever, "x", k=1)) == ["b"]


def test_ties_are_ordered_by_id_also_at_the_cut() -> None:
    ids = [f"d{number:02}" for number in range(30)]
    shuffled = random.Random(1).sample(ids, len(ids))
    retriever = BM25Retriever()
    retriever.index(
        [Document("best", "x x x"), *(Document(doc_id, "x y z") for doc_id in shuffled)]
    )
    for k in (1, 2, 10, 30, 31, 1000):
        assert list(found(retriever, "x", k)) == ["best", *ids][:k]


def test_a_query_without_a_known_term_finds_nothing() -> None:
    run = indexed("cats", "dogs").search(
        [Query("1", "unicorn"), Query("2", "the"), Query("3", ""), Query("4", "cat")], 10
    )
    assert [len(run[query_id]) for query_id in ("1", "2", "3", "4")] == [0, 0, 0, 1]
    assert run.tag == "bm25"


@pytest.mark.parametrize("texts", [[], [""], ["", "the of", "..."]])
def test_nothing_to_index_is_an_error(texts: list[str]) -> None:
    with pytest.raises(InvalidInputError, match=f"nothing to index: {len(texts)} documents"):
        indexed(*texts)


@pytest.mark.parametrize("k1", [-0.1, math.nan, math.inf])
def test_a_bad_k1_is_refused(k1: float) -> None:
    with pytest.raises(UsageError, match="k1 must be a finite number of at least 0, got"):
        BM25Retriever(k1=k1)


@pytest.mark.parametrize("b", [-0.1, 1.1, math.nan])
def test_a_bad_b_is_refused(b: float) -> None:
    with pytest.raises(UsageError, match="b must lie between 0 and 1, got"):
        BM25Retriever(b=b)


@pytest.mark.parametrize("k", [0, -1])
def test_a_bad_k_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match=f"k must be at least 1, got {k}"):
        found(indexed("cats"), "cats", k)


def test_a_search_needs_an_index() -> None:
    with pytest.raises(UsageError, match="search before index"):
        found(BM25Retriever(), "cats")


def test_a_second_index_replaces_the_first_and_a_failed_one_does_not() -> None:
    retriever = indexed("cats purr", "cats sleep", "dogs")
    retriever.index([Document("new", "dogs bark")])
    assert found(retriever, "cats") == {}
    before = found(retriever, "dogs")
    assert before.keys() == {"new"}
    with pytest.raises(InvalidInputError, match="nothing to index"):
        retriever.index([Document("empty", "the")])
    assert found(retriever, "dogs") == before


def test_two_indexes_of_the_same_documents_agree() -> None:
    texts = ["cats and dogs", "dogs bark at cats", "fish swim"]
    assert found(indexed(*texts), "cats bark") == found(indexed(*texts), "cats bark")


def test_scifact(shared_collection: Callable[[str], Path]) -> None:
    collection = load_collection(str(shared_collection("scifact")))
    retriever = BM25Retriever()
    retriever.index(collection.documents)
    run = retriever.search(collection.queries, 100)
    # Lucene's own BM25 (k1=0.9, b=0.4, title and text in one field) reaches 0.6789.
    assert 0.66 < evaluate(collection.qrels, run, ["nDCG@10"]).measures["nDCG@10"].value < 0.70
