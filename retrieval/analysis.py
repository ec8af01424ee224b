"""Text to index terms, as Lucene's analysers make them, without Java."""

from __future__ import annotations

import re
import unicodedata
from typing import Protocol

from ranklens.data.errors import UsageError
from ranklens.retrieval.tokens import words, words_and_runs

_POSSESSIVE = ("'s", "’s")
# The 33 of Lucene's EnglishAnalyzer, and what its CJKAnalyzer has beside them.
# fmt: off
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is",
    "it", "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there",
    "these", "they", "this", "to", "was", "will", "with",
))
# fmt: on
CJK_STOP_WORDS = STOP_WORDS - {"an"} | {"s", "t", "www"}
_LANGUAGES = {"en": "en", "cjk": "cjk", "zh": "cjk", "ja": "cjk", "ko": "cjk"}
# A vowel and a consonant behind it: Porter's measure of such a text is above 0.
_MEASURE = re.compile("(?:[aeiou]|(?<=[^aeiou])y)[^aeiou]")
_WIDTHS = re.compile("[\uff01-\uff9f]+")


class Analyzer(Protocol):
    """Turns text into terms."""

    def __call__(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeats included."""
        ...


def check_language(name: str) -> str:
    """Return ``en`` or ``cjk`` for a language's name; UsageError lists the names."""
    if name not in _LANGUAGES:
        raise UsageError(f"unknown language {name!r}; choose {', '.join(_LANGUAGES)}")
    return _LANGUAGES[name]


def analyzer_of(language: str) -> Analyzer:
    """Return the analyser of a language; UsageError for one that has none."""
    return LuceneAnalyzer() if check_language(language) == "en" else CJKAnalyzer()


class LuceneAnalyzer:
    """English: lower case, no possessive, no stop words, Porter stems.

    Not thread-safe: the stemmer keeps state.
    """

    def __init__(self) -> None:
        import Stemmer

        self._stemmer = Stemmer.Stemmer("porter")
        # Empty for a stop word. A collection has far fewer distinct words than words.
        self._terms: dict[str, str] = {}

    def __call__(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeats included."""
        terms = (self._term(word) for word in words(text.lower()))
        return [term for term in terms if term]

    def _term(self, word: str) -> str:
        term = self._terms.get(word)
        if term is None:
            bare = word[:-2] if word.endswith(_POSSESSIVE) else word
            term = "" if bare in STOP_WORDS else self._stem(bare)
            self._terms[word] = term
        return term

    def _stem(self, word: str) -> str:
        """Return Porter's stem with the departures from his paper that his own program has.

        Lucene's are those of the program, Snowball's those of the paper.
        """
        if len(word) <= 2:
            return word
        stem = str(self._stemmer.stemWord(word))
        if stem.endswith("logi") and _MEASURE.search(stem[:-4]):
            return stem[:-1]
        if stem.endswith("bli") and _MEASURE.search(stem[:-3]):
            return str(self._stemmer.stemWord(stem[:-1] + "e"))
        return stem


class CJKAnalyzer:
    """Chinese, Japanese and Korean: every two characters that stand side by side are a term.

    A character between others is a term by itself. Half and full widths are alike; words of other
    scripts stay whole, in lower case and without Lucene's few English stop words.
    """

    def __call__(self, text: str) -> list[str]:
        """Return the terms of a text in order, repeats included."""
        text = _WIDTHS.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
        terms: list[str] = []
        for word, run in words_and_runs(text.lower()):
            if run and len(word) > 1:
                terms += [word[at : at + 2] for at in range(len(word) - 1)]
            elif word not in CJK_STOP_WORDS:
                terms.append(word)
        return terms
