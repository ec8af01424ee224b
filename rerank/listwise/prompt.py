"""The prompt with numbered passages that RankGPT introduced and its successors were trained on.

The words are RankGPT's protocol; all passages are in one turn of the user, as RankZephyr has
them, and not in a turn each, which templates of many models would make long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from ranklens.data.chat import Text, Turn

Identifiers = Literal["numbers", "letters"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SYSTEM = (
    "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to "
    "the query."
)
_KINDS = {"numbers": "a numerical", "letters": "an alphabetical"}
_EXAMPLES = {"numbers": "[2] > [1]", "letters": "[B] > [A]"}
# What the prompt marks passages with, written by somebody else.
_MARK = re.compile(r"\[(\d{1,3}|[A-Za-z])\]")


def identifiers(count: int, kind: Identifiers) -> list[str]:
    """Return the first identifiers: 1, 2, … or A, B, …; of letters there are 26."""
    return [str(n + 1) for n in range(count)] if kind == "numbers" else list(LETTERS[:count])


def listwise_turns(query: str, passages: Sequence[str], kind: Identifiers) -> list[Turn]:
    """Return the turns that ask for an order; only passages may be cut, at their ends.

    Marks such as ``[3]`` in query and passages become ``(3)``: they would be passages to the
    model.
    """
    asked = Text(_unmarked(query))
    count = len(passages)
    parts: list[str | Text] = [
        f"I will provide you with {count} passages, each indicated by {_KINDS[kind]} identifier "
        "[]. Rank the passages based on their relevance to the search query: ",
        asked,
        ".\n\n",
    ]
    for name, passage in zip(identifiers(count, kind), passages, strict=True):
        parts += [f"[{name}] ", Text(_unmarked(passage), cut="end"), "\n"]
    parts += [
        "\nSearch Query: ",
        asked,
        f".\nRank the {count} passages above based on their relevance to the search query. All "
        "the passages should be included and listed using identifiers, in descending order of "
        f"relevance. The output format should be [] > [], e.g., {_EXAMPLES[kind]}. Only respond "
        "with the ranking results, do not say any word or explain.",
    ]
    return [Turn("system", (_SYSTEM,)), Turn("user", tuple(parts))]


def _unmarked(text: str) -> str:
    return _MARK.sub(r"(\1)", text)
