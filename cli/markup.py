"""Anybody's text as a cell of a Markdown or LaTeX table."""

from __future__ import annotations

import re

from ranklens.cli.escape import printable

# CommonMark takes a backslash before any of ASCII's punctuation; these mean something in a cell.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|$~&!^])")
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}",
    # After the end of a row a bracket would be its argument.
    "[": "{[}", "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def markdown(text: str) -> str:
    """Return a text that a Markdown table shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def latex(text: str) -> str:
    """Return a text that LaTeX sets as it is, on one line."""
    escaped = "".join(_LATEX.get(character, character) for character in printable(text))
    # LaTeX makes one longer dash of two.
    return re.sub("-(?=-)", "-{}", escaped)
