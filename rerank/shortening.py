"""Texts cut to tokens, as every reranker counts its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.base import Shortened

Offsets = Sequence[tuple[int, int]]
"""For each token its half-open range of code points."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def shorten(
    text: str, most: int | None, tokenised: Callable[[str], tuple[Sequence[int], Offsets]]
) -> Shortened:
    """Return the longest prefix of a text, in whole characters, of at most ``most`` tokens.

    ``tokenised`` returns ids and ranges of a text. A prefix can have other tokens than the text
    begins with, so it is counted anew. Raises InvalidInputError for ``most`` below 0.
    """
    if most is not None and most < 0:
        raise InvalidInputError(f"a text cannot be cut to {most} tokens; give 0 or more")
    # One for one, so that what is cut from the readable text can be cut from the given one.
    readable = _SURROGATE.sub("\ufffd", text)
    ids, offsets = tokenised(readable)
    total = len(ids)
    if most is None or total <= most:
        return Shortened(text, total, 0)
    kept = most
    while kept:
        # A character may be several tokens: one that is not whole is left out.
        end = min(offsets[kept - 1][1], *(start for start, _ in offsets[kept:]))
        found = len(tokenised(readable[:end])[0])
        if found <= most:
            return Shortened(text[:end], found, total - found)
        kept -= 1
    return Shortened("", 0, total)
