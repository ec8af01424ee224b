"""Text and numbers as the page writes them."""

from __future__ import annotations

import html
import math
import re

# What HTML leaves out or reads as something else, lone surrogates among it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

MINUS = "\N{MINUS SIGN}"


def escaped(text: object) -> str:
    """Return text that is no markup."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(text)))


def isolated(text: object) -> str:
    """Return text as an element whose writing direction does not reach its surroundings."""
    return f"<bdi>{escaped(text)}</bdi>"


def number(value: float | None, digits: int = 3) -> str:
    """Return a value with ``digits`` decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference, with its sign unless it is 0 as printed."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text.lstrip(MINUS)) else text


def interval(ends: object, digits: int = 3, *, sign: bool = False) -> str | None:
    """Return ``0.412 to 0.598``; None where an end is missing."""
    if not isinstance(ends, list | tuple) or len(ends) != 2 or None in ends:
        return None
    write = signed if sign else number
    return f"{write(ends[0], digits)} to {write(ends[1], digits)}"


def p_value(p: float | None) -> str | None:
    """Return ``p = 0.012``, or ``p < 0.001`` for what is smaller; None where there is none."""
    if p is None or not math.isfinite(p):
        return None
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return ``1 query`` or ``43 queries``, thousands apart."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
