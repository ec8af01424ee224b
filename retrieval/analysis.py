"""Text to index terms, as Lucene's English analyser makes them, without Java."""

from __future__ import annotations

import re

# Letters, digits and underscores; a single apostrophe or full stop inside a word holds it
# together. That is near Lucene's tokenizer (Unicode's word segmentation, UAX 29) for English;
# it differs on "fig.2" and "3,000", and Chinese or Japanese text stays one word.
_WORD = re.compile(r"\w+(?:['’.]\w+)*")
_POSSESSIVE = ("'s", "’s")
# The 33 of Lucene's EnglishAnalyzer.
# fmt: off
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is",
    "it", "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there",
    "these", "they", "this", "to", "was", "will", "with",
))
# fmt: on


class LuceneAnalyzer:
    """Turns text into terms: lower case, no possessive, no stop words, Porter stems.

    Not thread-safe: the stemmer keeps state.
    """

    def __init__(self) -> None:
        import Stemmer

        self._stemmer = Stemmer.Stemmer("porter")
        # Empty for a stop word. A collection has far fewer distinct words than words.
        self._terms: dict[str, str] = {}

    def __call__(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeats included."""
        terms = (self._term(word) for word in _WORD.findall(text.lower()))
        return [term for term in terms if term]

    def _term(self, word: str) -> str:
        term = self._terms.get(word)
        if term is None:
            bare = word[:-2] if word.endswith(_POSSESSIVE) else word
            term = "" if bare in STOP_WORDS else self._stemmer.stemWord(bare)
            self._terms[word] = term
        return term
