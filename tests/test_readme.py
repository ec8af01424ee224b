"""What the README shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(text: str, marker: str) -> list[str]:
    """Return the fenced blocks after a marker line, without their fences."""
    _, found, rest = text.partition(f"<!-- {marker} -->\n")
    assert found, f"README.md has no <!-- {marker} -->"
    return re.findall(r"```\w*\n(.*?)```", rest, flags=re.DOTALL)


@pytest.mark.model
def test_the_python_example_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, *_ = blocks(README.read_text(encoding="utf-8"), "example")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == output


def test_both_commands_install_with_the_pinned_versions() -> None:
    text = README.read_text(encoding="utf-8")
    for number in (1, 2):
        command = blocks(text, f"command {number}")[0]
        assert command.count("\n") == 1
        assert "-c constraints.txt" in command


def test_no_figure_is_left_to_be_filled_in() -> None:
    assert "@@" not in README.read_text(encoding="utf-8")
    assert any((README.parent / "benchmarks" / "results").glob("*.txt"))


def test_the_commands_of_the_readme_exist() -> None:
    from ranklens.cli.main import app

    shown = set(re.findall(r"^ranklens (\w+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {str(group.name) for group in app.registered_groups}
    assert shown <= known
    assert {"run", "retrieve", "rerank", "evaluate", "cache", "models", "doctor"} <= shown
