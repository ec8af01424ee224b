"""Presets of known sets: they agree with ir_datasets' own figures, and commands follow them."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ranklens.cli.lists import candidate_lists
from ranklens.data.load import load_collection
from ranklens.data.presets import PRESETS, find_folder_preset, find_preset
from ranklens.data.runs import read_run

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, int]]:
    """Return how many queries and judged pairs ir_datasets says that each of its ids has."""
    if find_spec("ir_datasets") is None:
        pytest.skip("the extra irds is not installed")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    import ir_datasets

    counts: dict[str, dict[str, int]] = {}
    for identifier in ir_datasets.registry:
        if identifier.startswith(("beir/", "msmarco-")):
            stated = ir_datasets.registry[identifier].metadata()
            counts[identifier] = {
                part: stated.get(part, {}).get("count") for part in ("queries", "qrels")
            }
    return counts


def test_ids_and_numbers_of_queries_are_those_of_ir_datasets(
    known: dict[str, dict[str, int]],
) -> None:
    for preset in PRESETS:
        matching = [identifier for identifier in known if re.fullmatch(preset.ids, identifier)]
        assert matching, preset.ids
        if preset.queries:
            # An id without a split holds the queries of all of them.
            assert set(preset.queries) <= {known[identifier]["queries"] for identifier in matching}
    parts = [preset.queries[0] for preset in PRESETS if "cqadupstack" in preset.ids]
    assert (len(parts), sum(parts)) == (12, 13145)


@pytest.mark.parametrize(
    ("identifier", "start"),
    [
        ("beir/webis-touche2020", "the qrels are version 1, not BEIR's (2,962 pairs); not"),
        ("beir/webis-touche2020/v2", "the qrels are version 2, as BEIR's (irds:beir/webis"),
        ("msmarco-passage-v2/trec-dl-2022", "the qrels are expanded to textual duplicates (386,4"),
        ("msmarco-passage-v2/trec-dl-2023", "the qrels are as released, with textual dupl"),
    ],
)
def test_the_version_of_the_qrels_is_told_by_their_number(
    known: dict[str, dict[str, int]], identifier: str, start: str
) -> None:
    notes = find_preset(identifier, known[identifier]["qrels"]).notes
    assert [note.startswith(start) for note in notes].count(True) == 1


def test_de_duplicated_and_unknown_qrels_are_told_apart() -> None:
    identifier = "msmarco-passage-v2/trec-dl-2022/judged"
    assert find_preset(identifier, 23522).notes[-1] == (
        "the qrels are de-duplicated (23,522 pairs); not comparable: "
        "expanded to textual duplicates (386,416)"
    )
    assert find_preset(identifier, 12).notes[-1].startswith("the qrels have 12 pairs, as no known")


@pytest.mark.parametrize(
    ("identifier", "removed", "level"),
    [
        ("beir/arguana", True, 1),
        ("mine/beir/quora/test", True, 1),
        ("beir/msmarco/test", True, 1),
        ("beir/scifact/test", False, 1),
        ("notbeir/arguana", False, 1),
        ("beir/arguana/extra", False, 1),
        ("msmarco-passage/trec-dl-2019/judged", False, 2),
        ("msmarco-passage/trec-dl-hard/fold1", False, 2),
        ("msmarco-passage-v2/trec-dl-2023", False, 2),
        ("msmarco-document-v2/trec-dl-2021", False, 1),
        ("msmarco-passage/dev/small", False, 1),
    ],
)
def test_what_is_removed_and_what_is_relevant(identifier: str, removed: bool, level: int) -> None:
    found = find_preset(identifier, 7)
    assert (found.remove_query, found.relevance_level) == (removed, level)


def test_sets_of_which_there_is_nothing_to_say_have_no_notes() -> None:
    for identifier in ("beir/scifact/test", "beir/nfcorpus/test", "beir/nq", "trec-robust04"):
        assert find_preset(identifier, 7).notes == ()


@pytest.mark.parametrize(
    ("name", "split", "queries", "removed", "notes"),
    [
        ("arguana", "test", 1406, True, ["queries are", "1 judged"]),
        ("arguana", "test", 3, False, ["called arguana, but with 3 judged queries it is not BE"]),
        ("quora", "dev", 5000, True, ["queries are"]),
        ("cqadupstack/gis", "test", 885, False, ["one of 12"]),
        ("cqadupstack/gis", "test", 886, False, ["called cqadupstack/gis"]),
        ("gis", "test", 885, False, []),
        ("scifact", "test", 300, False, []),
    ],
)
def test_a_folder_is_a_known_set_by_name_and_number_of_queries(
    name: str, split: str, queries: int, removed: bool, notes: list[str]
) -> None:
    found = find_folder_preset(name, split, queries, pairs=queries)
    assert found.remove_query == removed
    assert len(found.notes) == len(notes)
    assert all(map(str.startswith, found.notes, notes))


def write_beir(folder: Path, queries: int) -> Path:
    """Write a BEIR folder of as many queries, each with its own document and an answer."""
    (folder / "qrels").mkdir(parents=True)
    documents, asked, rows = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(queries):
        word = f"w{number}x"
        documents.append({"_id": f"q{number}", "title": "", "text": f"{word} {word} {word}"})
        documents.append({"_id": f"d{number}", "title": "", "text": f"{word} and other words"})
        asked.append({"_id": f"q{number}", "text": f"{word} other"})
        rows.append(f"q{number}\td{number}\t1")
    for name, records in (("corpus", documents), ("queries", asked)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_folder_of_the_right_size_has_its_preset(tmp_path: Path) -> None:
    whole = load_collection(str(write_beir(tmp_path / "arguana", 1406)))
    assert whole.remove_query
    assert len(whole.notes) == 2
    part = load_collection(str(write_beir(tmp_path / "cut" / "arguana", 3)))
    assert not part.remove_query
    assert part.notes == (
        "called arguana, but with 3 judged queries it is not BEIR's (1,406): nothing is assumed "
        "about it; see --remove-query",
    )


def test_a_folder_without_judgements_is_no_known_set(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "arguana", 3)
    (folder / "qrels" / "test.tsv").unlink()
    (folder / "qrels").rmdir()
    found = load_collection(str(folder))
    # Nothing is counted that could tell, and nothing is said of it.
    assert (found.name, found.notes, found.remove_query) == ("arguana", (), False)
    assert len(found.queries) == 3


@pytest.fixture
def arguana(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Register three queries that are documents too under an id like ArguAna's."""
    if find_spec("ir_datasets") is None:
        pytest.skip("the extra irds is not installed")
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    import ir_datasets

    files = {
        "docs_tsv": "".join(f"q{n}\tw{n}x w{n}x w{n}x\nd{n}\tw{n}x and words\n" for n in range(3)),
        "queries_tsv": "".join(f"q{n}\tw{n}x words\n" for n in range(3)),
        "qrels_trec": "".join(f"q{n} 0 d{n} 1\n" for n in range(3)),
    }
    for kind, text in files.items():
        (tmp_path / kind).write_text(text)
    paths = {kind: str(tmp_path / kind) for kind in files}
    identifier = "ranklens-test/beir/arguana"
    ir_datasets.registry.register(identifier, ir_datasets.create_dataset(**paths))
    yield f"irds:{identifier}"
    del ir_datasets.registry._registered[identifier]


