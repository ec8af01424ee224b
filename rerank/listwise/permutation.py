"""What a model wrote, read as an order: ``[3] > [1] > [2]``, and what models write instead.

Whatever the answer, the result is a whole permutation: what it does not name follows in the
order in which the passages were shown. What was wrong is recorded, not hidden.

An identifier is a number in brackets, or one beside a ``>`` in a chain. Only where an answer has
none of these are other numbers taken: those in round brackets, then those of a list by commas
or lines. Numbers of a list's items ("1. [4] 2. [7]") and of prose ("20 passages were given")
are no identifiers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_CLEAN = re.compile(r"\s*\[[0-9]+\](?:\s*>\s*\[[0-9]+\])*\s*")
# Every kind of bracket and arrow becomes one kind, so that there is one grammar.
_OPENING, _CLOSING = "[［【〔〚⟦{｛", "]］】〕〛⟧}｝"
_ARROWS = re.compile(r"&gt;|[-=]{1,3}>|[＞>→⇒➔➜≻›»≥]")
_FOLDED = str.maketrans({**dict.fromkeys(_OPENING, "["), **dict.fromkeys(_CLOSING, "]")})
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
# "[3]", "[3, 1]", "[Passage 3]", "['3']": a bracket with numbers and nothing else of weight.
_WORD = r"(?:passages?|documents?|docs?|identifiers?|ids?|no\.?|number|\#)"
_NUMBER = rf"[\"'*_]*(?:{_WORD}\s*(?::\s*)?)?\d+[\"'*_]*"
_BRACKET = re.compile(rf"\[\s*({_NUMBER}(?:\s*[,;>]\s*{_NUMBER})*)\s*\]", re.IGNORECASE)
_ROUND = re.compile(rf"[(（]\s*({_NUMBER}(?:\s*[,;>]\s*{_NUMBER})*)\s*[)）]", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
# Half a bracket: the prompt may have written the first, and an answer may end before the last.
_HALF = r"(?<![\w\[.\-])\d+\]"
_OPEN = r"\[\s*\d+(?=\s*\Z)"
_LINKED = rf"(?<=>)\s*(?:{_WORD}\s*)?\d+(?![\w.)\]]|\s*\d)|(?<![\w.\[\-(])\d+(?=\s*>)"
# The end of a sentence may stand behind the last of a chain, "3 > 1 > 2.".
_LAST = r"(?<=>)\s*\d+(?=[.)]?\s*\Z)"
_ANY = re.compile(rf"{_BRACKET.pattern}|{_HALF}|{_OPEN}|{_LINKED}|{_LAST}", re.IGNORECASE)
_ITEM = re.compile(r"(?m)^[^\S\n]*\d+[.):]\s+(?=\S)")
_PLAIN = re.compile(r"\s*\d+(?:[\s,;]+\d+)*[\s.]*")
_SERIES = re.compile(r"(?<![\w.\-])\d+(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)\d+(?!\w|\.\d))+")
# Longer ones name no passage, and reading thousands of digits is refused by Python.
_LONGEST = 9


@dataclass(frozen=True, slots=True)
class Permutation:
    """An order of n passages, and what was wrong with the answer that it was read from.

    ``order`` holds every position 0 … n − 1 once, best first. The rest is in identifiers, which
    count from 1: ``missing`` ones, in the order in which they were added at the end;
    ``repeated`` ones, which count where they were named first; ``out_of_range``, as written, the
    first 20 characters of each. ``malformed``: the answer has another form than
    ``[a] > [b] > …``.
    """

    order: tuple[int, ...]
    missing: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    out_of_range: tuple[str, ...] = ()
    malformed: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.missing or self.repeated or self.out_of_range or self.malformed)


def read_permutation(answer: str, passages: int) -> Permutation:
    """Read a model's order of that many passages, whatever it wrote; never fails."""
    order: dict[int, None] = {}
    repeated: dict[int, None] = {}
    beyond: dict[str, None] = {}
    for digits in _identifiers(answer, passages):
        value = int(digits) if len(digits) <= _LONGEST else 0
        if not 1 <= value <= passages:
            beyond[digits[:20]] = None
        elif value - 1 in order:
            repeated[value] = None
        else:
            order[value - 1] = None
    missing = [place for place in range(passages) if place not in order]
    return Permutation(
        (*order, *missing),
        tuple(place + 1 for place in missing),
        tuple(repeated),
        tuple(beyond),
        malformed=not _CLEAN.fullmatch(answer),
    )


def _identifiers(answer: str, passages: int) -> Iterator[str]:
    """Yield the digits of each identifier, in order."""
    folded = _ARROWS.sub(">", _THOUGHT.sub("\n", answer).translate(_FOLDED))
    found = list(_outside_other_brackets(folded))
    if found:
        for written in found:
            if not _may_go_on(written, passages):
                yield from _DIGITS.findall(written)
        return
    rounds = list(_ROUND.finditer(folded))
    if rounds:
        for match in rounds:
            yield from _DIGITS.findall(match.group())
        return
    bare = _ITEM.sub("\n", folded)
    listed = [bare] if _PLAIN.fullmatch(bare) else _SERIES.findall(bare)
    for text in listed:
        yield from _DIGITS.findall(text)


def _outside_other_brackets(folded: str) -> Iterator[str]:
    """Yield what was found, less numbers that only end a bracket: ``[1 to 5]`` does not name 5.

    Behind a ``>`` they do: ``[the order is 3 > 5]``.
    """
    end, opened = 0, False
    for match in _ANY.finditer(folded):
        between = folded[end : match.start()]
        last = max(between.rfind("["), between.rfind("]"))
        opened = opened if last < 0 else between[last] == "["
        written, end = match.group(), match.end()
        half = written.endswith("]") and not written.startswith("[")
        if not half or not opened or between.rstrip().endswith(">"):
            yield written
        opened = opened and not written.endswith("]")


def _may_go_on(written: str, passages: int) -> bool:
    """Say whether an answer that ended inside this bracket could have meant a longer number."""
    if not written.startswith("[") or written.endswith("]"):
        return False
    digits = written[1:].strip()
    return len(digits) < _LONGEST and 10 * int(digits) <= passages
