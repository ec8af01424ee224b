"""Which documents a training list has, and which queries are asked over it.

A list of n documents is made for one query: those judged relevant (grade 1 or more; the higher
the likelier, at most n/2), random documents of the corpus (n/8), and for the rest hard ones: its
candidates that are not judged relevant, the nearer the likelier, and what was judged not relevant.
For a query without judgements the nearest candidates stand where the relevant ones would. Where
there are too few of one kind, the next fills up. Other queries that have a relevant document in
the list join it: their answer costs no more reading.

Every choice is drawn from the seed and from what it is made for, not from what was drawn before:
a list stays the same when other collections are added.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ranklens.data.collection import Collection
from ranklens.data.errors import UsageError
from ranklens.data.records import Document, Query
from ranklens.rerank.training.exclusion import Excluded, KeptOut, text_key
from ranklens.rerank.training.lists import TrainingList, TrainingQuery

POOL = 4096
"""Documents of a corpus that random ones are drawn from."""
# How much nearer ranks are preferred: rank 1 is chosen ten times as often as rank 100.
_FLAT = 10


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """How large lists are: documents, of these random ones, queries, and lists for one query.

    ``random`` None is an eighth of the documents. Raises UsageError for what is out of range.
    """

    documents: int = 24
    queries: int = 8
    lists_per_query: int = 1
    random: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("documents", 2), ("queries", 1), ("lists_per_query", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be at least {least}, "
                    f"got {getattr(self, name)}"
                )
        if not 0 <= self.drawn <= self.documents:
            raise UsageError(f"--random must be 0 to {self.documents}, got {self.random}")

    @property
    def drawn(self) -> int:
        """The random documents of a list."""
        return self.documents // 8 if self.random is None else self.random


@dataclass
class Corpus:
    """Documents of several collections, each once; an id that two texts have tells them apart."""

    documents: dict[str, Document] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict, repr=False)

    def add(self, collection: str, document: Document) -> str:
        """Keep a document and return the id that it has here."""
        name = document.id
        while (known := self.documents.get(name)) is not None:
            if (known.text, known.title) == (document.text, document.title):
                return name
            name = f"{collection}:{name}"
        self.documents[name] = Document(name, document.text, document.title)
        return name

    def key(self, name: str) -> str:
        """Return what texts with the same words have in common; the id without a word."""
        if name not in self._keys:
            self._keys[name] = text_key(self.documents[name].full_text) or f"\0{name}"
        return self._keys[name]


@dataclass(frozen=True)
class Material:
    """What lists are made of in one collection; documents by their ids in the ``Corpus``."""

    name: str
    queries: Sequence[Query]
    grades: Mapping[str, Mapping[str, int]]
    candidates: Mapping[str, Sequence[str]]
    random: Sequence[str]
    own: Mapping[str, str]
    """The ids that documents have in the collection."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A query of a collection."""

    material: Material
    query: Query

    @property
    def id(self) -> str:
        """What tells it from the queries of other collections."""
        return f"{self.material.name}:{self.query.id}"


@dataclass(frozen=True, slots=True)
class Draft:
    """A list without teachers: its documents' ids and the queries, the one it is for first."""

    documents: tuple[str, ...]
    queries: tuple[Asked, ...]


Scores = Callable[[Draft, Asked], Mapping[str, Sequence[float]]]
"""Returns scores by teacher, one per document, as far as a teacher knows the query."""


def gather(
    collection: Collection,
    candidates: Mapping[str, Sequence[str]],
    corpus: Corpus,
    settings: BuildSettings,
    kept_out: KeptOut,
    excluded: Excluded,
) -> Material:
    """Read what lists of a collection may hold into the corpus, less what is kept out.

    ``candidates``: by query, the nearest first. Documents without a text in the collection are
    left out.
    """
    wanted = {name for names in candidates.values() for name in names}
    wanted.update(name for grades in collection.qrels.values() for name in grades)
    texts, drawn = _read(collection, wanted, settings)
    refused = kept_out.documents(texts, collection.documents.fingerprint())
    excluded.add(collection.name, "documents", refused)
    here = {
        name: corpus.add(collection.name, document)
        for name, document in texts.items()
        if name not in refused
    }
    unasked = kept_out.queries(collection)
    excluded.add(collection.name, "queries", unasked)
    queries = [query for query in collection.queries if query.id not in unasked]
    return Material(
        collection.name,
        queries,
        {
            query.id: {here[name]: grade for name, grade in grades.items() if name in here}
            for query in queries
            if (grades := collection.qrels.get(query.id)) is not None
        },
        {
            query.id: tuple(here[name] for name in candidates.get(query.id, ()) if name in here)
            for query in queries
        },
        tuple(here[name] for name in drawn if name in here),
        {there: name for name, there in here.items()},
    )


def _read(
    collection: Collection, wanted: set[str], settings: BuildSettings
) -> tuple[dict[str, Document], list[str]]:
    """Return the wanted documents and, with them, those that random ones are drawn from."""
    if not settings.drawn:
        found = collection.documents.get_many(wanted)
        return {name: found[name] for name in sorted(found)}, []
    texts: dict[str, Document] = {}
    # The documents with the smallest draws, whatever the order of the source; the largest of
    # them is on top of the heap.
    pool: list[tuple[float, str, Document]] = []
    for document in collection.documents:
        if document.id in wanted:
            texts[document.id] = document
        entry = (-_draw(settings.seed, "pool", document.id), document.id, document)
        if len(pool) < POOL:
            heapq.heappush(pool, entry)
        else:
            heapq.heappushpop(pool, entry)
    drawn = sorted(name for _, name, _ in pool)
    texts.update((name, document) for _, name, document in pool)
    return {name: texts[name] for name in sorted(texts)}, drawn


