"""Evaluation sets stay out of training: queries and documents, by id, by text and nearly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.training_fixtures import collection

from ranklens.data.load import load_collection
from ranklens.data.records import Document
from ranklens.rerank.training.building import BuildSettings, Corpus, gather
from ranklens.rerank.training.exclusion import Excluded, KeptOut, Match, text_key

LONG = " ".join(f"word{n}" for n in range(40))
KEPT = collection(
    "test",
    {"d1": "The judged answer.", "d2": LONG, "d3": "unjudged text", "d4": "short and judged"},
    {"q1": "What is  it?", "q2": "second question"},
    {"q1": {"d1": 1, "d2": 0}, "q2": {"d4": 1, "gone": 1}},
)


def documents(**texts: str) -> dict[str, Document]:
    return {name: Document(name, text) for name, text in texts.items()}


def test_texts_are_compared_without_case_punctuation_and_spaces() -> None:
    assert text_key("What\u2028is,  IT?! Straße_x") == text_key("what is it strasse x")
    assert text_key("東京。は日本") == "東 京 は 日 本"
    assert text_key(" -- ") == ""


def test_queries_go_by_id_within_a_collection_and_by_text_everywhere() -> None:
    kept = KeptOut([KEPT])
    other = collection("other", {"x": "x"}, {"q1": "another", "n": "what is IT", "m": "mine"})
    assert kept.queries(other) == {"n": Match("test", "text")}
    same = collection("test", {"x": "x"}, {"q1": "another", "m": "mine"})
    assert kept.queries(same) == {"q1": Match("test", "id")}


def test_documents_go_by_id_within_a_corpus() -> None:
    kept = KeptOut([KEPT])
    corpus = KEPT.documents.fingerprint()
    mine = documents(d1="rewritten", d3="unjudged text", gone="who knows")
    assert kept.documents(mine, corpus) == {"d1": Match("test", "id"), "gone": Match("test", "id")}
    # Another corpus that counts its documents alike.
    assert kept.documents(mine, "sha256:other") == {}
    # Another file of the same corpus: ids stand for the same texts, but for one.
    part = documents(d2=LONG, d4="short and JUDGED", d1="mended")
    ways = {name: match.way for name, match in kept.documents(part, "sha256:other").items()}
    assert ways == {"d1": "id", "d2": "id", "d4": "id"}


def test_documents_go_by_text_and_by_long_runs_of_words() -> None:
    kept = KeptOut([KEPT])
    words = LONG.split()
    mine = documents(
        equal="the JUDGED answer",
        inside=" ".join(words[5:27]).upper(),
        around=f"Before it all. {LONG} And behind.",
        overlaps=" ".join(words[20:]) + " and then something else",
        shares=" ".join(words[21:]) + " and then something else",
        holds="it holds the judged answer too",
        empty="",
    )
    ways = {name: match.way for name, match in kept.documents(mine, "sha256:other").items()}
    assert ways == {"equal": "text", "inside": "near", "around": "near", "overlaps": "near"}


def test_what_is_kept_out_is_told_and_is_in_no_list() -> None:
    kept, corpus = KeptOut([KEPT]), Corpus()
    excluded = Excluded(kept.names)
    train = collection(
        "train",
        {"e": "the judged answer", "f": "free", **{f"n{n}": f"{n} {LONG}" for n in range(7)}},
        {"n": "what is it", "m": "mine"},
        {"n": {"f": 1}, "m": {"e": 1, "f": 2, "n0": 0}},
    )
    candidates = {"m": ["e", "n1", "f"], "n": ["f"]}
    material = gather(train, candidates, corpus, BuildSettings(), kept, excluded)
    assert [query.id for query in material.queries] == ["m"]
    assert material.grades == {"m": {"f": 2}}
    assert material.candidates == {"m": ("f",)}
    assert (list(material.random), list(corpus.documents)) == (["f"], ["f"])
    assert list(excluded.lines()) == [
        "kept out for test: 1 documents of train by text (e)",
        "kept out for test: 7 documents of train by a run of 20 words (n0, n1, n2, n3, n4, …)",
        "kept out for test: 1 queries of train by text (n)",
    ]
    told = excluded.to_dict()["test"]
    assert told["queries of train by text"] == {"count": 1, "first": ["n"]}
    assert next(Excluded(["t"]).lines()).startswith("kept out for t: nothing")


def test_nothing_of_trec_dl_2019_is_in_lists_of_later_years(
    shared_collection: Callable[[str], Path],
) -> None:
    evaluation = load_collection(str(shared_collection("trec-dl-2019")))
    kept, corpus, settings = KeptOut([evaluation]), Corpus(), BuildSettings(random=0)
    queries: set[str] = set()
    for name in ("trec-dl-2021", "trec-dl-2022"):
        loaded = load_collection(str(shared_collection(name)))
        run = loaded.candidates("bm25")
        candidates = {query: [doc.doc_id for doc in docs[:10]] for query, docs in run.items()}
        excluded = Excluded(kept.names)
        material = gather(loaded, candidates, corpus, settings, kept, excluded)
        queries |= {text_key(query.text) for query in material.queries}
        if name == "trec-dl-2021":
            assert any("by text" in line for line in excluded.lines()), "there was one"
    judged = {name for grades in evaluation.qrels.values() for name in grades}
    texts = {text_key(d.full_text) for d in evaluation.documents.get_many(judged).values()}
    trained = {text_key(document.full_text) for document in corpus.documents.values()}
    assert len(trained) > 5000
    assert not trained & texts
    assert not queries & {text_key(query.text) for query in evaluation.queries}
    # Not by the same means: containment, looked for by search.
    long = [f" {text} " for text in texts if len(text.split()) >= 60]
    sample = [text for text in sorted(trained) if len(text.split()) >= 20][::40]
    assert not [one for one in sample for text in long if f" {one} " in text]


@pytest.mark.parametrize("hostile", ["\ud800", "\x00" * 50, "́" * 5000, "!" * 100_000])
def test_hostile_texts_are_compared_too(hostile: str) -> None:
    kept = KeptOut([collection("test", {"d": hostile}, {"q": "q"}, {"q": {"d": 1}})])
    found = kept.documents(documents(a=hostile, b="plain"), "sha256:other")
    assert set(found) <= {"a"}
