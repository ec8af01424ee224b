"""What training must not see: the queries and judged documents of sets that are to measure it.

A query is kept out whose id a kept-out set of the same collection has, or whose words are those of
one of its queries. A document is kept out
    by id    where a kept-out set of the same corpus judges it,
    by text  where its words are those of a judged document,
    near     where it shares a run of 20 words with one: a passage cut elsewhere from one page, or
             one text that holds the other.
Words are compared without case, punctuation and spaces; a Chinese or Japanese character is one.
Two sets have one corpus where their documents' checksums are equal, or where most of the documents
that have one id in both have one text: files of the same corpus often hold parts of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ranklens.data.collection import Collection
from ranklens.data.records import Document, Query
from ranklens.data.scripts import HAN, HIRAGANA, KATAKANA

RUN = 20
"""The words in a row that make two texts near."""
_SPACELESS = f"{HAN}{HIRAGANA}{KATAKANA}"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_SHOWN = 5


def words(text: str) -> list[str]:
    """Return a text's words without case and punctuation."""
    return _WORD.findall(text.casefold())


def text_key(text: str) -> str:
    """Return what texts with the same words have in common; empty without a word."""
    return " ".join(words(text))


@dataclass(frozen=True, slots=True)
class Match:
    """Why something is kept out: the set it belongs to, and by what it was recognised."""

    kept_out: str
    way: str


@dataclass(frozen=True)
class _Set:
    """One kept-out set: ids, and texts by ``text_key``."""

    name: str
    corpus: str
    query_ids: frozenset[str]
    query_texts: frozenset[str]
    judged: Mapping[str, str]
    """The judged documents' ids with the keys of their texts; empty without a text."""
    texts: frozenset[str]
    runs: frozenset[int] = field(repr=False)


class KeptOut:
    """Sets that are kept out of training, with what is recognised by; see the module."""

    def __init__(self, collections: Sequence[Collection]) -> None:
        self._sets = [_read(collection) for collection in collections]

    @property
    def names(self) -> list[str]:
        """The sets' names."""
        return [one.name for one in self._sets]

    def queries(self, collection: Collection) -> dict[str, Match]:
        """Return the queries of a collection that are kept out, by id."""
        corpus = collection.documents.fingerprint() if self._sets else ""
        found = {}
        for query in collection.queries:
            match = self._query(collection.name, corpus, query)
            if match is not None:
                found[query.id] = match
        return found

    def has_query(self, text: str) -> bool:
        """Say whether a text has the words of a kept-out query."""
        key = text_key(text)
        return bool(key) and any(key in one.query_texts for one in self._sets)

    def documents(self, documents: Mapping[str, Document], corpus: str) -> dict[str, Match]:
        """Return those of one corpus's documents that are kept out, by id.

        ``corpus`` is the source's fingerprint.
        """
        if not self._sets:
            return {}
        listed = {name: words(document.full_text) for name, document in documents.items()}
        keys = {name: " ".join(found) for name, found in listed.items()}
        found: dict[str, Match] = {}
        for one in self._sets:
            same = one.corpus == corpus or _same_corpus(one.judged, keys)
            for name, key in keys.items():
                if name in found:
                    continue
                if same and name in one.judged:
                    found[name] = Match(one.name, "id")
                elif key and key in one.texts:
                    found[name] = Match(one.name, "text")
                elif any(run in one.runs for run in _runs(listed[name])):
                    found[name] = Match(one.name, "near")
        return found

    def _query(self, name: str, corpus: str, query: Query) -> Match | None:
        key = text_key(query.text)
        for one in self._sets:
            if query.id in one.query_ids and (name == one.name or corpus == one.corpus):
                return Match(one.name, "id")
            if key and key in one.query_texts:
                return Match(one.name, "text")
        return None


class Excluded:
    """What was kept out of which collection, for people and for the manifest."""

    def __init__(self, names: Sequence[str]) -> None:
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._first: dict[str, dict[str, list[str]]] = {name: {} for name in names}

    def add(self, collection: str, kind: str, matches: Mapping[str, Match]) -> None:
        """Count what was kept out; ``kind`` is ``queries`` or ``documents``."""
        for name, match in matches.items():
            what = f"{kind} of {collection} by {_ways(match.way)}"
            self._counts[match.kept_out][what] += 1
            first = self._first[match.kept_out].setdefault(what, [])
            if len(first) < _SHOWN:
                first.append(name)

    def lines(self) -> Iterator[str]:
        """Yield what was kept out, a line for each set and way, with the first ids."""
        for name, counts in self._counts.items():
            if not counts:
                yield f"kept out for {name}: nothing that was looked at belongs to it"
            for what, count in counts.items():
                first = self._first[name][what]
                more = ", …" if count > len(first) else ""
                yield f"kept out for {name}: {count} {what} ({', '.join(first)}{more})"

    def to_dict(self) -> dict[str, Any]:
        """Return the same for a manifest."""
        return {
            name: {
                what: {"count": count, "first": self._first[name][what]}
                for what, count in counts.items()
            }
            for name, counts in self._counts.items()
        }


def _ways(way: str) -> str:
    return f"a run of {RUN} words" if way == "near" else way


def _read(collection: Collection) -> _Set:
    judged = dict.fromkeys((d for grades in collection.qrels.values() for d in grades), "")
    runs: set[int] = set()
    for name, document in collection.documents.get_many(judged).items():
        listed = words(document.full_text)
        judged[name] = " ".join(listed)
        runs.update(_runs(listed))
    return _Set(
        collection.name,
        collection.documents.fingerprint(),
        frozenset(query.id for query in collection.queries),
        frozenset(filter(None, (text_key(query.text) for query in collection.queries))),
        judged,
        frozenset(filter(None, judged.values())),
        frozenset(runs),
    )


def _runs(listed: Sequence[str]) -> Iterator[int]:
    for start in range(len(listed) - RUN + 1):
        yield hash(tuple(listed[start : start + RUN]))


def _same_corpus(judged: Mapping[str, str], keys: Mapping[str, str]) -> bool:
    common = [name for name in keys if judged.get(name)]
    equal = sum(judged[name] == keys[name] for name in common)
    return 2 * equal > len(common)
