"""Making somebody's text harmless to print at a terminal."""

from __future__ import annotations

import unicodedata

# Controls, formats (bidirectional overrides among them), surrogates, private use, separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""Return a text on one line with nothing a terminal could act on: ``\x1b`` for ESC.

    Line breaks and tabs become blanks; other invisible characters their escape, as Python
    writes it.
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character) in _HIDDEN:
        return character.encode("unicode_escape").decode("ascii")
    return character