def own_answers(path: Path) -> int:
    return sum(doc.doc_id == query_id for query_id, docs in read_run(path).items() for doc in docs)


def test_retrieve_leaves_out_the_query_itself(call: Call, arguana: str, tmp_path: Path) -> None:
    out = tmp_path / "out.run"
    done = call("retrieve", arguana, "-k", 2, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "warning: queries are documents of the corpus: retrieval leaves out" in done.stderr
    assert "documents with their query's own id: 3 left out" in done.stderr
    assert own_answers(out) == 0
    # As many as asked for are left: the query's own is none of the two.
    assert [len(docs) for docs in read_run(out).values()] == [2, 2, 2]
    value = json.loads(call("evaluate", arguana, out, "-m", "RR", "--json").stdout)
    assert value["results"][0]["measures"]["RR"]["value"] == 1.0
    assert value["warnings"][0].startswith("queries are documents of the corpus")

    kept = call("retrieve", arguana, "-k", 2, "--no-remove-query", "-o", out)
    assert "left out" not in kept.stderr
    assert own_answers(out) == 3


def test_run_leaves_out_the_query_itself(
    call: Call, arguana: str, decoder: str, tmp_path: Path
) -> None:
    call("retrieve", arguana, "--no-remove-query", "-o", tmp_path / "with.run")
    assert own_answers(tmp_path / "with.run") == 3
    for name, more in (("search", []), ("given", ["--candidates", tmp_path / "with.run"])):
        out = tmp_path / name
        done = call("run", arguana, "--reranker", decoder, "--depth", 2, "--out", out, *more)
        assert done.returncode == 0, done.stderr
        assert "documents with their query's own id: 3 left out" in done.stderr
        assert own_answers(out / "candidates.run") == 0
        assert own_answers(out / "reranked.run") == 0
    manifest = json.loads((tmp_path / "search" / "manifest.json").read_text())
    assert manifest["first_stage"]["remove_query"] is True


def test_single_rankings_leave_out_the_query_itself(
    call: Call, arguana: str, tmp_path: Path
) -> None:
    out = tmp_path / "with.run"
    call("retrieve", arguana, "--no-remove-query", "-o", out)
    assert own_answers(out) == 3
    for candidates in (None, str(out)):
        _, lists = candidate_lists(arguana, candidates, 2)
        # As many as asked for, and the query's own document is none of them.
        assert [len(documents) for _, documents in lists] == [2, 2, 2]
        assert all(query.id != one.id for query, documents in lists for one in documents)
