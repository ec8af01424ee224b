"""``ranklens data``: what is in a collection, and everything that is wrong with it at once."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.text_trouble import troubles

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def found(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the findings of ``data validate --json`` by part and problem."""
    findings = json.loads(done.stdout)["findings"]
    return {(one["part"], one["problem"]): one for one in findings}


def test_info_counts_what_is_there(call: Call, collection: Path) -> None:
    done = call("data", "info", collection, "--json")
    assert done.returncode == 0
    value = json.loads(done.stdout)
    # Of cli_fixtures: texts of 4 to 6 words, queries of 2 and 3, three judgements a query.
    assert value == {
        "status": "ok",
        "collection": "tiny",
        "relevance_level": 1,
        "documents": 12,
        "document_words": {
            "minimum": 3, "median": 5.0, "mean": pytest.approx(54 / 12), "p95": pytest.approx(5.45),
            "maximum": 6,
        },
        "titles": 0,
        "empty": 0,
        "identical": 0,
        "query_ids": 0,
        "queries": 4,
        "query_words": {
            "minimum": 2, "median": 2.0, "mean": 2.25, "p95": pytest.approx(2.85), "maximum": 3,
        },
        "judgements": {"0": 4, "1": 4, "2": 4},
        "judged_queries": 4,
        "judged_per_query": {"minimum": 3, "median": 3.0, "mean": 3.0, "p95": 3.0, "maximum": 3},
        "without_relevant": 0,
        "judged_documents": 12,
        "judged_present": 12,
        "runs": [
            {
                "name": "all",
                "queries": 4,
                "documents": 48,
                "depth": {"minimum": 12, "median": 12.0, "mean": 12.0, "p95": 12.0, "maximum": 12},
            }
        ],
        "warnings": [],
    }  # fmt: skip
    table = call("data", "info", collection)
    assert [line.split() for line in table.stdout.splitlines() if "grade 2" in line] == [
        ["grade", "2", "4"]
    ]


def test_info_of_a_sample(call: Call, collection: Path) -> None:
    done = call("data", "info", collection, "--sample", "9", "--json")
    value = json.loads(done.stdout)
    assert value["documents"] == 9
    # All eight relevant documents, and one of the four that are judged irrelevant.
    assert (value["judged_documents"], value["judged_present"]) == (9, 9)
    assert value["judgements"] == {"0": 1, "1": 4, "2": 4}
    assert value["warnings"][0].startswith("a sample: 9 of 12 documents")


def test_a_sound_collection_has_nothing_to_say(call: Call, collection: Path) -> None:
    done = call("data", "validate", collection, collection / "all.run")
    assert done.returncode == 0
    own, given = (line.split() for line in done.stdout.splitlines() if "all" in line)
    assert own == ["all", "4", "48", "12", "12", "12.0", "12", "12"]
    assert given[1:] == own[1:]
    assert "problem" not in done.stdout
    assert done.stderr == (
        "tiny: 12 documents, 4 queries, 12 judgements; 0 kinds of errors, 0 of warnings\n"
    )


