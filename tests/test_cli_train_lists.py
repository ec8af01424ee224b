"""``ranklens train lists`` and ``train queries`` from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.load import load_collection
from ranklens.rerank.training.folder import lists_digest, read_lists, read_manifest

pytest_plugins = ["cli_fixtures", "baseline_fixtures"]

Call = Callable[..., subprocess.CompletedProcess[str]]
SMALL = ("--documents", "6", "--lists-per-query", "2", "--random", "1")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_lists_of_a_collection_are_the_same_again(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        done = call("train", "lists", f"{collection}@all", "-o", name, *SMALL,
                    "--teacher", "splade=candidates:all", "--json")  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["lists"], said["status"]) == (8, "ok")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    other = call("train", "lists", f"{collection}@all", "-o", "three", *SMALL, "--seed", "1",
                 "--teacher", "splade=candidates:all")  # fmt: skip
    assert other.returncode == 0, other.stderr
    assert lists_digest(tmp_path / "one") != lists_digest(tmp_path / "three")
    lists = read_lists(tmp_path / "one")
    grades = load_collection(str(collection)).qrels
    ranks = {f"d{n}": rank for rank, n in enumerate(sorted(range(12), key=str))}
    for one in lists:
        for query in one.queries:
            own = grades[query.id.removeprefix("tiny:")]
            assert query.grades == tuple(own.get(d.id) for d in one.documents)
            # The run's scores, 1 to 1/12, between 0 and 1.
            wanted = [(1 / (1 + ranks[d.id]) - 1 / 12) / (11 / 12) for d in one.documents]
            assert query.teachers["splade"] == pytest.approx(wanted, abs=2e-6)
    manifest = read_manifest(tmp_path / "one")
    assert manifest["collections"][0]["candidates"] == ["all"]
    assert manifest["collections"][0]["files"]["qrels"].startswith("sha256:")
    assert manifest["settings"]["seed"] == 0
    assert manifest["teachers"] == {"splade": {"run": "all"}}
    text = json.dumps(manifest)
    assert str(tmp_path) not in text, "where things lie is the machine's business"


def test_a_reranker_teaches_and_is_asked_once(
    call: Call, collection: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    given = ("train", "lists", f"{collection}@all", f"{collection}@more=extra.run", *SMALL,
             "--teacher", f"bert=cross-encoder:{tiny_classifier}", "--cache", "kept")  # fmt: skip
    (tmp_path / "extra.run").write_text("q1 Q0 d11 1 2.5 x\nq1 Q0 d3 2 1.5 x\n")
    first = call(*given, "-o", "one")
    assert first.returncode == 0, first.stderr
    [kept] = (tmp_path / "kept").glob("bert-*.jsonl")
    said = kept.read_bytes()
    assert call(*given, "-o", "two").returncode == 0
    assert kept.read_bytes() == said
    # Killed in the middle of a line, and begun again: the same lists.
    kept.write_bytes(said[: len(said) * 2 // 3])
    assert call(*given, "-o", "three").returncode == 0
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "three")
    assert kept.read_bytes() == said
    manifest = read_manifest(tmp_path / "one")
    assert manifest["collections"][0]["candidates"] == ["all", "more"]
    assert manifest["teachers"]["bert"]["kind"] == "cross-encoder"
    assert manifest["teachers"]["bert"]["revision"].startswith("sha256:")
    for one in read_lists(tmp_path / "one"):
        assert all(len(query.teachers["bert"]) == 6 for query in one.queries)


def test_an_evaluation_set_is_kept_out_and_told(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    test = tmp_path / "test"
    shutil.copytree(collection, test)
    (test / "qrels.txt").write_text("q1 0 d0 1\nq1 0 d7 0\n")
    toml = (test / "collection.toml").read_text()
    (test / "collection.toml").write_text(toml.replace("tiny", "held"))
    done = call("train", "lists", f"{collection}@all", "-o", "out", "--keep-out", test, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "kept out for held: 1 queries of tiny by id (q1)" in done.stderr
    assert "kept out for held: 2 documents of tiny by id (d0, d7)" in done.stderr
    for one in read_lists(tmp_path / "out"):
        assert not {"d0", "d7"} & {document.id for document in one.documents}
        assert "tiny:q1" not in {query.id for query in one.queries}
    told = read_manifest(tmp_path / "out")["kept_out"]["held"]
    assert told["documents of tiny by id"] == {"count": 2, "first": ["d0", "d7"]}
    whole = call("train", "lists", f"{collection}@all", "-o", "none", "--keep-out", collection)
    assert whole.returncode == 5
    assert "no query of these collections makes a list" in whole.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--teacher", "identity"], 2, "has nothing to teach"),
        (["--teacher", "nonsense:x"], 2, "unknown reranker 'nonsense:x'"),
        (["--teacher", "a+b=candidates:all"], 2, "cannot stand in an objective"),
        (["--teacher", "candidates:no"], 4, "no collection has candidates named 'no'"),
        (["--teacher", "candidates:all", "--teacher", "candidates:all"], 2, "two teachers"),
        (["--documents", "1"], 2, "--documents must be at least 2"),
        (["--keep-out", "absent"], 4, "no collection 'absent'"),
        (["-o", "collection"], 5, "holds other files"),
    ],
)
def test_wrong_calls_are_refused(
    call: Call, collection: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    output = [] if "-o" in arguments else ["-o", "out"]
    done = call("train", "lists", f"{collection}@all", *output, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def corpus(path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "_id": f"d{n}",
            "title": f"Page {name}",
            "text": f"The {name} grows in the north of the country. It likes {name} soil and "
            f"rain. People eat its {name} roots in winter, or keep them dry.",
        }
        for n, name in enumerate(["turnip", "carrot", "parsnip", "beetroot", "radish", "salsify"])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", ["inverse-cloze", "title"])
def test_queries_of_a_bare_corpus_make_lists(call: Call, tmp_path: Path, kind: str) -> None:
    documents = corpus(tmp_path / "plants.jsonl")
    (tmp_path / "SOURCE.txt").write_text("Plants, made up.\nLicence: CC0.\n")
    done = call("train", "queries", documents, "-o", "made", "--kind", kind, "--within", "2",
                "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 6
    loaded = load_collection("made")
    assert loaded.name == f"plants-{kind}"
    found = loaded.documents.get_many(f"d{n}" for n in range(6))
    for query in loaded.queries:
        [(source, grade)] = loaded.qrels[query.id].items()
        assert grade == 1
        assert query.text not in found[source].full_text
    again = call("train", "queries", documents, "-o", "again", "--kind", kind, "--within", "2")
    assert again.returncode == 0
    assert files(tmp_path / "made") == files(tmp_path / "again")
    refused = call("train", "queries", documents, "-o", "made", "--kind", kind)
    assert refused.returncode == 5
    assert "has a collection already" in refused.stderr
    lists = call("train", "lists", "made", "-o", "lists", *SMALL, "--json")
    assert json.loads(lists.stdout)["lists"] == 12
    manifest = read_manifest(tmp_path / "lists")
    assert manifest["collections"][0]["licence"] == "CC0."
    assert manifest["collections"][0]["origin"].startswith("Queries made of the documents of")
    # A list for one document's query answers those of the others.
    assert any(len(one.queries) > 2 for one in read_lists(tmp_path / "lists"))


def test_a_model_writes_queries_and_goes_on(call: Call, tmp_path: Path, decoder: str) -> None:
    documents = corpus(tmp_path / "plants.jsonl")
    model = decoder.removeprefix("attention:")
    given = ("train", "queries", documents, "--model", model, "--retriever", "none")
    failed = call(*given, "-o", "made", "--seed", "1")
    # A random decoder writes nothing that anybody would type; what it wrote is kept all the same.
    assert failed.returncode == 5
    assert "none of 6 documents gave a query to keep" in failed.stderr
    assert not (tmp_path / "made" / "collection.toml").exists()
    journal = tmp_path / "made" / "generated.jsonl"
    written = journal.read_bytes()
    assert len(written.splitlines()) == 2
    call(*given, "-o", "made", "--seed", "1")
    assert journal.read_bytes() == written
    other = call(*given, "-o", "made", "--seed", "2")
    assert other.returncode == 5
    assert "made with other settings" in other.stderr


def test_queries_of_the_sample_keep_out_its_own(call: Call, tmp_path: Path) -> None:
    done = call("train", "queries", "sample:pydocs", "-o", "made", "--kind", "inverse-cloze",
                "--limit", "120", "--keep-out", "sample:pydocs")  # fmt: skip
    assert done.returncode == 0, done.stderr
    judged = {d for grades in load_collection("sample:pydocs").qrels.values() for d in grades}
    made = load_collection("made")
    assert len(made.queries) >= 10
    assert not judged & {document.id for document in made.documents}
    lists = call("train", "lists", "made", "-o", "lists", "--keep-out", "sample:pydocs")
    assert lists.returncode == 0, lists.stderr
    for one in read_lists(tmp_path / "lists"):
        assert len(one.documents) == 24
        assert not judged & {document.id for document in one.documents}


def test_unknown_kinds_are_refused(call: Call, collection: Path) -> None:
    done = call("train", "queries", collection, "-o", "made", "--kind", "poems")
    assert done.returncode == 2
    assert "choose lm, inverse-cloze, title" in done.stderr
