import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.load import load_collection
from ranklens.data.records import Document, Query, ScoredDoc

pytest_plugins = ["cli_fixtures"]

CATS = {"title": "Cats", "text": "purr"}
REQUESTS: list[dict[str, Any]] = [
    {
        "query": {"text": " what purrs", "qid": 1},
        "candidates": [
            {"docid": "d1", "score": 1.5, "doc": {"contents": "bark", "url": "u"}},
            {"docid": "d2", "score": 3, "doc": CATS},
            {"docid": "d0", "score": 1.5, "doc": {"segment": "swim"}},
        ],
    },
    {
        "query": {"text": "who barks", "qid": "2"},
        "candidates": [
            {"docid": "d2", "doc": CATS},
            {"docid": "d9", "score": 7, "doc": {"passage": "last", "body": "body"}},
            {"docid": "d1", "doc": {"contents": "bark"}},
        ],
    },
    {"query": {"text": "nothing", "qid": "3"}, "candidates": []},
]


def put(path: Path, requests: list[Any]) -> Path:
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def test_requests_are_queries_documents_and_candidates(tmp_path: Path) -> None:
    collection = load_collection(str(put(tmp_path / "mine.jsonl", REQUESTS)))
    assert collection.name == "mine"
    assert collection.queries == [
        Query("1", "what purrs"),
        Query("2", "who barks"),
        Query("3", "nothing"),
    ]
    assert list(collection.documents) == [
        Document("d2", "purr", "Cats"),
        Document("d1", "bark"),
        Document("d0", "swim"),
        Document("d9", "body"),
    ]
    assert collection.documents.get_many(["d9", "absent"]) == {"d9": Document("d9", "body")}
    # Equal scores as they stand; one score of three says nothing, so the list's order counts.
    assert dict(collection.candidates("requests")) == {
        "1": (ScoredDoc("d2", 3.0), ScoredDoc("d1", 1.5), ScoredDoc("d0", 1.5)),
        "2": (ScoredDoc("d2", 3.0), ScoredDoc("d9", 2.0), ScoredDoc("d1", 1.0)),
        "3": (),
    }
    assert not collection.qrels


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ({"passage": "p", "body": "b", "content": "c", "contents": "cs"}, "cs"),
        ({"passage": "p", "body": "b", "content": "c"}, "c"),
        ({"passage": "p", "body": "b"}, "b"),
        ({"passage": "p"}, "p"),
        ({"contents": "cs", "segment": "s"}, "s"),
        ({"segment": "s", "text": "t"}, "t"),
    ],
)
def test_the_text_is_the_first_of_the_keys(tmp_path: Path, doc: dict[str, str], text: str) -> None:
    request = {"query": {"qid": "1", "text": "x"}, "candidates": [{"docid": "d", "doc": doc}]}
    collection = load_collection(str(put(tmp_path / "r.jsonl", [request])))
    assert list(collection.documents) == [Document("d", text)]


def test_a_collection_toml_gives_requests_judgements(tmp_path: Path) -> None:
    put(tmp_path / "r.jsonl", REQUESTS)
    (tmp_path / "qrels.txt").write_text("1 0 d2 1\n")
    (tmp_path / "collection.toml").write_text(
        'name = "pets"\nrequests = "r.jsonl"\nqrels = "qrels.txt"\n'
    )
    collection = load_collection(str(tmp_path))
    assert collection.queries == [Query("1", "what purrs")]
    assert dict(collection.qrels["1"]) == {"d2": 1}
    assert len(collection.candidates("requests")["2"]) == 3
    before = collection.fingerprint()
    put(tmp_path / "r.jsonl", REQUESTS[:2])
    after = load_collection(str(tmp_path)).fingerprint()
    assert [part for part in before if before[part] != after[part]] == ["documents", "queries"]


def changed(**parts: Any) -> dict[str, Any]:
    return {**REQUESTS[0], **parts}