def test_everything_wrong_with_a_collection_is_listed_at_once(call: Call, collection: Path) -> None:
    (collection / "docs.jsonl").write_bytes(
        b'{"_id": "d0", "text": "bread is baked"}\n'
        b'{"_id": "d1", "text": "caf\xe9"}\n'
        b'{"_id": "d2", "text": \n'
        b'{"_id": "d3"}\n'
        b'{"_id": "d0", "text": "again"}\n'
        b'{"_id": "d 4", "text": "a b"}\n'
        b'{"_id": "d5", "text": " "}\n'
        b'{"_id": "d6", "text": "bread is baked"}\n'
        b'{"_id": "q1", "text": "Bake  bread!"}\n'
        b'{"_id": "q2", "text": "something else"}\n'
        b'{"_id": "d7", "text": "half \\ud83d"}\n'
    )  # fmt: skip
    (collection / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "bake bread"}\n{"_id": "q1", "text": "x"}\n'
        '{"_id": "#2", "text": "a"}\n{"_id": "q3", "text": ""}\n{"_id": "q2", "text": "sort"}\n'
    )
    (collection / "qrels.txt").write_text(
        "q1 0 d0 0\nq1 0 d0 2\nq9 0 d0 1\nq2 0 d9 1\nq2 0 d6 high\n"
    )
    (collection / "all.run").write_text(
        "q1 Q0 d0 1 2.0 t\nq1 Q0 d0 2 1.0 t\nq1 Q0 d6 3 1.0 t\nq1 Q0 d99 4 1.0 t\nq8 Q0 d0 1 1 t\n"
        "q1 Q0 d6\n"
    )
    done = call("data", "validate", collection, "--examples", "9", "--json")
    assert done.returncode == 5
    docs, queries = collection / "docs.jsonl", collection / "queries.jsonl"
    findings = found(done)
    unreadable = findings["documents", "cannot be read"]
    assert (unreadable["level"], unreadable["count"]) == ("error", 4)
    assert [text.partition(" ")[0] for text in unreadable["examples"]] == [
        f"{docs}:{line}:" for line in (2, 3, 4, 11)
    ]
    assert findings["queries", "cannot be read"]["examples"] == [
        f"{queries}:4: query 'q3' has no text"
    ]
    assert "'high' is not an integer" in findings["qrels", "cannot be read"]["examples"][0]
    assert "all.run:6: expected 6 columns" in findings["run all", "cannot be read"]["examples"][0]
    others = {
        (one["level"], *key, one["count"], one["examples"][0])
        for key, one in findings.items()
        if key[1] != "cannot be read"
    }
    run = collection / "all.run"
    assert others == {
        ("error", "documents", "ids that occur twice", 1, f"{docs}:5: 'd0'"),
        ("error", "documents", "ids with white space: no run file can carry them", 1,
         f"{docs}:6: 'd 4'"),
        ("warning", "documents", "empty texts", 1, f"{docs}:7: 'd5'"),
        ("warning", "documents", "identical texts", 1, "'d6' as 'd0'"),
        ("warning", "documents", "a query's own text under its id: retrieve with --remove-query",
         1, "'q1'"),
        ("error", "queries", "ids that occur twice", 1, f"{queries}:2: 'q1'"),
        ("error", "queries", "ids with '#' in front: comments in a run file", 1,
         f"{queries}:3: '#2'"),
        ("error", "qrels", "pairs judged twice with different grades", 1,
         f"{collection / 'qrels.txt'}:2: 'q1': 'd0' 2, before 0"),
        ("warning", "qrels", "judged queries that are not there", 1, "'q9'"),
        ("warning", "qrels", "judged documents that are not there", 1, "'d9'"),
        ("warning", "qrels", "queries without a document of grade 1 or more", 1, "'q1'"),
        ("error", "run all", "documents that a query lists twice", 1,
         f"{run}:2: 'd0' of query 'q1'"),
        ("error", "run all", "documents that are not in the collection", 1,
         f"{run}:4: 'd99' of query 'q1'"),
        ("warning", "run all", "queries that the collection lacks", 1, "'q8'"),
        ("warning", "run all", "queries that it lacks: they count as 0", 1, "'q2'"),
        ("warning", "run all", "queries with tied scores", 1, "'q1'"),
    }  # fmt: skip
    table = call("data", "validate", collection)
    assert table.returncode == 5
    assert f"{docs}:2: not UTF-8" in table.stdout
    assert f"{docs}:11:" not in table.stdout, "three examples of four"
    assert len([line for line in table.stdout.splitlines() if line.startswith("  error")]) == 11


DAMAGED = {
    "U+FFFD: characters lost in a conversion": ["Met\ufffdio"],
    "UTF-8 that was read as Windows-1252": [
        "cafÃ© au lait",
        "it isnâ€™t",
        "Ð¿Ñ€Ð¸",
        "2 Â½",
        "ï»¿x",
    ],
    "NUL or control characters": ["a\x00b", "a\x96b", "\x1b[31m"],
    "a byte order mark inside": ["a \ufeffb"],
    "not in Unicode's NFC: equal words may differ": ["cafe\u0301", "2.5 \u212b"],
}
SOUND = [
    "café",
    "Ã",
    "IRMÃ”",
    "ÂNCORA",
    "naïve – “quoted”",
    "日本語",
    "при",
    "tab\tand\nline",
    "5 â 6",
]


