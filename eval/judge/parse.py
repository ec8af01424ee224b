"""Reading a label out of an answer in words, or saying that there is none."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Letters and digits of any script count as neighbours, so that no label is read out of a word.
_BLANK = r"[^\S\n]*"


def parse_grade(text: str, labels: Mapping[str, int], answer: str = "") -> int | None:
    """Return the grade that an answer gives, or None where it is not plain.

    An answer is plain if, without the white space around it, it is a label and nothing else; or
    if it says ``answer`` (in any case and spacing), each time followed by the same label and by
    nothing else on the line but a full stop. ``answer`` with 10, -1, 2.5 or "2 or 3" behind it
    gives None, and so do two different labels. A digit elsewhere is never looked at.
    """
    found = labels.get(_bare(text))
    if found is not None or not answer:
        return found
    mark = _BLANK.join(re.escape(word) for word in _words(answer))
    # A mark inside another word is none: "upgrade: 2".
    lead = r"(?<!\w)" if answer[0].isalnum() else ""
    said = [
        labels.get(_bare(match[1]))
        for match in re.finditer(rf"{lead}{mark}([^\n]*)", text, re.IGNORECASE)
    ]
    return said[0] if said and all(one == said[0] for one in said) else None


def _bare(text: str) -> str:
    return text.strip().removesuffix(".").strip()


def _words(answer: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]+", answer)
