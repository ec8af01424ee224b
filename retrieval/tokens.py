"""Text to words where Unicode's word segmentation (UAX 29) ends them, nearly as Lucene does.

A word is letters, digits and underscores with the marks on them. Full stop, colon, middle dot and
apostrophe hold letters together (``u.s.a``, ``don't``), full stop, comma, semicolon and
apostrophe digits (``3,000.5``); between a letter and a digit they part (``fig.2``). Han and
Hiragana are words by the character, Katakana by the run. What is left to Lucene: emoji, words of
more than 255 characters, and Katakana beside underscores.
"""

from __future__ import annotations

import re
import unicodedata

from ranklens.data.scripts import HAN, HANGUL, HIRAGANA, KATAKANA, has_spaceless

# Where the Basic Multilingual Plane has marks and numbers that are neither letters nor digits.
_SCANNED = [*range(0xA0, 0x3400), *range(0xA000, 0xAC00), *range(0xFB00, 0x10000)]
_MARKS = "".join(
    chr(c) for c in _SCANNED if unicodedata.category(chr(c)) in ("Mn", "Mc", "Me")
)  # fmt: skip
# Soft hyphen, the joiners and the voicing marks of half width are as good as marks.
_MARKS += "\u00ad\u200c\u200d\uff9e\uff9f"
_SIGNS = re.compile(
    "[" + "".join(chr(c) for c in _SCANNED if unicodedata.category(chr(c)) == "No") + "]"
)
_APART = f"[{HAN}{HIRAGANA}{KATAKANA}]"


def _word(character: str) -> str:
    """Return the pattern of a word made of ``character``, a letter, digit, underscore or mark."""
    letter = rf"(?:(?<=[^\W\d_])|(?<=[{_MARKS}]))"
    middle = rf"(?:{letter}[:.·‧'’‘．：＇](?=[^\W\d_])|(?<=\d)[.,;'’‘．，；＇](?=\d))"
    # A run of underscores is looked at from its first one only, and none is a word by itself.
    start = rf"(?<!_)_*+(?=[^\W_]){character}++"
    return rf"{start}(?:{middle}(?={character}){character}++)*+"


_PLAIN = re.compile(_word(rf"[\w{_MARKS}]"))
_OTHER = _word(rf"(?:(?!{_APART})[\w{_MARKS}])")
_SINGLE = re.compile(rf"[{HAN}{HIRAGANA}][{_MARKS}]*+|[{KATAKANA}][{KATAKANA}{_MARKS}]*+|{_OTHER}")
_RUNS = re.compile(rf"({_APART}[{HAN}{HIRAGANA}{KATAKANA}{_MARKS}]*+)|{_OTHER}")
_HANGUL = re.compile(f"[{HANGUL}]+")


def words(text: str) -> list[str]:
    """Return the words of a text in order, repeats included."""
    if text.isascii():
        return _PLAIN.findall(text)
    text = _SIGNS.sub(" ", text)
    return (_SINGLE if has_spaceless(text) else _PLAIN).findall(text)


def words_and_runs(text: str) -> list[tuple[str, bool]]:
    """Return words, and whether each is a run of Chinese, Japanese or Korean characters.

    Such a run goes on over all that stands side by side, whatever of these scripts it is in.
    """
    if text.isascii():
        return [(word, False) for word in _PLAIN.findall(text)]
    found: list[tuple[str, bool]] = []
    side_by_side: list[str] = []
    end = -1
    for match in _RUNS.finditer(_SIGNS.sub(" ", text)):
        word = match[0]
        run = match[1] is not None or _HANGUL.fullmatch(word) is not None
        if side_by_side and not (run and match.start() == end):
            found.append(("".join(side_by_side), True))
            side_by_side = []
        if run:
            side_by_side.append(word)
        else:
            found.append((word, False))
        end = match.end()
    if side_by_side:
        found.append(("".join(side_by_side), True))
    return found
