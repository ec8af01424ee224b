"""What mkdocs.yml tells griffe to do with docstrings: ``>>>`` and what follows become a fence."""

from __future__ import annotations

import re
from typing import Any

import griffe

# In Markdown, lines that begin with > would be a quotation.
_SESSION = re.compile(r"^( *)>>> .*?(?=\n *\n|\Z)", re.DOTALL | re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences sessions in all docstrings of a package."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring; griffe calls this for every module, class, function and value."""
        if obj.docstring and ">>> " in obj.docstring.value:
            obj.docstring.value = _SESSION.sub(_fenced, obj.docstring.value)


def _fenced(session: re.Match[str]) -> str:
    indent = session[1]
    return f"{indent}```pycon\n{session[0]}\n{indent}```"
