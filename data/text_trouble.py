"""Signs that a text was damaged on its way: what a conversion lost or doubled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# What the bytes 80 to BF, which continue a character in UTF-8, become in Windows-1252.
_CONTINUED = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
# A capital before Ã is a word in capitals (IRMÃ”); two in a row are Greek or Cyrillic.
_MOJIBAKE = re.compile(
    rf"[ÂÃ][\xa0-\xbf]|(?<![A-ZÀ-Þ])Ã[{_CONTINUED}]|â€[{_CONTINUED}]|ï»¿|(?:[ÎÏÐÑ][{_CONTINUED}]){{2}}"
)
# Most texts have none of these letters, and a set is searched for ten times as fast.
_LEAD = re.compile("[ÂÃâïÎÏÐÑ]")
_AROUND = 12
# Python sorts the marks on one letter in quadratic time: a text is looked at by pieces, which
# overlap so that what belongs together is in one of them whole.
_PIECE, _OVERLAP = 1024, 32

SURROGATES = "lone surrogates, which no file in UTF-8 can carry"


def troubles(text: str) -> Iterator[tuple[str, str]]:
    """Yield each kind of trouble in a text once, with an excerpt around the first place, quoted.

    Kinds: U+FFFD, UTF-8 read as Windows-1252 (``Ã©``, ``â€™``), control characters, lone
    surrogates, a byte order mark, and text that is not in Unicode's NFC. Time is linear.
    """
    if found := _CONTROL.search(text):
        yield "NUL or control characters", _excerpt(text, found.start())
    if text.isascii():
        return
    if (at := text.find("\ufffd")) >= 0:
        yield "U+FFFD: characters lost in a conversion", _excerpt(text, at)
    if _LEAD.search(text) and (found := _MOJIBAKE.search(text)):
        yield "UTF-8 that was read as Windows-1252", _excerpt(text, found.start())
    if (at := text.find("\ufeff")) >= 0:
        yield "a byte order mark inside", _excerpt(text, at)
    if found := _SURROGATE.search(text):
        yield SURROGATES, _excerpt(text, found.start())
    if (at := _not_composed(text)) >= 0:
        # Escaped: composed or not, it looks the same.
        yield "not in Unicode's NFC: equal words may differ", ascii(_around(text, at))


def _not_composed(text: str) -> int:
    """Return where a text is first found not to be in NFC, -1 where it is."""
    for start in range(0, len(text), _PIECE):
        piece = text[start : start + _PIECE + _OVERLAP]
        if not unicodedata.is_normalized("NFC", piece):
            composed = unicodedata.normalize("NFC", piece)
            pairs = enumerate(zip(piece, composed, strict=False), start)
            return next((at for at, (old, new) in pairs if old != new), start)
    return -1


def _excerpt(text: str, at: int) -> str:
    return repr(_around(text, at))


def _around(text: str, at: int) -> str:
    return text[max(0, at - _AROUND) : at + _AROUND]
