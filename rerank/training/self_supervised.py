"""Queries of a corpus that nobody has judged: each has the document it was made of as its answer.

    inverse-cloze   a sentence is the query; its document loses it (Lee, Chang and Toutanova 2019)
    title           the title is the query; its document loses it
    lm              a language model writes the query (``query_generation``)

Not all of them are queries that somebody could ask, or that their document answers best: what
``fault`` names is dropped, and so is what a retriever does not find its document by.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ranklens.data.passages import sentences
from ranklens.data.records import Document, Query, ScoredDoc
from ranklens.rerank.training.exclusion import text_key, words
from ranklens.rerank.training.query_generation import EXAMPLES, TASK

KINDS = ("lm", "inverse-cloze", "title")
_FEWEST, _MOST = 2, 24
_REMAINING = 10
"""Words that a document must keep, and that it needs to be asked of at all."""
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd\u202a-\u202e\u2066-\u2069<>{}\[\]|]")
_LEAKED = ("passage:", "query:", text_key(TASK))
_SHOWN = frozenset(text_key(query) for _, query in EXAMPLES)

Search = Callable[[Sequence[Query], int], Mapping[str, Sequence[ScoredDoc]]]
"""Returns the first documents for each query, by its id."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, and the document it was made of, as it is to be found: without the query."""

    query: Query
    document: Document


def sources(documents: Iterable[Document], seed: int, limit: int | None) -> list[Document]:
    """Return the documents that queries are made of, in an order drawn from the seed.

    Those with less than ten words are left out, and of equal texts all but one.
    """
    ordered = sorted(documents, key=lambda one: (_digest(seed, one.id), one.id))
    seen: set[str] = set()
    found: list[Document] = []
    for document in ordered:
        if len(found) == limit:
            break
        listed = words(document.full_text)
        key = " ".join(listed)
        if len(listed) >= _REMAINING and key not in seen:
            seen.add(key)
            found.append(document)
    return found


def inverse_cloze(documents: Iterable[Document], seed: int) -> Iterator[Pair]:
    """Yield a sentence of each document, drawn from the seed, and the rest of the document.

    Sentences of 2 to 24 words whose document keeps ten; documents without one have no query.
    """
    for document in documents:
        text = document.text
        possible = [
            (start, end)
            for start, end in sentences(text)
            if _FEWEST <= len(words(text[start:end])) <= _MOST
            and len(words(text[:start] + text[end:])) >= _REMAINING
        ]
        if possible:
            drawn = int.from_bytes(_digest(seed, f"cloze\0{document.id}")[:6])
            start, end = possible[drawn % len(possible)]
            rest = f"{text[:start].rstrip()} {text[end:].lstrip()}".strip()
            query = " ".join(text[start:end].split())
            yield Pair(
                _query("cloze", document, query), Document(document.id, rest, document.title)
            )


def titles(documents: Iterable[Document]) -> Iterator[Pair]:
    """Yield each document's title, and the document without it; those without have no query."""
    for document in documents:
        if document.title.strip() and len(words(document.text)) >= _REMAINING:
            query = " ".join(document.title.split())
            yield Pair(_query("title", document, query), Document(document.id, document.text))


def generated(documents: Iterable[Document], queries: Mapping[str, str]) -> Iterator[Pair]:
    """Yield what a model wrote for each document, with the document as it is."""
    for document in documents:
        text = " ".join(queries.get(document.id, "").split())
        yield Pair(_query("lm", document, text), document)


def fault(pair: Pair) -> str | None:
    """Return what is wrong with a query, in a few words, or None."""
    text = pair.query.text
    listed = words(text)
    if not _FEWEST <= len(listed) <= _MOST:
        return f"not {_FEWEST} to {_MOST} words"
    if _ODD.search(text):
        return "characters that nobody types"
    if 2 * sum(map(str.isalpha, text)) < len(text.replace(" ", "")):
        return "less than half letters"
    if any(mark in text.casefold() for mark in _LEAKED) or " ".join(listed) in _SHOWN:
        return "the prompt itself"
    if words(pair.document.full_text)[: len(listed)] == listed:
        return "the beginning of its document"
    if max(Counter(listed).values()) > max(2, len(listed) // 3):
        return "one word again and again"
    return None


def sound(
    pairs: Iterable[Pair], dropped: Counter[str], refused: Callable[[str], bool]
) -> Iterator[Pair]:
    """Yield pairs without a fault; ``dropped`` counts the others by what is wrong.

    ``refused`` says of a query's text whether it is kept out. Of equal queries the first stays:
    the second has two answers.
    """
    seen: set[str] = set()
    for pair in pairs:
        why = fault(pair)
        key = text_key(pair.query.text)
        if why is None and refused(pair.query.text):
            why = "kept out"
        if why is None and key in seen:
            why = "asked before"
        if why is not None:
            dropped[why] += 1
            continue
        seen.add(key)
        yield pair


def round_trip(
    pairs: Sequence[Pair], searches: Sequence[Search], within: int, dropped: Counter[str]
) -> list[Pair]:
    """Return the pairs whose document one of the searches has among its first ``within``."""
    found: set[str] = set()
    for search in searches:
        run = search([pair.query for pair in pairs if pair.query.id not in found], within)
        for pair in pairs:
            listed = run.get(pair.query.id, ())[:within]
            if any(doc.doc_id == pair.document.id for doc in listed):
                found.add(pair.query.id)
    dropped["its document is not found by it"] += len(pairs) - len(found)
    return [pair for pair in pairs if pair.query.id in found]


def _query(kind: str, document: Document, text: str) -> Query:
    return Query(f"{kind}-{document.id}", text)


def _digest(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode(errors="surrogatepass")).digest()
