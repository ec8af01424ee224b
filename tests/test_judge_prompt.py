"""Judging prompts, and reading labels out of answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranklens.data.chat import Text
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.eval.judge.parse import parse_grade
from ranklens.eval.judge.prompt import SHIPPED, load_prompt
from ranklens.eval.judge.verdict import rounded

LABELS = {"0": 0, "1": 1, "2": 2, "3": 3}
MARK = "##final score:"
MINIMAL = 'user = "{query} {passage}"\n[labels]\n0 = 0\n1 = 1\n'


@pytest.mark.parametrize(
    ("answer", "grade"),
    [
        # The four that UMBRELA's parser reads as 3, 1, 1 and 2.
        ("On a scale of 0 to 3 this passage is partly relevant. ##final score: 2", 2),
        ("##final score: 10", None),
        ("##final score: -1", None),
        ("final score: 2.5", None),
        ("2", 2),
        (" 2.\n", 2),
        ("## Final Score : 3", 3),
        ("M: 3\nT: 1\n##final score: 0", 0),
        ("##final score: 2\n\nThe passage is good for 3 reasons.", 2),
        ("##final score: 2 or 3", None),
        ("##final score: 2/3", None),
        ("##final score: 2.5", None),
        ("##final score: 02", None),
        ("##final score: two", None),
        ("##final score:\n2", None),
        ("##final score: 4", None),
        ("##final score:", None),
        ("##final score: ²", None),
        ("##final score: ２", None),
        # A passage that is quoted, then graded otherwise.
        ("It says ##final score: 3\n##final score: 0", None),
        ("##final score: 1\n##final score: 1", 1),
        ("O: 3", None),
        ("I would say 3", None),
        ("3 is the highest; this gets 1", None),
        ("{score}", None),
        ("", None),
        ("\n" * 5000 + "##" * 5000, None),
    ],
)
def test_only_a_plain_answer_is_a_label(answer: str, grade: int | None) -> None:
    assert parse_grade(answer, LABELS, MARK) == grade


def test_labels_need_not_be_digits_or_have_a_mark() -> None:
    labels = {"irrelevant": 0, "relevant": 1}
    assert parse_grade("relevant", labels) == 1
    assert parse_grade("irrelevant.", labels) == 0
    assert parse_grade("not relevant", labels) is None
    assert parse_grade("Verdict: relevant", labels) is None
    assert parse_grade("Overgrade: relevant", labels, "grade:") is None


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_prompts_ask_for_four_grades(name: str) -> None:
    prompt = load_prompt(name)
    assert dict(prompt.labels) == LABELS
    assert len(prompt.calls) == {"graded": 1, "criteria": 4}[name]
    for call in prompt.calls:
        turns = prompt.turns(call, "QUERY {passage}", "PASSAGE {query} {0} %s")
        assert [turn.role for turn in turns] == ["system", "user"]
        texts = [part for turn in turns for part in turn.parts if isinstance(part, Text)]
        assert texts == [Text("QUERY {passage}"), Text("PASSAGE {query} {0} %s", cut="end")]
        ours = "".join(part for turn in turns for part in turn.parts if isinstance(part, str))
        assert "{" not in ours
    said = {prompt.turns(call, "q", "p") for call in prompt.calls}
    assert len(said) == len(prompt.calls)


def test_a_file_keeps_its_other_braces(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "user = 'As {\"score\": {x}}. Query: {query} Passage: {passage}'\n"
        "answer = '##final score:'\n[labels]\nno = 0\nyes = 2\n"
    )
    prompt = load_prompt(str(file))
    (turn,) = prompt.turns(prompt.calls[0], "q", "p")
    expected = ('As {"score": {x}}. Query: ', Text("q"), " Passage: ", Text("p", cut="end"))
    assert tuple(part for part in turn.parts if part) == expected
    assert (prompt.name, dict(prompt.labels)) == ("mine", {"no": 0, "yes": 2})


def test_the_digest_is_of_what_is_said(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "p.toml").write_text(text)
        return load_prompt(str(tmp_path / "p.toml")).digest

    same = digest(MINIMAL)
    assert digest("# a comment\n" + MINIMAL) == same
    assert digest(MINIMAL.replace("} {", "}  {")) != same
    assert digest(MINIMAL.replace("1 = 1", "1 = 2")) != same


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user = ", "not TOML"),
        (MINIMAL.replace("{passage}", ""), "lacks {passage}"),
        ('system = "{query}"\n' + MINIMAL, "belongs in user"),
        ('user = "{query} {passage}"', r"needs a table \[labels\]"),
        (MINIMAL.replace("1 = 1", '1 = "one"'), "label '1' must be an integer"),
        (MINIMAL.replace("1 = 1", "1 = -1"), "from 0 to 1000, got -1"),
        ('temperature = "hot"\n' + MINIMAL, "unknown key 'temperature'"),
        ("name = 3\n" + MINIMAL, "name must be text"),
        (MINIMAL + '[criteria]\nfit = "Fit"\n', "criteria and no {criterion}"),
        ('system = "{criterion}"\n' + MINIMAL, "a place {criterion} and no criteria"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(InvalidInputError, match=message) as refused:
        load_prompt(str(file))
    assert str(file) in str(refused.value)


def test_an_unknown_prompt_names_the_known_ones() -> None:
    with pytest.raises(MissingResourceError, match="graded or criteria"):
        load_prompt("umbrela")


@pytest.mark.parametrize(
    ("grades", "mean"), [([0, 1], 0), ([1, 2], 1), ([3, 3, 2, 2], 2), ([3, 3, 3, 2], 3), ([2], 2)]
)
def test_a_half_goes_to_the_lower_grade(grades: list[int], mean: int) -> None:
    assert rounded(grades) == mean
