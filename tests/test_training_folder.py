"""The folder of training lists: what it keeps, what it refuses, and that it is never half there."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.records import Document
from ranklens.rerank.training.folder import (
    joined_digest,
    joined_manifest,
    lists_digest,
    read_lists,
    read_manifest,
    write_lists,
)
from ranklens.rerank.training.lists import TrainingList, TrainingQuery

A, B, C = (Document(name, f"text of {name}", title) for name, title in ("ax", "by", "cz"))
LISTS = [
    TrainingList((A, B), (TrainingQuery("q", "which?", (1, None), {"m": (0.1, -2.5)}),)),
    TrainingList(
        (C, A), (TrainingQuery("r", "what?", None, {}), TrainingQuery("s", "so?", (0, 2), {}))
    ),
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    counts = write_lists(tmp_path / "out", LISTS, {"seed": 3})
    assert counts == {"documents": 3, "lists": 2, "queries": 3}
    assert read_lists(tmp_path / "out") == LISTS
    assert read_manifest(tmp_path / "out") == {"seed": 3, "format": 1, "counts": counts}
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing beside it"


def test_the_digest_is_of_the_lists_alone(tmp_path: Path) -> None:
    write_lists(tmp_path / "a", LISTS, {"seed": 3})
    write_lists(tmp_path / "b", iter(LISTS), {"seed": 4})
    write_lists(tmp_path / "c", LISTS[:1], {"seed": 3})
    digests = [lists_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0].startswith("sha256:")


def test_several_folders_are_one_source(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_lists(one, LISTS, {"collections": [{"name": "x"}], "seed": 1})
    write_lists(two, LISTS[:1], {"collections": [{"name": "x"}, {"name": "y"}], "seed": 2})
    assert joined_digest([one]) == lists_digest(one)
    assert len({joined_digest(chosen) for chosen in ([one], [two], [one, two], [two, one])}) == 4
    assert joined_manifest([one]) == read_manifest(one)
    joined = joined_manifest([one, two])
    assert joined["collections"] == [{"name": "x"}, {"name": "y"}]
    assert joined["counts"] == {"documents": 5, "lists": 3, "queries": 4}
    assert [part["seed"] for part in joined["parts"]] == [1, 2]
    twice = joined_manifest([one, two, one])
    assert twice["counts"] == joined["counts"], "visited twice, and no more lists than before"
    assert [part["seed"] for part in twice["parts"]] == [1, 2, 1]
    assert joined_digest([one, two, one]) != joined_digest([one, two])


def test_hostile_texts_come_back(tmp_path: Path) -> None:
    hostile = "nul \x00, \x1b[31m, \u2028, \u202e, <|im_end|>\r\n</script>, half \ud800."
    document = Document("d", hostile)
    write_lists(
        tmp_path / "out", [TrainingList((document,), (TrainingQuery("q", hostile, None, {}),))], {}
    )
    [one] = read_lists(tmp_path / "out")
    assert one.documents[0].text == one.queries[0].text == hostile.replace("\ud800", "\ufffd")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[TrainingList]:
        yield LISTS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lists(tmp_path / "out", broken(), {})
    with pytest.raises(InvalidInputError, match="no lists to write"):
        write_lists(tmp_path / "out", [], {})
    other = TrainingList((Document("a", "other"),), (TrainingQuery("q", "which?", None, {}),))
    with pytest.raises(InvalidInputError, match="'a' has two texts"):
        write_lists(tmp_path / "out", [LISTS[0], other], {})
    with pytest.raises(InvalidInputError, match="'a' occurs twice"):
        write_lists(
            tmp_path / "out", [TrainingList((A, A), (TrainingQuery("q", "?", None, {}),))], {}
        )
    with pytest.raises(InvalidInputError, match="query 'q' has no text"):
        write_lists(
            tmp_path / "out", [TrainingList((A,), (TrainingQuery("q", " ", None, {}),))], {}
        )
    assert not list(tmp_path.iterdir())


def test_lists_are_written_over_only_when_asked(tmp_path: Path) -> None:
    write_lists(tmp_path / "out", LISTS, {})
    with pytest.raises(InvalidInputError, match="has training lists already"):
        write_lists(tmp_path / "out", LISTS[:1], {})

    def broken() -> Iterator[TrainingList]:
        yield LISTS[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_lists(tmp_path / "out", broken(), {}, overwrite=True)
    assert read_lists(tmp_path / "out") == LISTS, "the old ones stay"
    write_lists(tmp_path / "out", LISTS[:1], {}, overwrite=True)
    assert read_lists(tmp_path / "out") == LISTS[:1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InvalidInputError, match=r"holds other files \(thesis.tex\)"):
        write_lists(tmp_path / "mine", LISTS, {}, overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="it is a file"):
        write_lists(tmp_path / "file", LISTS, {})


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no training lists in"):
        read_lists(tmp_path)
    write_lists(tmp_path / "out", LISTS, {})
    lines = (tmp_path / "out" / "lists.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "lists.jsonl").write_text(lines[0])
    with pytest.raises(InvalidInputError, match=r"1 lists where manifest\.json counts 2"):
        read_lists(tmp_path / "out")
    for text, message in (
        ("{", "not JSON"), ("[]", "counts nothing"), ('{"counts": {}, "format": 9}', "format is 9"),
    ):  # fmt: skip
        (tmp_path / "out" / "manifest.json").write_text(text)
        with pytest.raises(InvalidInputError, match=message):
            lists_digest(tmp_path / "out")


def _query(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row["queries"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(more=1), "the field 'more' is unknown"),
        (lambda row: row.pop("queries"), "the field 'queries' is missing"),
        (lambda row: row.update(documents="a"), "must be a list of ids"),
        (lambda row: row.update(documents=["a", "a"]), "has an id twice"),
        (lambda row: row.update(documents=["b", "no"]), "'no' is not in documents"),
        (lambda row: row.update(queries=[]), "needs documents and queries"),
        (lambda row: row.update(queries=[1]), "must be a JSON object"),
        (_query(text=" "), "needs an id and a text"),
        (_query(grades=[1]), "grades of query 'q': 1 for 2 documents"),
        (_query(grades=[1, True]), "expected an int or null"),
        (_query(teachers=[]), "must be a JSON object"),
        (_query(teachers={"m": [1.0]}), "scores by 'm' of query 'q': 1 for 2"),
        (_query(teachers={"m": [1.0, float("nan")]}), "a score by 'm' of query 'q' is nan"),
        (_query(teachers={"m": [1.0, 10**400]}), "a score by 'm' of query 'q' is 1000"),
    ],
)
def test_errors_name_file_and_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_lists(tmp_path / "out", LISTS, {})
    path = tmp_path / "out" / "lists.jsonl"
    first, second = path.read_text().splitlines(keepends=True)
    row = json.loads(first)
    change(row)
    path.write_text(second + json.dumps(row) + "\n")
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_lists(tmp_path / "out")
    assert f"{path}:2: " in str(caught.value)