def listed(*candidates: Any) -> dict[str, Any]:
    return changed(candidates=list(candidates))


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([{"prompt": "x"}], r"1: 'query' must be an object, found \['prompt'\]; is it a file of"),
        ([changed(query="what")], r"1: 'query' must be an object, got 'what'"),
        ([changed(query={"qid": "1", "text": " "})], "1: query '1' has no text"),
        ([changed(query={"text": "x"})], r"1: no field 'qid' or 'id' or 'query_id'"),
        ([{"query": {"qid": "1", "text": "x"}}], r"1: 'candidates' must be a list, found"),
        ([listed("d1")], "1: a candidate must be an object, got 'd1'"),
        ([listed({"docid": "d1"})], r"1: 'doc' must be an object, found \['docid'\]"),
        ([listed({"doc": CATS})], "1: no field 'docid' or 'id'"),
        ([listed({"docid": "d", "doc": {"x": 1}})], r"no field 'text' or 'segment' .*\['x'\]"),
        (
            [listed({"docid": "d", "doc": CATS, "score": "1"})],
            "'d' has the score '1', not a finite",
        ),
        ([listed({"docid": "d", "doc": CATS, "score": True})], "'d' has the score True"),
        (
            [listed({"docid": "d", "doc": CATS, "score": 10**400})],
            r"'d' has the score 10{79}… \(401 characters\), not a finite",
        ),
        ([listed(*[{"docid": "d", "doc": CATS}] * 2)], "1: query '1' lists document 'd' twice"),
        ([REQUESTS[0], REQUESTS[1], REQUESTS[0]], r"3: query id '1' occurs twice .*on line 1"),
        ([], "the file is empty"),
    ],
)
def test_a_bad_request_names_its_line(tmp_path: Path, requests: list[Any], message: str) -> None:
    path = put(tmp_path / "r.jsonl", requests)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_collection(str(path))
    assert str(caught.value).startswith(str(path))


def test_a_score_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    bad = listed({"docid": "d", "doc": CATS, "score": float("nan")})
    with pytest.raises(InvalidInputError, match=r"r\.jsonl:1: document 'd' has the score nan"):
        load_collection(str(put(tmp_path / "r.jsonl", [bad])))


@pytest.mark.parametrize("doc", [{"text": "other", "title": "Cats"}, {"text": "purr"}])
def test_one_id_for_two_texts_names_the_line(tmp_path: Path, doc: dict[str, str]) -> None:
    second = {"query": {"qid": "9", "text": "x"}, "candidates": [{"docid": "d2", "doc": doc}]}
    collection = load_collection(str(put(tmp_path / "r.jsonl", [REQUESTS[0], second])))
    with pytest.raises(InvalidInputError, match=r"r\.jsonl:2: document 'd2' has another text here"):
        list(collection.documents)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('requests = "r.jsonl"\ndocs = "d.jsonl"\n', "leave out 'docs'"),
        ('requests = "r.jsonl"\n[candidates]\nrequests = "x"\n', "'requests' are those of the req"),
    ],
)
def test_requests_and_other_sources_exclude_each_other(
    tmp_path: Path, toml: str, message: str
) -> None:
    put(tmp_path / "r.jsonl", REQUESTS)
    (tmp_path / "collection.toml").write_text(toml)
    with pytest.raises(InvalidInputError, match=message):
        load_collection(str(tmp_path))


def test_a_file_that_is_no_request_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "docs.tsv"
    path.touch()
    with pytest.raises(InvalidInputError, match=r"docs\.tsv is no collection: of files, only req"):
        load_collection(str(path))
    (tmp_path / "collection.toml").write_text('requests = "r.jsonl"\n')
    with pytest.raises(MissingResourceError, match=r"no such file: .*r\.jsonl"):
        load_collection(str(tmp_path))


def test_what_is_written_as_the_format_says_is_reranked(
    tmp_path: Path, call: Callable[..., Any], decoder: str
) -> None:
    path = put(tmp_path / "mine.jsonl", REQUESTS[:2])
    output = tmp_path / "reranked.run"
    done = call("rerank", path, "requests", "--reranker", decoder, "-o", output)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in output.read_text().splitlines()]
    assert {(query, doc) for query, _, doc, *_ in lines} == {
        ("1", "d0"), ("1", "d1"), ("1", "d2"), ("2", "d1"), ("2", "d2"), ("2", "d9"),
    }  # fmt: skip


def test_requests_without_candidates_are_not_reranked(
    tmp_path: Path, call: Callable[..., Any], decoder: str
) -> None:
    empty: dict[str, Any] = {"query": {"qid": "0", "text": "x"}, "candidates": []}
    output = tmp_path / "reranked.run"
    command = ["requests", "--reranker", decoder, "-o", output]
    done = call("rerank", put(tmp_path / "empty.jsonl", [empty]), *command)
    assert done.returncode == 5
    assert "the candidates 'requests' of collection 'empty' list no document" in done.stderr
    assert not output.exists()
    # Of the queries that there is something to rerank for, the first.
    path = put(tmp_path / "some.jsonl", [empty, *REQUESTS[:2]])
    assert call("rerank", path, *command, "--limit", 1).returncode == 0
    assert {line.split()[0] for line in output.read_text().splitlines()} == {"1"}
