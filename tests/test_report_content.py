"""The content of a report: what is gathered equals what evaluation says, and survives as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
from tests.report_fixtures import BIDI, HOSTILE, MEASURES, made_up_content

from ranklens.cli.html_report.agreement import agreement
from ranklens.cli.html_report.attention import head_map, model_shape
from ranklens.cli.html_report.bias import bias_of_run
from ranklens.cli.html_report.build import Choice, build
from ranklens.cli.html_report.coding import Token, coded_tokens, decoded_tokens
from ranklens.cli.html_report.content import Content
from ranklens.cli.html_report.environment import anywhere
from ranklens.cli.html_report.page.render import render
from ranklens.cli.html_report.reading import find_reader
from ranklens.cli.html_report.sources import Source, baseline_of, collection_of, read_sources
from ranklens.data.collection import Collection, assemble
from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query, ScoredDoc
from ranklens.data.runs import Run, write_run
from ranklens.eval.agree.labels import Scale, label_agreement
from ranklens.eval.ceiling import ceiling_run
from ranklens.eval.comparison import compare
from ranklens.eval.measures import evaluate
from ranklens.rerank.profile_file import load_profile

GRADES = {
    "q1": {"d1": 3, "d2": 0, "d3": 1},
    "q2": {"d2": 2, "d4": 0},
    "q3": {"d5": 1, "d1": 0},
}
FIRST = {"q1": "d2 d3 d1 d5", "q2": "d4 d2 d1 d3", "q3": "d5 d1 d2 d4"}
SECOND = {"q1": "d1 d3 d2 d5", "q2": "d2 d4 d1 d3", "q3": "d1 d5 d2 d4"}


class Texts:
    """Documents in memory, as a collection has them."""

    def __init__(self, texts: Mapping[str, Document]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[Document]:
        return iter(self.texts.values())

    def get_many(self, ids: Iterable[str]) -> dict[str, Document]:
        return {doc_id: self.texts[doc_id] for doc_id in ids if doc_id in self.texts}

    def fingerprint(self) -> str:
        return "sha256:none"


def judgements(grades: dict[str, dict[str, int]]) -> Qrels:
    return Qrels(Judgement(q, d, g) for q, docs in grades.items() for d, g in docs.items())


def make_collection(*more: Document, judged: bool = True) -> Collection:
    texts = {
        f"d{i}": Document(f"d{i}", f"text of number {i}", "A title" * (i % 2)) for i in range(6)
    }
    return assemble(
        name="three",
        documents=Texts(texts | {document.id: document for document in more}),
        queries=[Query(f"q{i}", f"query {i}") for i in (1, 2, 3)],
        qrels=judgements(GRADES) if judged else None,
        relevance_level=2,
    )


def make_run(lists: dict[str, str], tag: str = "bm25") -> Run:
    return Run(
        {
            query_id: [ScoredDoc(doc, 9.0 - i) for i, doc in enumerate(docs.split())]
            for query_id, docs in lists.items()
        },
        tag,
    )


def folder(path: Path, first: dict[str, str] = FIRST, depth: int = 3, **changes: object) -> Path:
    """Make what `ranklens run` leaves."""
    path.mkdir(parents=True)
    write_run(make_run(first), path / "candidates.run")
    write_run(make_run(SECOND, "ranklens"), path / "reranked.run")
    manifest = {
        "format": 1,
        "collection": {"name": "three", "checksums": {"documents": "sha256:none"}},
        "queries": ["q1", "q2", "q3"],
        "first_stage": {"retriever": "bm25"},
        "reranker": {"kind": "identity", "model": "none", "profile": None},
        "depth": depth,
    }
    (path / "manifest.json").write_text(json.dumps(manifest | changes))
    return path


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    return read_sources([folder(tmp_path / "reranked")])


def test_tokens_come_back_from_their_string() -> None:
    tokens = (
        Token(0, 3, 255, 0),
        Token(3, 4, -255, 255),
        Token(1000, 21000, -1, -128),
        Token(21000, 21001, 0, 127),
    )
    text = coded_tokens(tokens, raw=True)
    assert decoded_tokens(text, raw=True) == tokens
    without = coded_tokens(tokens, raw=False)
    assert len(without) < len(text)
    assert decoded_tokens(without, raw=False) == tuple(replace(t, raw=None) for t in tokens)
    assert coded_tokens((), raw=True) == ""


@pytest.mark.parametrize("second", [Token(2, 5, 0, 0), Token(4, 4, 0, 0)])
def test_tokens_that_overlap_or_are_empty_have_no_string(second: Token) -> None:
    with pytest.raises(ValueError, match="token"):
        coded_tokens((Token(0, 3, 1, 1), second), raw=True)


def test_the_value_is_json_of_the_agreed_shape() -> None:
    value = made_up_content().as_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert list(value) == [field.name for field in fields(Content)]
    assert list(value)[:4] == ["title", "made_with", "collection", "measures"]
    assert value["queries"][1]["text"] == HOSTILE
    assert value["documents"]["d2"]["text"] == BIDI
    tokens = value["attention"]["documents"]["q1"]["d0"]["tokens"]
    assert decoded_tokens(tokens, raw=True)[0] == Token(0, 8, 150, 90)
    assert value["comparisons"][0]["ci95"] == [0.05, 0.37]
    assert value["heads"]["cells"][0] == [0, 1, 0.2]


def test_numbers_are_rounded_and_what_is_not_finite_is_null() -> None:
    content = made_up_content()
    pair = replace(
        content.comparisons[0], p=1.23456e-9, difference=math.nan, ci95=(math.inf, 1 / 3)
    )
    run = replace(content.queries[0].lists["bm25"][0], score=-12345.678)
    query = replace(content.queries[0], lists={"bm25": (run,)})
    value = replace(content, comparisons=(pair,), queries=(query,)).as_json()
    [said] = value["comparisons"]
    assert (said["p"], said["difference"], said["ci95"]) == (1.235e-9, None, [None, 0.3333])
    assert value["queries"][0]["lists"]["bm25"][0]["score"] == -12350.0


def test_lone_surrogates_are_replaced_one_for_one() -> None:
    content = replace(made_up_content(), title="a\ud800\udc00b", warnings=("\udfff",))
    value = content.as_json()
    assert value["title"] == "a\ufffd\ufffdb"
    assert value["warnings"] == ["\ufffd"]
    json.dumps(value, ensure_ascii=False).encode()


def test_a_folder_has_two_runs_and_a_first_stage_is_there_once(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two", depth=4)
    other = folder(tmp_path / "three", FIRST | {"q1": "d1 d2"})
    write_run(make_run(FIRST), tmp_path / "bm25.run")
    found = read_sources([one, two, other, tmp_path / "bm25.run"])
    assert [(source.name, source.role, source.depth) for source in found] == [
        ("bm25 of one", "first stage", 4),
        ("one", "reranked", 3),
        ("two", "reranked", 4),
        ("bm25 of three", "first stage", 3),
        ("three", "reranked", 3),
        ("bm25", "run", None),
    ]
    assert baseline_of(None, found) == "bm25 of one"
    assert baseline_of("two", found) == baseline_of(str(two), found) == "two"
    with pytest.raises(UsageError, match=r"none of the runs: bm25 of one, one"):
        baseline_of("four", found)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    whole = folder(tmp_path / "whole")
    with pytest.raises(UsageError, match="given twice"):
        read_sources([whole, whole])
    with pytest.raises(MissingResourceError, match="no run folder and no run file"):
        read_sources([tmp_path / "nothing"])
    (whole / "reranked.run").unlink()
    with pytest.raises(InvalidInputError, match=r"not finished \(reranked.run"):
        read_sources([whole])
    (whole / "manifest.json").write_text('{"format": 1}')
    with pytest.raises(InvalidInputError, match="not a folder of `ranklens run`"):
        read_sources([whole])


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("depth", 0),
        ("depth", "3"),
        ("collection", None),
        ("collection", {"name": "three", "checksums": None}),
        ("queries", 3),
        ("queries", None),
        ("reranker", "identity"),
        ("first_stage", [1]),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, part: str, value: object) -> None:
    damaged = folder(tmp_path / "damaged")
    manifest = damaged / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {part: value}))
    with pytest.raises(InvalidInputError, match=rf"is damaged: {part} is"):
        read_sources([damaged])


def test_the_collection_is_the_manifests_where_it_can_be_loaded_anywhere(tmp_path: Path) -> None:
    def named(name: str, checksum: str) -> list[Source]:
        where = tmp_path / f"{name}-{checksum[:4]}".replace("/", "-")
        named = {"name": name, "checksums": {"documents": checksum}}
        return read_sources([folder(where, collection=named)])

    irds, sample = named("vaswani", "irds:vaswani"), named("pydocs", "sha256:1")
    assert collection_of(irds) == "irds:vaswani"
    assert collection_of(sample) == "sample:pydocs"
    with pytest.raises(UsageError, match="does not say where its collection lies; give --coll"):
        collection_of(named("mine", "sha256:2"))
    with pytest.raises(UsageError, match="several collections"):
        collection_of([*irds, *sample])
    write_run(make_run(FIRST), tmp_path / "a.run")
    with pytest.raises(UsageError, match="run files do not say"):
        collection_of(read_sources([tmp_path / "a.run"]))


def test_values_are_those_of_evaluation(sources: list[Source]) -> None:
    collection = make_collection()
    content = build(collection, sources, Choice(MEASURES))
    first, second = make_run(FIRST), make_run(SECOND, "ranklens")
    ceiling = evaluate(collection.qrels, ceiling_run(first, collection.qrels, 3), MEASURES)
    compared = compare(
        collection.qrels, {"bm25": first, "reranked": second}, MEASURES, baseline="bm25"
    )
    assert content.measures == MEASURES
    for said, run in zip(content.runs, (first, second), strict=True):
        expected = evaluate(collection.qrels, run, MEASURES)
        for measure, result in expected.measures.items():
            assert (said.values[measure].value, said.values[measure].ci95) == (
                result.value,
                result.ci95,
            )
            assert said.ceiling is not None
            assert said.ceiling[measure] == ceiling.measures[measure].value
            for query in content.queries:
                assert query.values[said.name][measure] == result.per_query[query.id]
                assert (
                    query.ceiling[said.name][measure]
                    == ceiling.measures[measure].per_query[query.id]
                )
    for mine, pair in zip(content.comparisons, compared.pairs, strict=True):
        assert (mine.run, mine.against, mine.measure) == ("reranked", "bm25", pair.measure)
        assert (mine.difference, mine.ci95, mine.p) == (
            pair.effect.difference,
            pair.effect.ci95,
            pair.p_corrected,
        )
        # Grade 1, which query q3 moves, is not relevant to the second measure.
        expected_wins = (2, 0, 1) if pair.measure == "nDCG@10" else (2, 1, 0)
        assert (mine.wins, mine.ties, mine.losses) == expected_wins
    assert content.collection.judged_documents == 7
    assert content.collection.relevance_level == 2


def test_lists_are_cut_and_have_grades(sources: list[Source]) -> None:
    content = build(make_collection(), sources, Choice(MEASURES, depth=2, characters=6))
    lists = content.queries[0].lists
    assert [(doc.doc, doc.grade) for doc in lists["bm25"]] == [("d2", 0), ("d3", 1)]
    assert [(doc.doc, doc.score) for doc in lists["reranked"]] == [("d1", 9.0), ("d3", 8.0)]
    assert content.queries[1].lists["bm25"][0].grade == 0
    shown = content.documents["d1"]
    assert (shown.title, shown.text, shown.cut) == ("A titl", "text o", True)
    assert "d5" in content.documents
    whole = build(make_collection(), sources, Choice(MEASURES)).documents["d1"]
    assert (whole.title, whole.text, whole.cut) == ("A title", "text of number 1", False)


def test_hostile_ids_and_texts_stay_data() -> None:
    hostile = Document(HOSTILE, HOSTILE + "\ud800" + BIDI, "\x00" + HOSTILE)
    collection = make_collection(hostile)
    lists = {"q1": [ScoredDoc(HOSTILE, 2.0), ScoredDoc("d1", 1.0)]}
    source = Source(HOSTILE, "file", "run", Run(lists))
    content = build(collection, [source], Choice(MEASURES, arguments=[HOSTILE]))
    value = content.as_json()
    assert value["runs"][0]["name"] == HOSTILE
    assert value["documents"][HOSTILE]["text"] == HOSTILE + "\ufffd" + BIDI
    assert "<img" not in render(value).lower()


def test_only_one_run_no_judgements_missing_documents_and_queries() -> None:
    lists = {"q1": "d1 gone d2", "q3": "d5", "other": "d1"}
    source = Source("mine", "mine.run", "run", make_run(lists))
    bare = build(make_collection(judged=False), [source], Choice(MEASURES))
    assert (bare.measures, bare.comparisons, bare.runs[0].values) == ((), (), {})
    assert [len(query.lists["mine"]) for query in bare.queries] == [3, 0, 1]
    assert [query.values for query in bare.queries] == [{}, {}, {}]
    assert bare.documents["gone"].missing
    assert [text for text in bare.warnings if "not in the collection (first: 'gone')" in text]
    assert [text for text in bare.warnings if "nothing is judged" in text]
    render(bare.as_json())

    judged = build(make_collection(), [source], Choice(MEASURES))
    assert judged.comparisons == ()
    assert judged.queries[1].values["mine"]["nDCG@10"] == 0.0
    assert any("1 of 3 judged queries are missing" in text for text in judged.warnings)
    assert any("1 queries of run" in text for text in judged.warnings)
    render(judged.as_json())


def test_runs_of_another_test_set_are_refused() -> None:
    source = Source("mine", "mine.run", "run", make_run({"x1": "d1"}))
    for judged in (True, False):
        with pytest.raises(InvalidInputError, match="same test set"):
            build(make_collection(judged=judged), [source], Choice(MEASURES))


def test_folders_with_fewer_queries_are_about_these(tmp_path: Path) -> None:
    some = read_sources([folder(tmp_path / "some", queries=["q1", "q3"])])
    content = build(make_collection(), some, Choice(MEASURES))
    assert [query.id for query in content.queries] == ["q1", "q3"]
    assert content.collection.queries == 2
    expected = evaluate(
        make_collection().qrels.restricted_to(["q1", "q3"]), make_run(SECOND), ["nDCG@10"]
    )
    assert content.runs[1].values["nDCG@10"].value == expected.measures["nDCG@10"].value


def test_fewer_queries_shown_are_said(sources: list[Source]) -> None:
    content = build(make_collection(), sources, Choice(MEASURES, queries=1))
    assert [query.id for query in content.queries] == ["q1"]
    assert content.collection.queries == 3
    assert any("first 1 of 3 queries are shown" in text for text in content.warnings)
    assert content.comparisons[0].losses == 1


def test_measures_that_are_no_means_are_not_compared(sources: list[Source]) -> None:
    content = build(make_collection(), sources, Choice(["NumRet", "nDCG@10"]))
    assert content.runs[0].values["NumRet"].value == 12
    assert {pair.measure for pair in content.comparisons} == {"nDCG@10"}


def test_the_bias_of_a_run_is_that_of_its_lists() -> None:
    texts = {f"d{i}": Document(f"d{i}", "word " * i) for i in range(6)}
    # Scores rise with the rank of the first stage, and fall with length, in both queries.
    candidates = Run({q: [ScoredDoc(f"d{i}", float(i)) for i in (5, 4, 3, 2)] for q in "ab"})
    reranked = Run({q: [ScoredDoc(f"d{i}", 10.0 - i) for i in (2, 3, 4, 5)] for q in "ab"})
    source = Source("r", "r", "reranked", reranked, 3, candidates)
    found = bias_of_run(source, ["a", "b", "absent"], texts)
    assert found is not None
    assert found.slot_rho == pytest.approx(1.0)
    assert found.length_rho == pytest.approx(-1.0)
    z = 1 / (2 / 3) ** 0.5
    assert [slot for slot, *_ in found.slot] == [1, 2, 3]
    assert [mean for _, mean, _ in found.slot] == pytest.approx([-z, 0.0, z])
    assert [error for *_, error in found.slot] == [0.0, 0.0, 0.0]
    assert [words for words, _ in found.length] == [5, 4, 3] * 2
    assert [z for _, z in found.length[:3]] == pytest.approx([-z, 0.0, z])
    assert (found.orders, found.length_unit, len(found.length)) == (0, "words", 6)
    assert "may be relevance, not bias" in found.what
    assert bias_of_run(Source("f", "f", "run", reranked), ["a"], texts) is None


def test_agreement_is_label_agreements(sources: list[Source]) -> None:
    collection = make_collection()
    judge = judgements({"q1": {"d1": 3, "d2": 1, "d3": 1}, "q2": {"d2": 0, "d4": 7}})
    content = build(collection, sources, Choice(MEASURES), labels={"judge": judge})
    assert content.agreement is not None
    [said] = content.agreement.labels
    expected = label_agreement(collection.qrels, judge, Scale(0, 3))
    values = {name: value for name, value, _ in said.measures}
    assert values["Cohen's κ"] == expected.overall.kappa
    assert values["Krippendorff's α, ordinal"] == expected.overall.alpha
    assert values["Cohen's κ, grade 2 and above"] == expected.overall.binary[2]
    assert said.confusion.grades == (0, 1, 2, 3)
    assert [list(row) for row in said.confusion.counts] == expected.confusion.tolist()
    assert any("judge: 1 labels are beyond the scale 0-3" in text for text in content.warnings)
    with pytest.raises(InvalidInputError, match="other: gold and judge have no"):
        agreement(collection, {"other": judgements({"x": {"y": 1}})})
    with pytest.raises(InvalidInputError, match="--labels needs"):
        agreement(make_collection(judged=False), {"judge": judge})


def test_the_environment_has_no_paths(tmp_path: Path) -> None:
    made = folder(tmp_path / "mine")
    arguments = [str(made), "--collection", "~/three", f"--reranker=attention:{tmp_path}/m", "../x"]
    content = build(make_collection(), read_sources([made]), Choice(MEASURES, arguments=arguments))
    run, report = content.commands
    assert run == (
        "ranklens run three --retriever bm25 --reranker identity:none --depth 3 --out mine"
    )
    few = read_sources([folder(tmp_path / "few", queries=["q1"])])
    more = build(make_collection(), few, Choice(MEASURES))
    assert more.commands[0].endswith("--depth 3 --limit 1 --out few")
    assert report == "ranklens report mine --collection three --reranker=attention:m x"
    assert ("mine: first stage", "retriever bm25") in content.environment
    assert str(tmp_path) not in json.dumps(content.as_json())
    assert anywhere("runs/a") == "runs/a"


def test_other_judgements_than_the_runs_are_said(tmp_path: Path) -> None:
    checksums = {"qrels": "sha256:1", "queries": "sha256:2"}
    made = folder(tmp_path / "mine", collection={"name": "three", "checksums": checksums})
    collection = replace(make_collection(), sources={"qrels": "sha256:0", "queries": "sha256:2"})
    content = build(collection, read_sources([made]), Choice(MEASURES))
    assert "mine was made with other qrels than those of collection 'three'" in content.warnings


def test_the_head_map_has_the_heads_that_are_read() -> None:
    icr = load_profile("icr")
    whole = head_map(icr, (2, 3))
    assert whole is not None
    assert whole.cells == tuple((layer, head, 1.0) for layer in (0, 1) for head in (0, 1, 2))
    assert head_map(icr, None) is None
    some = replace(icr, signal=replace(icr.signal, heads={"1-2": 0.5, "0-1": -2.0}))
    found = head_map(some, (4, 8))
    assert found is not None
    assert (found.layers, found.heads, found.cells) == (4, 8, ((0, 1, -2.0), (1, 2, 0.5)))
    assert "2 of 32 heads; 1 weights are negative" in found.what
    alone = head_map(some, None)
    assert alone is not None
    assert (alone.layers, alone.heads) == (2, 3)
    middle = head_map(replace(icr, signal=replace(icr.signal, layers=(1, 2))), (4, 1))
    assert middle is not None
    assert [cell[0] for cell in middle.cells] == [1, 2]
    assert model_shape({"text_config": {"num_hidden_layers": 3, "num_attention_heads": 2}}) == (
        3,
        2,
    )
    assert model_shape([]) is model_shape({}) is None


def test_which_reranker_is_read(tmp_path: Path, sources: list[Source]) -> None:
    assert find_reader(sources, 20) == (None, ())
    with pytest.raises(UsageError, match="no run is the folder of an attention reranker"):
        find_reader(sources, 20, required=True)
    with pytest.raises(UsageError, match="expected attention:MODEL"):
        find_reader(sources, 20, reranker="bm25:x")
    reader, _ = find_reader(sources, 7, reranker="attention:m", profile="icr")
    assert reader is not None
    assert (reader.run, reader.depth, reader.scores, reader.required) == ("bm25", 7, None, True)

    profile = replace(load_profile("icr"), name="my own")
    said = {"kind": "attention", "model": "m", "profile": profile.to_dict(), "dtype": "bfloat16"}
    made = read_sources([folder(tmp_path / "made", reranker=said)])
    reader, _ = find_reader(made, 20)
    assert reader is not None
    assert (reader.run, reader.depth, reader.profile, reader.required) == (
        "made", 3, profile, False,
    )  # fmt: skip
    assert reader.expected == {"dtype": "bfloat16"}
    split = read_sources([folder(tmp_path / "split", reranker=said | {"passages": {"size": 9}})])
    reader, [why] = find_reader(split, 20)
    assert reader is None
    assert "split splits documents into passages" in why
    with pytest.raises(UsageError, match="into passages"):
        find_reader(split, 20, required=True)