def draft_lists(
    materials: Sequence[Material],
    corpus: Corpus,
    settings: BuildSettings,
    *,
    taught: bool,
    counts: Counter[str],
) -> Iterator[Draft]:
    """Yield the lists of each collection's queries, in order.

    ``taught``: whether teachers will score them; without one a query teaches only by a relevant
    document. ``counts`` is told why queries have no list.
    """
    answers: dict[str, list[Asked]] = {}
    for material in materials:
        for query in material.queries:
            for name, grade in material.grades.get(query.id, {}).items():
                if grade > 0:
                    answers.setdefault(name, []).append(Asked(material, query))
    for material in materials:
        for query in material.queries:
            asked = Asked(material, query)
            relevant = any(grade > 0 for grade in material.grades.get(query.id, {}).values())
            if not relevant and not taught:
                counts["queries with nothing relevant, and no teacher"] += 1
                continue
            for number in range(settings.lists_per_query):
                documents = _documents(asked, number, corpus, settings)
                if len(documents) < 2:
                    counts["queries with less than two documents"] += 1
                    break
                others = _companions(asked, number, documents, answers, settings)
                yield Draft(documents, (asked, *others))


def complete(draft: Draft, corpus: Corpus, scores: Scores) -> TrainingList:
    """Return a training list with its texts, grades and what teachers say."""
    return TrainingList(
        tuple(corpus.documents[name] for name in draft.documents),
        tuple(
            TrainingQuery(
                asked.id,
                asked.query.text,
                _grades(asked, draft.documents),
                {name: tuple(values) for name, values in scores(draft, asked).items()},
            )
            for asked in draft.queries
        ),
    )


def _grades(asked: Asked, documents: Sequence[str]) -> tuple[int | None, ...] | None:
    judged = asked.material.grades.get(asked.query.id, {})
    grades = tuple(judged.get(name) for name in documents)
    return grades if any(grade is not None for grade in grades) else None


def _documents(
    asked: Asked, number: int, corpus: Corpus, settings: BuildSettings
) -> tuple[str, ...]:
    """Choose one list's documents; equal texts once, in an order that means nothing."""
    grades = asked.material.grades.get(asked.query.id, {})
    candidates = asked.material.candidates.get(asked.query.id, ())
    ranks = {name: rank for rank, name in enumerate(candidates, start=1)}
    near = {name: 1 / (_FLAT + rank) for name, rank in ranks.items() if grades.get(name, 0) < 1}
    deep = 1 / (_FLAT + len(candidates) + 1)
    hard = near | {name: deep for name, grade in grades.items() if grade < 1 and name not in near}
    best = {name: 2.0**grade - 1 for name, grade in grades.items() if grade > 0}
    if not best:
        best = {name: near[name] for name in candidates[: settings.documents]}
    fresh = {name: 1.0 for name in asked.material.random if name not in grades.keys() | ranks}

    chosen: list[str] = []
    seen: set[str] = set()

    def take(weights: Mapping[str, float], kind: str, most: int) -> None:
        for name in _drawn(weights, settings.seed, asked.id, number, kind):
            if len(chosen) >= most:
                return
            if corpus.key(name) not in seen:
                seen.add(corpus.key(name))
                chosen.append(name)

    size = settings.documents
    take(best, "best", size // 2)
    take(fresh, "random", min(size, len(chosen) + settings.drawn))
    take(hard, "hard", size)
    take(fresh, "random", size)
    # A corpus that is so small: then more that is relevant.
    take(best, "best", size)
    return tuple(_shuffled(chosen, settings.seed, asked.id, number, "order"))


def _companions(
    asked: Asked,
    number: int,
    documents: Iterable[str],
    answers: Mapping[str, Sequence[Asked]],
    settings: BuildSettings,
) -> list[Asked]:
    """Return other queries that are answered in a list, each text once."""
    others = {one.id: one for name in documents for one in answers.get(name, ())}
    seen = {text_key(asked.query.text)}
    found = []
    for name in _shuffled(sorted(others), settings.seed, asked.id, number, "queries"):
        key = text_key(others[name].query.text)
        if name != asked.id and key not in seen:
            seen.add(key)
            found.append(others[name])
    return list(islice(found, settings.queries - 1))


def _drawn(weights: Mapping[str, float], *label: object) -> list[str]:
    """Return names in an order drawn by weight: the first is each with its share of the weights.

    Exponential clocks: −ln(u)/w is earliest with a probability of w's share (Efraimidis and
    Spirakis 2006).
    """
    clocks = sorted((-math.log(1 - _draw(*label, name)) / w, name) for name, w in weights.items())
    return [name for _, name in clocks]


def _shuffled(names: Iterable[str], *label: object) -> list[str]:
    return sorted(names, key=lambda name: (_draw(*label, name), name))


def _draw(*label: object) -> float:
    """Return a number in [0, 1) that depends on the label alone."""
    text = "\0".join(map(str, label)).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:6]) / 2**48
