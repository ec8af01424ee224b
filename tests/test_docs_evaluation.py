"""The examples of docs/integrations-evaluation.md and docs/positions.md print what they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:The inplace keyword::pyterrier"),
    # An experiment's advice on how to be faster.
    pytest.mark.filterwarnings("ignore:There are shared pipeline components:UserWarning"),
]


def blocks(name: str) -> list[tuple[str, str]]:
    """Return the page's fenced blocks with their languages."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("name", ["integrations-evaluation.md", "positions.md"])
def test_the_examples_print_what_they_show(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variables: dict[str, object] = {"__name__": name}
    code = ""
    ran = 0
    for language, block in blocks(name):
        if language == "python":
            code = block
            exec(compile(code, name, "exec"), variables)
            ran += 1
        elif code and not language:
            assert capsys.readouterr().out == block, code
            code = ""
    assert ran >= 2
