"""What is in a collection, and what is wrong with it: one pass over the documents.

Held are ids, hashes of texts and lengths, never the texts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ranklens.data.files import Place
from ranklens.data.findings import Findings, Level
from ranklens.data.passages import count_words
from ranklens.data.records import Document, Judgement, Query
from ranklens.data.runs import RunLine, single_precision
from ranklens.data.text_trouble import SURROGATES, troubles


@dataclass(frozen=True, slots=True)
class Spread:
    """How numbers lie; ``p95`` is the 95th percentile."""

    minimum: int
    median: float
    mean: float
    p95: float
    maximum: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread | None:
        """Return the spread of some numbers, None of none."""
        import numpy as np

        found = np.fromiter(values, dtype=np.int64)
        if not found.size:
            return None
        return cls(
            int(found.min()),
            float(np.median(found)),
            float(found.mean()),
            float(np.percentile(found, 95)),
            int(found.max()),
        )


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run holds; ``depth`` is documents per query."""

    name: str
    queries: int
    documents: int
    depth: Spread | None


@dataclass(frozen=True, slots=True)
class Inspection:
    """Counts of a collection. Lengths are in words, split on white space.

    ``identical`` counts documents with title and text of one before, ``query_ids`` those whose id
    is a query's; ``judgements`` maps grade to count; ``judged_present`` is how many of
    ``judged_documents`` are in the corpus.
    """

    documents: int
    document_words: Spread | None
    titles: int
    empty: int
    identical: int
    query_ids: int
    queries: int
    query_words: Spread | None
    judgements: Mapping[int, int]
    judged_queries: int
    judged_per_query: Spread | None
    without_relevant: int
    judged_documents: int
    judged_present: int
    runs: tuple[RunFacts, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of a collection as streams, each record with its place where there is one.

    ``judgements`` None: there are none. A grade of ``relevance_level`` is relevant.
    """

    documents: Iterable[tuple[Place | None, Document]]
    queries: Iterable[tuple[Place | None, Query]]
    judgements: Iterable[tuple[Place | None, Judgement]] | None
    runs: Mapping[str, Iterable[tuple[Place | None, RunLine]]] = field(default_factory=dict)
    relevance_level: int = 1


def inspect(sources: Sources, findings: Findings) -> Inspection:
    """Read a collection once, count, and note what is wrong with it."""
    queries = _queries(sources, findings)
    judgements = _judgements(sources, findings)
    judged = {doc_id for grades in judgements.values() for doc_id in grades}
    documents = _Documents(queries, findings)
    for place, document in sources.documents:
        documents.add(place, document)
    if not documents.ids:
        findings.add("error", "documents", "there are none", "nothing to search")
    absent = sorted(judged - documents.ids)
    for doc_id in absent:
        findings.add("warning", "qrels", "judged documents that are not there", repr(doc_id))
    without = _judged_queries(sources, queries, judgements, findings)
    # Only judged queries count in an evaluation; where nothing is judged, all are to be ranked.
    wanted = [query_id for query_id in queries if not judgements or query_id in judgements]
    runs = tuple(
        _run(name, lines, queries, wanted, documents.ids, findings)
        for name, lines in sources.runs.items()
    )
    return Inspection(
        documents=len(documents.ids),
        document_words=Spread.of(documents.words),
        titles=documents.titles,
        empty=documents.empty,
        identical=documents.identical,
        query_ids=len(documents.ids & queries.keys()),
        queries=len(queries),
        query_words=Spread.of(map(count_words, queries.values())),
        judgements=dict(
            sorted(Counter(g for grades in judgements.values() for g in grades.values()).items())
        ),
        judged_queries=len(judgements),
        judged_per_query=Spread.of(map(len, judgements.values())),
        without_relevant=without,
        judged_documents=len(judged),
        judged_present=len(judged) - len(absent),
        runs=runs,
    )


def _queries(sources: Sources, findings: Findings) -> dict[str, str]:
    found: dict[str, str] = {}
    for place, query in sources.queries:
        if query.id in found:
            findings.add("error", "queries", "ids that occur twice", _example(query.id, place))
            continue
        found[query.id] = query.text
        _check_id(query.id, "queries", place, findings)
        if query.id.startswith("#"):
            findings.add(
                "error",
                "queries",
                "ids with '#' in front: comments in a run file",
                _example(query.id, place),
            )
        _check_text(query.id, query.text, "queries", findings)
    if not found:
        findings.add("error", "queries", "there are none", "nothing to search for")
    return found


def _judgements(sources: Sources, findings: Findings) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for place, judgement in sources.judgements or ():
        grades = found.setdefault(judgement.query_id, {})
        known = grades.setdefault(judgement.doc_id, judgement.grade)
        if known != judgement.grade:
            findings.add(
                "error",
                "qrels",
                "pairs judged twice with different grades",
                f"{_example(judgement.query_id, place)}: {judgement.doc_id!r} {judgement.grade}, "
                f"before {known}",
            )
    if sources.judgements is not None and not found:
        findings.add("error", "qrels", "there are no judgements", "nothing to evaluate against")
    return found


def _judged_queries(
    sources: Sources,
    queries: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, int]],
    findings: Findings,
) -> int:
    """Check judgements against queries; return the judged ones without a relevant document."""
    textless = [query_id for query_id in judgements if query_id not in queries]
    every = bool(judgements) and len(textless) == len(judgements)
    for query_id in textless:
        problem = "no judged query is there" if every else "judged queries that are not there"
        findings.add("error" if every else "warning", "qrels", problem, repr(query_id))
    without = [
        query_id
        for query_id, grades in judgements.items()
        if not any(grade >= sources.relevance_level for grade in grades.values())
    ]
    for query_id in without:
        problem = f"queries without a document of grade {sources.relevance_level} or more"
        findings.add("warning", "qrels", problem, repr(query_id))
    return len(without)


class _Documents:
    """What one pass over the documents finds."""

    def __init__(self, queries: Mapping[str, str], findings: Findings) -> None:
        self.ids: set[str] = set()
        self.words = array("L")
        self.titles = self.empty = self.identical = 0
        self._queries = queries
        self._findings = findings
        self._texts: dict[bytes, str] = {}

    def add(self, place: Place | None, document: Document) -> None:
        if document.id in self.ids:
            example = _example(document.id, place)
            self._findings.add("error", "documents", "ids that occur twice", example)
            return
        self.ids.add(document.id)
        self.words.append(count_words(document.full_text))
        self.titles += bool(document.title.strip())
        _check_id(document.id, "documents", place, self._findings)
        if not self.words[-1]:
            self.empty += 1
            self._findings.add("warning", "documents", "empty texts", _example(document.id, place))
            return
        _check_text(document.id, document.full_text, "documents", self._findings)
        self._compare(document)

    def _compare(self, document: Document) -> None:
        text = document.full_text
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
        first = self._texts.setdefault(digest, document.id)
        if first != document.id:
            self.identical += 1
            self._findings.add(
                "warning", "documents", "identical texts", f"{document.id!r} as {first!r}"
            )
        query = self._queries.get(document.id)
        # Numbers often serve as ids of both, so ids alone say nothing.
        if query is not None and _is_most_of(query, text):
            self._findings.add(
                "warning",
                "documents",
                "a query's own text under its id: retrieve with --remove-query",
                repr(document.id),
            )


def _run(
    name: str,
    lines: Iterable[tuple[Place | None, RunLine]],
    queries: Mapping[str, str],
    wanted: Iterable[str],
    documents: set[str],
    findings: Findings,
) -> RunFacts:
    part = f"run {name}"
    scores: dict[str, dict[str, float]] = {}
    for place, line in lines:
        of_query = scores.setdefault(line.query_id, {})
        if line.doc_id in of_query:
            findings.add(
                "error",
                part,
                "documents that a query lists twice",
                f"{_example(line.doc_id, place)} of query {line.query_id!r}",
            )
            continue
        of_query[line.doc_id] = line.score
        if line.doc_id not in documents:
            findings.add(
                "error",
                part,
                "documents that are not in the collection",
                f"{_example(line.doc_id, place)} of query {line.query_id!r}",
            )
    unknown = [query_id for query_id in scores if query_id not in queries]
    none_known = len(unknown) == len(scores)
    for query_id in unknown:
        problem = "queries that the collection lacks" + (": all" if none_known else "")
        findings.add("error" if none_known else "warning", part, problem, repr(query_id))
    for query_id in wanted:
        if query_id not in scores and not none_known:
            findings.add("warning", part, "queries that it lacks: they count as 0", repr(query_id))
    for query_id, of_query in scores.items():
        if len(set(single_precision(of_query.values()).tolist())) < len(of_query):
            findings.add("warning", part, "queries with tied scores", repr(query_id))
    if not scores:
        findings.add("error", part, "there is nothing in it", name)
    depths = [len(of_query) for of_query in scores.values()]
    return RunFacts(name, len(scores), sum(depths), Spread.of(depths))


def _example(identifier: str, place: Place | None) -> str:
    return repr(identifier) if place is None else f"{place}: {identifier!r}"


def _check_id(identifier: str, part: str, place: Place | None, findings: Findings) -> None:
    if identifier.split() != [identifier]:
        problem = "ids with white space: no run file can carry them"
        findings.add("error", part, problem, _example(identifier, place))


def _check_text(identifier: str, text: str, part: str, findings: Findings) -> None:
    for kind, excerpt in troubles(text):
        level: Level = "error" if kind == SURROGATES else "warning"
        findings.add(level, part, kind, f"{identifier!r}: {excerpt}")


def _is_most_of(part: str, whole: str) -> bool:
    """Say whether one text is in another and at least half of it, case and spaces aside."""
    inner, outer = (" ".join(text.split()).casefold() for text in (part, whole))
    return inner in outer and 2 * len(inner) >= len(outer)
