"""Tokens with values as a short string: a page holds a hundred thousand of them.

The string is base64 of unsigned LEB128 numbers (7 bits a byte, lowest first, the highest bit set
on all but a number's last byte). For each token, in order:

    2 * (end - start) + g    g is 1 where the token does not begin where the last one ended
    start - last end         only where g is 1; the first token's last end is 0
    calibrated               zigzag: 0, -1, 1, -2, 2 … are 0, 1, 2, 3, 4 …
    raw                      the same way; only where the attention has raw values (``raw`` is true)

Offsets are code points, not the UTF-16 units that JavaScript counts.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Token:
    """Code points ``start`` to ``end`` of a document, and what attention says of them.

    ``calibrated`` is −255 to 255, a share of the largest size in the query's list; ``raw``, before
    calibration, likewise, or None where that is the same thing. It is below 0 only in profiles
    with heads that count against a document.
    """

    start: int
    end: int
    calibrated: int
    raw: int | None


def coded_tokens(tokens: Sequence[Token], *, raw: bool) -> str:
    """Return tokens, which are in order and do not overlap, as a string."""
    coded = bytearray()
    last = 0
    for token in tokens:
        gap, length = token.start - last, token.end - token.start
        if gap < 0 or length < 1:
            raise ValueError(f"token {token.start}..{token.end} behind {last}")
        coded += _number(2 * length + (gap > 0))
        if gap:
            coded += _number(gap)
        coded += _number(_zigzag(token.calibrated))
        if raw:
            coded += _number(_zigzag(token.raw or 0))
        last = token.end
    return base64.b64encode(coded).decode("ascii")


def decoded_tokens(text: str, *, raw: bool) -> tuple[Token, ...]:
    """Return what ``coded_tokens`` was given."""
    numbers = _numbers(base64.b64decode(text))
    tokens = []
    end = 0
    for head in numbers:
        start = end + (next(numbers) if head & 1 else 0)
        end = start + (head >> 1)
        calibrated = _unfolded(next(numbers))
        tokens.append(Token(start, end, calibrated, _unfolded(next(numbers)) if raw else None))
    return tuple(tokens)


def _zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def _unfolded(value: int) -> int:
    return -(value + 1) // 2 if value & 1 else value // 2


def _number(value: int) -> bytes:
    coded = bytearray()
    while value > 127:
        coded.append(value & 127 | 128)
        value >>= 7
    coded.append(value)
    return bytes(coded)


def _numbers(coded: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in coded:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0
