"""Characters of scripts that are written without spaces, as ranges of a regular expression."""

from __future__ import annotations

import re

HAN = (
    "\u3007\u3021-\u3029\u3038-\u303a\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002fa1f\U00030000-\U000323af"
)
HIRAGANA = "\u3041-\u3096\u309d-\u309f\U0001b001-\U0001b11f"
# As Unicode's word segmentation has it: long marks and half widths belong to it.
KATAKANA = (
    "\u3031-\u3035\u309b\u309c\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u32d0-\u32fe\u3300-\u3357"
    "\uff66-\uff9d\U0001b000"
)
HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb\uffa0-\uffdc"

_SPACELESS = re.compile(f"[{HAN}{HIRAGANA}{KATAKANA}]")


def has_spaceless(text: str) -> bool:
    """Say whether there is Chinese or Japanese in a text."""
    return not text.isascii() and _SPACELESS.search(text) is not None


def count_spaceless(text: str) -> tuple[int, str]:
    """Return how many Chinese and Japanese characters a text has, and it with spaces for them."""
    if text.isascii():
        return 0, text
    rest, found = _SPACELESS.subn(" ", text)
    return found, rest
