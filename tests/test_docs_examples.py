"""The examples of the documentation do what they show, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.worked_pages import compare, follow, steps

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "examples"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
NEED_MODELS = {"compare-on-your-data.md", "detect-heads.md", "rag-langchain.md"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.model if name in NEED_MODELS else ()) for name in PAGES],
)
def test_an_example_prints_what_it_shows(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKLENS_TRACEBACK", "1")
    assert follow(FOLDER / name, tmp_path, lambda: capsys.readouterr().out) >= 5


@pytest.mark.model
@pytest.mark.parametrize("name", ["evaluation.md", "retrieval.md"])
def test_the_code_of_a_guide_prints_what_it_shows(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow(DOCS / name, DOCS, lambda: capsys.readouterr().out) == 1


def test_the_pages_that_need_models_are_there() -> None:
    assert set(PAGES) >= NEED_MODELS


def test_a_page_is_read_as_its_reader_would() -> None:
    page = (
        '```json title="a.json"\n{}\n```\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n'
        "<!-- within 0.1 -->\n```console\n$ ranklens a \\\n    b\n2\n$ ranklens c\n```\n"
    )
    file, code, first, second = steps(page)
    assert (file.kind, file.title, file.text, file.line) == ("file", "a.json", "{}\n", 1)
    assert (code.kind, code.text, code.shown, code.within) == ("python", "print(1)\n", "1\n", 0)
    assert (first.text.split(), first.shown) == (["ranklens", "a", "b"], "2\n")
    assert (first.within, second.text, second.shown) == (0.1, "ranklens c", "")


@pytest.mark.parametrize(
    ("shown", "printed", "within"),
    [
        ("a 1.0", "a 1.1", 0.0),
        ("a 1.0", "a 1.1", 0.05),
        ("a 1.0", "b 1.0", 0.05),
        ("a 1.0", "a 1.0\nmore", 0.05),
        ("", "unshown", 0.0),
        ("unprinted", "", 0.0),
    ],
)
def test_a_difference_is_found(shown: str, printed: str, within: float) -> None:
    with pytest.raises(AssertionError, match=r"page\.md, line 3"):
        compare(shown, printed, within, "page.md, line 3")


def test_numbers_may_differ_by_what_the_page_says() -> None:
    compare("a  0.10   b 12", "a  0.14  b 12", 0.05, "page.md, line 3")
    compare(" ───\n x 1.0", " ──\n x 1.0", 0.05, "page.md, line 3")
