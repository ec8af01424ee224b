"""Which documents and queries training lists have, and what teachers say of them."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.stand_in_rerankers import Overlap
from tests.training_fixtures import collection

from ranklens.data.collection import Collection
from ranklens.data.encoder import Vectors
from ranklens.data.errors import InvalidInputError, RanklensError, UsageError
from ranklens.data.journal import open_journal
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.rerank.base import Ranking
from ranklens.rerank.bi_encoder import BiEncoderReranker
from ranklens.rerank.training import teachers
from ranklens.rerank.training.building import (
    BuildSettings,
    Corpus,
    Draft,
    complete,
    draft_lists,
    gather,
)
from ranklens.rerank.training.exclusion import Excluded, KeptOut
from ranklens.rerank.training.folder import write_lists
from ranklens.rerank.training.lists import TrainingList
from ranklens.rerank.training.teachers import check_teacher, run_scores, teach, work

pytest_plugins = ["dense_fixtures"]

SMALL = BuildSettings(documents=12, queries=4, lists_per_query=3, random=2, seed=5)
TEXTS = {f"d{number}": f"passage number {number}" for number in range(200)}
# Of a: 8 are relevant, 12 are not; of b: 2 of the same are.
GRADES = {
    "a": {f"d{n}": 1 + n % 3 for n in range(8)} | {f"d{n}": 0 for n in range(8, 20)},
    "b": {"d0": 2, "d1": 1, "d50": 0},
}
JUDGED = collection("judged", TEXTS, {"a": "what is a", "b": "where is b"}, GRADES)
UNJUDGED = collection("bare", TEXTS, {"c": "who is c"})
CANDIDATES = {"a": [f"d{n}" for n in range(4, 64)], "b": ["d1", "d50", "d51"]}


def drafted(
    collections: Sequence[tuple[Collection, dict[str, list[str]]]],
    settings: BuildSettings,
    *,
    taught: bool = False,
) -> tuple[list[Draft], Corpus, Counter[str]]:
    corpus, counts = Corpus(), Counter[str]()
    out = KeptOut([])
    materials = [
        gather(one, candidates, corpus, settings, out, Excluded([]))
        for one, candidates in collections
    ]
    return (
        list(draft_lists(materials, corpus, settings, taught=taught, counts=counts)),
        corpus,
        counts,
    )


def test_a_list_has_relevant_hard_and_random_documents() -> None:
    drafts, _, counts = drafted([(JUDGED, CANDIDATES)], SMALL)
    assert [draft.queries[0].id for draft in drafts] == ["judged:a"] * 3 + ["judged:b"] * 3
    assert not counts
    for draft in drafts[:3]:
        assert len(set(draft.documents)) == 12
        grades = [GRADES["a"].get(name) for name in draft.documents]
        relevant = [grade for grade in grades if grade]
        assert len(relevant) == 6, "half of them"
        others = [name for name in draft.documents if not GRADES["a"].get(name)]
        hard = [name for name in others if name in CANDIDATES["a"] or name in GRADES["a"]]
        assert (len(hard), len(others)) == (4, 6), "and two are of the corpus only"
    chosen = [set(draft.documents) for draft in drafts[:3]]
    assert len({frozenset(one) for one in chosen}) == 3, "other samples"
    # Two relevant documents, three known others: the corpus fills up.
    b = drafts[3]
    assert {"d0", "d1", "d50", "d51"} <= set(b.documents)
    assert len(b.documents) == 12


def test_order_says_nothing_and_near_candidates_are_likelier() -> None:
    many = dataclasses.replace(SMALL, lists_per_query=200, random=0)
    drafts, _, _ = drafted([(JUDGED, CANDIDATES)], many)
    of_a = [draft.documents for draft in drafts if draft.queries[0].query.id == "a"]
    places = [place for names in of_a for place, name in enumerate(names) if GRADES["a"].get(name)]
    assert np.mean(places) == pytest.approx(5.5, abs=0.3)
    count = Counter(name for names in of_a for name in names)
    near, far = (sum(count[f"d{n}"] for n in names) for names in (range(8, 18), range(54, 64)))
    assert near > 2 * far > 0
    assert count["d2"] > count["d0"], "grade 3 before grade 1"


def test_a_list_answers_other_queries_at_no_cost() -> None:
    drafts, corpus, _ = drafted([(JUDGED, CANDIDATES)], SMALL)
    for draft in drafts:
        asked = {one.query.id for one in draft.queries}
        for query in ("a", "b"):
            answered = any(GRADES[query].get(name, 0) > 0 for name in draft.documents)
            assert (query in asked) == answered
    [one] = [complete(draft, corpus, lambda draft, asked: {}) for draft in drafts[3:4]]
    joined = {query.id: query for query in one.queries}
    b = joined["judged:b"]
    assert b.grades == tuple(GRADES["b"].get(document.id) for document in one.documents)
    assert drafts[3].queries[0].query.id == "b", "its own query first"
    alone, _, _ = drafted([(JUDGED, CANDIDATES)], dataclasses.replace(SMALL, queries=1))
    assert all(len(draft.queries) == 1 for draft in alone)


def test_queries_of_other_collections_join_by_id_and_text() -> None:
    same = collection("same", {"d0": TEXTS["d0"]}, {"a": "said otherwise"}, {"a": {"d0": 1}})
    other = collection("other", {"d0": "another text"}, {"z": "of another"}, {"z": {"d0": 1}})
    settings = dataclasses.replace(SMALL, lists_per_query=20)
    drafts, corpus, _ = drafted([(JUDGED, CANDIDATES), (same, {}), (other, {})], settings)
    assert corpus.documents["other:d0"].text == "another text"
    for draft in drafts:
        asked = {one.id for one in draft.queries}
        assert ("same:a" in asked) <= ("d0" in draft.documents)
        assert ("other:z" in asked) <= ("other:d0" in draft.documents)
    assert any({"same:a", "judged:a"} <= {one.id for one in draft.queries} for draft in drafts)


def test_unjudged_queries_have_lists_for_teachers_only() -> None:
    candidates = {"c": [f"d{n}" for n in range(100, 180)]}
    drafts, _, counts = drafted([(UNJUDGED, candidates)], SMALL)
    assert not drafts
    assert counts == {"queries with nothing relevant, and no teacher": 1}
    drafts, corpus, _ = drafted([(UNJUDGED, candidates)], SMALL, taught=True)
    for draft in drafts:
        top = [name for name in draft.documents if 100 <= int(name[1:]) < 112]
        assert len(top) >= 6
        assert sum(name not in candidates["c"] for name in draft.documents) == 2
        one = complete(draft, corpus, lambda draft, asked: {"t": [0.5] * 12})
        assert one.queries[0].grades is None
        assert one.queries[0].teachers == {"t": (0.5,) * 12}


def test_equal_texts_are_there_once() -> None:
    texts = {"x": "The  same, text!", "y": "the same text", "z": "the same text.", "u": "else"}
    twice = collection("twice", texts, {"q": "q"}, {"q": {"x": 1, "y": 1}})
    [draft, *_], _, _ = drafted([(twice, {"q": ["z", "u"]})], SMALL)
    assert len(draft.documents) == 2
    assert "u" in draft.documents
    lone = collection("lone", {"x": "alone"}, {"q": "q"}, {"q": {"x": 1}})
    none, _, counts = drafted([(lone, {})], SMALL)
    assert not none
    assert counts == {"queries with less than two documents": 1}


def test_the_same_folder_whatever_the_order_of_documents(tmp_path: Path) -> None:
    turned = collection("judged", dict(reversed(TEXTS.items())),
                        {"a": "what is a", "b": "where is b"}, GRADES)  # fmt: skip
    for name, one, settings in (
        ("first", JUDGED, SMALL),
        ("again", turned, SMALL),
        ("other", JUDGED, dataclasses.replace(SMALL, seed=6)),
    ):
        drafts, corpus, _ = drafted([(one, CANDIDATES)], settings)
        made = (complete(draft, corpus, lambda draft, asked: {}) for draft in drafts)
        write_lists(tmp_path / name, made, {"seed": 0})
    content = {
        name: [(tmp_path / name / file).read_bytes()
               for file in ("documents.jsonl", "lists.jsonl", "manifest.json")]
        for name in ("first", "again", "other")
    }  # fmt: skip
    assert content["first"] == content["again"]
    assert content["first"][1] != content["other"][1]
    # A collection more changes the lists of none that was there.
    more, _, _ = drafted([(UNJUDGED, {"c": ["d1"]}), (JUDGED, CANDIDATES)], SMALL, taught=True)
    plain, _, _ = drafted([(JUDGED, CANDIDATES)], SMALL)
    assert [draft.documents for draft in more[3:]] == [draft.documents for draft in plain]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"documents": 1}, "--documents must be at least 2"),
        ({"queries": 0}, "--queries must be at least 1"),
        ({"lists_per_query": 0}, "--lists-per-query must be at least 1"),
        ({"random": 25}, "--random must be 0 to 24"),
        ({"random": -1}, "--random must be 0 to 24"),
    ],
)
def test_sizes_out_of_range_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BuildSettings(**wrong)


A, B, C = Document("1", "red apples"), Document("2", "a red house"), Document("3", "a blue sea")
REQUESTS: list[tuple[str, list[Document]]] = [
    ("red things", [A, C]), ("blue", [C, B]), ("red things", [B, A]),
]  # fmt: skip


def test_pairs_are_scored_once_and_kept(tmp_path: Path) -> None:
    teacher = Overlap("cross-encoder:overlap")
    done: list[int] = []
    with open_journal(tmp_path / "t.jsonl", {"model": "m"}) as journal:
        first = teach(teacher, REQUESTS, journal, done.append)
    assert [len(texts) for _, texts in teacher.asked] == [3, 2], "a query's documents together"
    assert sum(done) == work(teacher, REQUESTS) == 5
    assert first == [(0.98, -0.03), (0.97, -0.03), (0.97, 0.98)]
    teacher.asked.clear()
    with open_journal(tmp_path / "t.jsonl", {"model": "m"}) as journal:
        assert teach(teacher, [*REQUESTS, ("blue", [A])], journal) == [*first, (-0.02,)]
    assert teacher.asked == [("blue", ["red apples"])], "only what is new"


def test_a_bi_encoder_reads_each_text_once(
    tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "_PORTION", 2)
    reranker = BiEncoderReranker.from_pretrained(str(tiny_encoder), device="cpu")
    read: list[list[str]] = []
    encode = reranker.encoder.encode_passages

    def watched(texts: Sequence[str]) -> Vectors:
        read.append(list(texts))
        if stop == len(read):
            raise KeyboardInterrupt
        return encode(texts)

    monkeypatch.setattr(reranker.encoder, "encode_passages", watched)
    stop = 0
    with open_journal(tmp_path / "whole.jsonl", {}) as journal:
        found = teach(reranker, REQUESTS, journal)
    assert read == [[A.text, C.text], [B.text]]
    assert work(reranker, REQUESTS) == 5
    monkeypatch.setattr(reranker.encoder, "encode_passages", encode)
    for (query, documents), scores in zip(REQUESTS, found, strict=True):
        ranking = reranker.rank(query, documents)
        wanted = {ranked.index: ranked.score for ranked in ranking}
        assert scores == pytest.approx([wanted[n] for n in range(len(documents))], abs=2e-6)

    monkeypatch.setattr(reranker.encoder, "encode_passages", watched)
    read.clear()
    stop = 2
    killed = tmp_path / "killed.jsonl"
    with open_journal(killed, {}) as journal, pytest.raises(KeyboardInterrupt):
        teach(reranker, REQUESTS, journal)
    with open_journal(killed, {}) as journal:
        assert teach(reranker, REQUESTS, journal) == found
    assert read == [[A.text, C.text], [B.text], [B.text]]
    assert killed.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with open_journal(killed, {}) as journal:
        journal.append({"texts": ["x"], "vectors": "AAAA"})
        with pytest.raises(InvalidInputError, match=r"killed\.jsonl:5: not the vectors"):
            teach(reranker, REQUESTS, journal)


def test_rerankers_of_whole_lists_score_each_list(tmp_path: Path) -> None:
    teacher = Overlap("attention:overlap")
    with open_journal(tmp_path / "t.jsonl", {}) as journal:
        first = teach(teacher, REQUESTS, journal)
        assert teach(teacher, REQUESTS, journal) == first
    assert [len(texts) for _, texts in teacher.asked] == [2, 2, 2]
    assert work(teacher, REQUESTS) == 6


def test_a_teacher_that_is_killed_goes_on(tmp_path: Path) -> None:
    class Stops(Overlap):
        def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
            if query == "blue":
                raise KeyboardInterrupt
            return super().rank(query, documents)

    path = tmp_path / "t.jsonl"
    with open_journal(path, {}) as journal, pytest.raises(KeyboardInterrupt):
        teach(Stops("pointwise:stops"), REQUESTS, journal)
    with path.open("a") as stream:
        stream.write('{"query": "torn by a ki')
    teacher = Overlap("pointwise:overlap")
    with open_journal(path, {}) as journal:
        teach(teacher, REQUESTS, journal)
    assert [query for query, _ in teacher.asked] == ["blue"]
    whole = tmp_path / "whole.jsonl"
    with open_journal(whole, {}) as journal:
        teach(Overlap("pointwise:overlap"), REQUESTS, journal)
    assert path.read_bytes() == whole.read_bytes()


def test_a_journal_is_of_one_thing_and_one_process(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with open_journal(path, {"model": "m"}), pytest.raises(RanklensError, match="another process"):
        open_journal(path, {"model": "m"}).__enter__()
    with pytest.raises(InvalidInputError, match="made with other settings"):
        open_journal(path, {"model": "n"}).__enter__()
    with open_journal(path, {"model": "m"}) as journal:
        journal.append({"unknown": 1})
        for kind in ("cross-encoder", "attention"):
            with pytest.raises(InvalidInputError, match=rf"{path}:2: not the scores"):
                teach(Overlap(f"{kind}:x"), REQUESTS, journal)


def test_a_run_teaches_on_a_scale_of_its_own() -> None:
    run = [ScoredDoc("a", 2e6), ScoredDoc("b", 1.5e6), ScoredDoc("c", 1e6)]
    assert run_scores(run, ["c", None, "a", "b", "z"]) == (0.0, -0.5, 1.0, 0.5, -0.5)
    assert run_scores([ScoredDoc("a", 3.0)], ["a", "b"]) == (0.0, -1.0)


def test_teachers_have_names_that_objectives_can_say() -> None:
    assert check_teacher("minilm-l6") == "minilm-l6"
    for name in ("", "a b", "a,b", "a(b)", "a+b"):
        with pytest.raises(UsageError, match="cannot stand in an objective"):
            check_teacher(name)


def test_lists_say_what_they_are_made_of(tmp_path: Path) -> None:
    drafts, corpus, _ = drafted([(JUDGED, CANDIDATES)], SMALL)
    lists: list[TrainingList] = [complete(drafts[0], corpus, lambda draft, asked: {})]
    write_lists(tmp_path / "out", lists, {"collections": [{"name": "judged"}]})
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["lists"] == 1
    assert manifest["collections"] == [{"name": "judged"}]