@pytest.mark.parametrize(
    ("text", "problem"),
    [(text, problem) for problem, texts in DAMAGED.items() for text in texts],
)
def test_damaged_characters_are_noted(
    call: Call, collection: Path, text: str, problem: str
) -> None:
    with (collection / "docs.jsonl").open("a") as stream:
        stream.write(json.dumps({"_id": "odd", "text": text}) + "\n")
    done = call("data", "validate", collection, "--json")
    assert done.returncode == 0
    ((key, one),) = found(done).items()
    assert key == ("documents", problem)
    assert one["level"] == "warning"
    assert one["examples"][0].startswith("'odd': '")
    assert all(31 < ord(letter) < 127 or letter == "\n" for letter in done.stdout)


@pytest.mark.parametrize("at", [0, 1023, 1024, 1055, 1056, 5000])
def test_what_is_not_composed_is_found_wherever_it_stands(at: int) -> None:
    # A letter that is none of ASCII, or nothing would be looked for.
    ((kind, excerpt),) = troubles("x" * at + "e\u0301" + "x" * 20 + "é")
    assert kind.startswith("not in Unicode's NFC")
    assert excerpt == "'" + "x" * min(at, 12) + r"e\u0301" + "x" * 10 + "'"


def test_a_text_of_marks_alone_takes_linear_time() -> None:
    began = time.perf_counter()
    assert len(list(troubles("a" + "\u0301\u0327" * 100_000))) == 1
    # Sorted as a whole they take a minute.
    assert time.perf_counter() - began < 10


def test_sound_characters_are_not(call: Call, collection: Path) -> None:
    with (collection / "docs.jsonl").open("a") as stream:
        for number, text in enumerate(SOUND):
            stream.write(json.dumps({"_id": f"s{number}", "text": text}) + "\n")
    done = call("data", "validate", collection, "--json")
    assert found(done) == {}


@pytest.mark.parametrize("name", ["sample", "irds"])
def test_a_folder_may_be_called_as_another_form_is(call: Call, collection: Path, name: str) -> None:
    collection.rename(collection.with_name(name))
    with (collection.with_name(name) / "docs.jsonl").open("a") as stream:
        stream.write("not JSON\n" * 2)
    done = call("data", "validate", name, "--json")
    assert done.returncode == 5
    # Both lines, and what else there is: nothing is refused at the first.
    assert found(done)["documents", "cannot be read"]["count"] == 2


