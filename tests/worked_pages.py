"""Run a Markdown page of examples as its reader would, and compare what it shows with what happens.

A page is read from above. What its fences mean:

    ```json title="docs.jsonl"    a file to write, word for word
    ```python                     code; all of a page's code shares one namespace
    ```console                    lines that begin with ``$ `` are commands, the others their output
    ```text                       what the code before it printed
    ```                           for the reader alone

What is printed and not shown is an error, so is what is shown and not printed. Lines lose the
white space at their ends. After ``<!-- within 0.02 -->`` numbers may differ by so much, absolutely,
up to the next such mark or to the page's end; ``<!-- exactly -->`` takes it back.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_STEP = re.compile(
    r"^<!-- within (?P<within>[\d.]+) -->$"
    r"|^<!-- (?P<exactly>exactly) -->$"
    r'|^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<body>.*?)^```$',
    re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_RULE = re.compile(r"[ ─]{2,}")


@dataclass(frozen=True, slots=True)
class Step:
    """One fence: ``text`` is code, a file's content or a command; ``shown`` is its output."""

    kind: Literal["file", "python", "command"]
    text: str
    line: int
    title: str = ""
    shown: str = ""
    within: float = 0.0


def steps(page: str) -> list[Step]:
    """Return what a page asks its reader to do, in order."""
    found: list[Step] = []
    within = 0.0
    for match in _STEP.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        body = match["body"] or ""
        if match["within"] or match["exactly"]:
            within = float(match["within"] or 0)
        elif match["title"]:
            found.append(Step("file", body, line, title=match["title"]))
        elif match["language"] == "python":
            found.append(Step("python", body, line, within=within))
        elif match["language"] == "console":
            found.extend(_commands(body, line, within))
        elif match["language"] == "text":
            last = found.pop()
            assert last.kind == "python", f"line {line}: output of no code"
            assert not last.shown, f"line {line}: a second output"
            found.append(Step("python", last.text, last.line, shown=body, within=within))
        else:
            raise AssertionError(f"line {line}: nobody knows what a {match['language']} block is")
    return found


def _commands(body: str, line: int, within: float) -> Iterator[Step]:
    joined = body.replace("\\\n", " ")
    for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield Step("command", command, line, shown=shown, within=within)


def follow(page: Path, folder: Path, printed: Callable[[], str]) -> int:
    """Do what a page says in a folder, which is the current one; return the number of steps.

    ``printed`` returns what was written to standard output since it was last called.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    todo = steps(page.read_text(encoding="utf-8"))
    for step in todo:
        place = f"{page.name}, line {step.line}"
        printed()
        if step.kind == "file":
            path = folder / step.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
            continue
        if step.kind == "python":
            exec(compile("\n" * step.line + step.text, page.name, "exec"), namespace)
        else:
            _call(step.text, place)
        compare(step.shown, printed(), step.within, place)
    return len(todo)


def _call(command: str, place: str) -> None:
    from ranklens.cli.main import main

    words = shlex.split(command)
    assert words[0] == "ranklens", f"{place}: {words[0]} is not run here"
    before, sys.argv = sys.argv, words
    code: object = 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = before
    assert not code, f"{place}: {command} ended with {code}"


def compare(shown: str, printed: str, within: float, place: str) -> None:
    """Assert that a page shows what was printed, numbers up to ``within``."""
    left, right = _lines(shown), _lines(printed)
    assert len(left) == len(right), f"{place}: shown\n{shown}\nprinted\n{printed}"
    for expected, actual in zip(left, right, strict=True):
        if within:
            # A column that is a digit wider moves what stands beside it.
            expected, actual = _RULE.sub(" ", expected), _RULE.sub(" ", actual)
            numbers = zip(_NUMBER.findall(expected), _NUMBER.findall(actual), strict=False)
            far = [(a, b) for a, b in numbers if abs(float(a) - float(b)) > within + 1e-9]
            same = _NUMBER.sub("#", expected) == _NUMBER.sub("#", actual) and not far
        else:
            same = expected == actual
        assert same, f"{place}: shown\n{shown}\nprinted\n{printed}"


def _lines(text: str) -> list[str]:
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n").split("\n")
