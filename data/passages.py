"""Splitting a text into passages at sentence ends. Offsets are codepoints, ranges half-open.

Sizes are what ``measure`` says, words by default; a reranker passes its tokenizer's count. A
Chinese or Japanese character is a word.
Nothing is rewritten: a passage is ``text[start:end]``. All passes are linear in the text (times
the logarithm of a sentence's length where one has to be broken up), whatever it holds.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ranklens.data.errors import UsageError
from ranklens.data.scripts import count_spaceless

# A sentence ends behind full stops and closing quotes, where white space and no lower-case
# letter follows ("approx. five" goes on); behind CJK full stops, which have no white space; and
# at an empty line. Possessive repeats and the look-behind keep a megabyte of "!" linear.
_END = re.compile(
    r"""(?<![.!?…])[.!?…]++["'”’»)\]]*+(?:\s++(?![a-z])|$)"""
    r"""|(?<![。！？])[。！？]++["'”’」』）]*+\s*+"""
    r"""|\n[^\S\n]*+\n\s*+"""
)
_SPACE = re.compile(r"\s")


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of text that is not split any further, and its size."""

    start: int
    end: int
    size: int


def count_words(text: str) -> int:
    """Return the number of words, split on white space; Han and kana are words by the character."""
    characters, rest = count_spaceless(text)
    return characters + len(rest.split())


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the sentences, in order, without the white space around them.

    A rule of thumb for any language, without a model: "Dr. Smith" is two.
    """
    start = 0
    for match in _END.finditer(text):
        yield from _trimmed(text, start, match.end())
        start = match.end()
    yield from _trimmed(text, start, len(text))


def units(text: str, window: int, measure: Callable[[str], int] = count_words) -> Iterator[Unit]:
    """Yield the sentences as units of at most ``window``.

    A longer sentence is halved near its middle, at white space where it has any, until its parts
    fit; a single character always does.
    """
    for sentence in sentences(text):
        # The parts still to be looked at, first on top.
        waiting = [sentence]
        while waiting:
            start, end = waiting.pop()
            # Nothing is free: text that a tokenizer drops would make windows without end.
            size = max(1, measure(text[start:end]))
            if size <= window or end - start == 1:
                yield Unit(start, end, size)
                continue
            middle = _middle(text, start, end)
            waiting += [*_trimmed(text, middle, end), *_trimmed(text, start, middle)]


def windows(pieces: Iterable[Unit], window: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Yield ranges of successive units whose sizes add up to at most ``window``.

    A range begins with as many of the last units of the one before as make up at most
    ``overlap`` and leave room for a new one.
    """
    held: deque[Unit] = deque()
    size = 0
    for unit in pieces:
        if held and size + unit.size > window:
            yield held[0].start, held[-1].end
            while held and (size > overlap or size + unit.size > window):
                size -= held.popleft().size
        held.append(unit)
        size += unit.size
    if held:
        yield held[0].start, held[-1].end


def split_passages(
    text: str, window: int, overlap: int = 0, measure: Callable[[str], int] = count_words
) -> list[tuple[int, int]]:
    """Return the ranges of a text's passages, each of at most ``window`` by ``measure``.

    Passages end at sentence ends and share up to ``overlap`` with the one before; every
    character but white space is in at least one. A text that fits is one passage, a blank one
    none. Raises UsageError for a window below 1 and an overlap that is not below the window.
    """
    check_window(window, overlap)
    return list(windows(units(text, window, measure), window, overlap))


def check_window(window: int, overlap: int) -> None:
    """Raise UsageError unless 0 ≤ overlap < window."""
    if window < 1:
        raise UsageError(f"a passage must hold at least 1, got a window of {window}")
    if not 0 <= overlap < window:
        raise UsageError(
            f"the overlap of passages must lie in [0, {window}), below their size; got {overlap}"
        )


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the range without the white space at its ends, nothing for a blank one."""
    part = text[start:end]
    left = start + len(part) - len(part.lstrip())
    right = start + len(part.rstrip())
    if left < right:
        yield left, right


def _middle(text: str, start: int, end: int) -> int:
    """Return where to halve a range without white space at its ends.

    At the first white space behind the middle, else the last before it, else the middle. By
    searches of the interpreter's own: a loop over a megabyte without white space takes seconds.
    """
    middle = (start + end) // 2
    if behind := _SPACE.search(text, middle, end):
        return behind.start()
    words = text[start:middle].rsplit(None, 1)
    return middle - len(words[1]) if len(words) == 2 else middle