def test_what_stops_a_file_is_noted_beside_the_rest(call: Call, collection: Path) -> None:
    packed = gzip.compress(
        "".join(f'{{"_id": "x{n}", "text": "{n * n}"}}\n' for n in range(9999)).encode()
    )
    (collection / "docs.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    toml = collection / "collection.toml"
    toml.write_text(
        toml.read_text().replace("docs.jsonl", "docs.jsonl.gz").replace("qrels.txt", "absent.txt")
    )
    done = call("data", "validate", collection, "--json")
    assert done.returncode == 5
    value = json.loads(done.stdout)
    assert 0 < value["documents"] < 9999
    findings = found(done)
    line = value["documents"] + 1
    assert findings["documents", "cannot be read"]["examples"] == [
        f"{collection / 'docs.jsonl.gz'}:{line}: damaged gzip file (Compressed file ended before "
        "the end-of-stream marker was reached)"
    ]
    assert findings["qrels", "cannot be read"]["examples"] == [
        f"no such file: {collection / 'absent.txt'}"
    ]
    assert findings["run all", "documents that are not in the collection"]["count"] == 48


@pytest.mark.parametrize(
    ("file", "content", "part", "problem"),
    [
        ("docs.jsonl", "", "documents", "there are none"),
        ("queries.jsonl", "", "queries", "there are none"),
        ("qrels.txt", "", "qrels", "there are no judgements"),
        ("qrels.txt", "other 0 d0 1\n", "qrels", "no judged query is there"),
        ("all.run", "", "run all", "there is nothing in it"),
        ("all.run", "x Q0 d0 1 1.0 t\n", "run all", "queries that the collection lacks: all"),
    ],
)
def test_parts_with_nothing_in_them_are_errors(
    call: Call, collection: Path, file: str, content: str, part: str, problem: str
) -> None:
    (collection / file).write_text(content)
    done = call("data", "validate", collection, "--json")
    assert done.returncode == 5
    assert found(done)[part, problem]["level"] == "error"


def test_runs_are_checked_beside_the_collection(
    call: Call, collection: Path, tmp_path: Path
) -> None:
    qrels = collection / "qrels.txt"
    qrels.write_text(qrels.read_text().replace("q4", "q1"))
    run = tmp_path / "own.run"
    run.write_text("q1 Q0 d0 1 2.0 t\nq2 Q0 d2 1 2.0 t\nq2 Q0 d1 2 1.0 t\n")
    done = call("data", "validate", collection, run, "--json")
    assert done.returncode == 0
    ((key, one),) = found(done).items()
    assert key == (f"run {run}", "queries that it lacks: they count as 0")
    assert one["examples"] == ["'q3'"], "q4 is not judged"
    facts = json.loads(done.stdout)["runs"][-1]
    assert (facts["name"], facts["queries"], facts["documents"]) == (str(run), 2, 3)
    assert facts["depth"]["median"] == 1.5
    absent = call("data", "validate", collection, tmp_path / "absent.run")
    assert absent.returncode == 4
    assert "no such run file" in absent.stderr


def test_numbers_that_serve_as_ids_of_both_are_no_trap(call: Call, collection: Path) -> None:
    for name in ("docs.jsonl", "queries.jsonl"):
        text = (collection / name).read_text()
        (collection / name).write_text(text.replace('"q', '"').replace('"d', '"'))
    (collection / "qrels.txt").write_text("1 0 1 1\n2 0 2 1\n")
    (collection / "all.run").write_text(
        "1 Q0 1 1 1.0 t\n2 Q0 1 1 1.0 t\n3 Q0 1 1 1 t\n4 Q0 1 1 1 t\n"
    )
    done = call("data", "validate", collection, "--json")
    assert found(done) == {}
    assert json.loads(done.stdout)["query_ids"] == 4


def test_a_level_that_no_grade_can_have_is_an_error(call: Call, collection: Path) -> None:
    toml = collection / "collection.toml"
    toml.write_text("relevance_level = 0\n" + toml.read_text())
    done = call("data", "validate", collection, "--json")
    assert done.returncode == 5
    assert ("qrels", "relevance_level must be at least 1") in found(done)


def test_requests_are_validated_once(call: Call, tmp_path: Path) -> None:
    lines = [
        {"query": {"qid": "1", "text": "a"}, "candidates": [{"docid": "d", "doc": {"text": "x"}}]},
        {"query": {"qid": "2"}, "candidates": []},
        {"query": {"qid": "3", "text": "b"}, "candidates": [{"docid": "d", "doc": {"text": "y"}}]},
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = call("data", "validate", path, "--json")
    assert done.returncode == 5
    ((key, one),) = found(done).items()
    assert key == ("documents", "cannot be read")
    assert [text.partition(" ")[0] for text in one["examples"]] == [f"{path}:2:", f"{path}:3:"]


def test_the_sample_of_the_package_is_sound(call: Call) -> None:
    done = call("data", "validate", "sample:pydocs", "--json")
    assert done.returncode == 0
    value = json.loads(done.stdout)
    assert value["documents"] > 4000
    assert value["judged_present"] == value["judged_documents"]


def test_scifact_has_the_characters_it_has(
    call: Call, shared_collection: Callable[[str], Path]
) -> None:
    folder = shared_collection("scifact")
    done = call("data", "validate", folder, "--json")
    assert done.returncode == 0
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        lost = sum("\ufffd" in str(json.loads(line)) for line in lines)
    assert lost > 0
    assert found(done)["documents", "U+FFFD: characters lost in a conversion"]["count"] == lost
    assert json.loads(done.stdout)["queries"] == 1109
