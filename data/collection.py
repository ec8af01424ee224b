"""Collections: documents, queries, judgements and candidates of one test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ranklens.data.documents import DocumentSource
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Query
from ranklens.data.runs import Run


@dataclass(frozen=True)
class Collection:
    """One test set. Only what is small is held: documents stay a stream.

    ``qrels`` is empty where nothing is judged; then there is something to search and rerank, and
    nothing to evaluate.
    ``relevance_level`` is the lowest grade that binary measures (AP, RR, P, R) count as
    relevant; ``notes`` are things the user should be told, such as queries left out.
    ``remove_query``: a document with the query's own id is the query, not an answer to it.
    ``candidate_runs`` are the runs it brings along, by name, each read when it is asked for.
    """

    name: str
    documents: DocumentSource
    queries: Sequence[Query]
    qrels: Qrels
    candidate_runs: Mapping[str, Callable[[], Run]] = field(default_factory=dict)
    relevance_level: int = 1
    remove_query: bool = False
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def candidates(self, name: str) -> Run:
        """Return a run that the collection brings along; MissingResourceError lists its names."""
        if name not in self.candidate_runs:
            known = ", ".join(sorted(self.candidate_runs)) or "none"
            raise MissingResourceError(
                f"collection {self.name!r} has no candidates named {name!r} (it has: {known}), "
                "and there is no such file"
            )
        return self.candidate_runs[name]()

    def judgements(self, purpose: str) -> Qrels:
        """Return the qrels; InvalidInputError, saying for what, when nothing is judged."""
        if not self.qrels:
            raise InvalidInputError(
                f"collection {self.name!r} has no judgements, which {purpose} needs; "
                "`ranklens retrieve` and `ranklens rerank` work without, or name a qrels file in "
                'its collection.toml (qrels = "FILE"), or choose a subset of ir_datasets that is '
                "judged (often /test, /dev or /judged)"
            )
        return self.qrels

    def fingerprint(self) -> dict[str, str]:
        """Return what identifies documents, queries and judgements: name of the part → checksum."""
        return {"documents": self.documents.fingerprint(), **self.sources}


def assemble(
    *,
    name: str,
    documents: DocumentSource,
    queries: Sequence[Query],
    qrels: Qrels | None,
    candidate_runs: Mapping[str, Callable[[], Run]] | None = None,
    relevance_level: int = 1,
    remove_query: bool = False,
    notes: tuple[str, ...] = (),
    sources: Mapping[str, str] | None = None,
) -> Collection:
    """Make a Collection of the queries that are judged, and note the ones that are not.

    With ``qrels`` None all queries are kept. Raises InvalidInputError when there are no queries,
    when none is judged although there are qrels, when a query id occurs twice, when a query to
    be used has no text, and for a relevance_level below 1.
    """
    if relevance_level < 1:
        raise InvalidInputError(
            f"collection {name!r}: relevance_level must be at least 1, got {relevance_level}"
        )
    if qrels is None:
        if not queries:
            raise InvalidInputError(f"collection {name!r} has no queries")
        qrels, judged = Qrels([]), list(queries)
    else:
        judged = [query for query in queries if query.id in qrels]
    if not judged:
        raise InvalidInputError(
            f"collection {name!r}: no query id of the qrels (first: {next(iter(qrels), None)!r}) "
            f"is among the queries (first: {queries[0].id if queries else None!r})"
        )
    for query in judged:
        if not query.text.strip():
            raise InvalidInputError(f"collection {name!r}: query {query.id!r} has no text")
    if len(judged) < len(queries):
        notes += (f"{len(queries) - len(judged)} queries without judgements are left out",)
    known: set[str] = set()
    for query in queries:
        if query.id in known:
            raise InvalidInputError(f"collection {name!r}: query id {query.id!r} occurs twice")
        known.add(query.id)
    textless = [query_id for query_id in qrels if query_id not in known]
    if textless:
        notes += (
            f"{len(textless)} judged queries have no text (first: {textless[0]!r}) "
            "and are left out",
        )
        qrels = qrels.restricted_to(query.id for query in judged)
    return Collection(
        name=name,
        documents=documents,
        queries=judged,
        qrels=qrels,
        candidate_runs=candidate_runs or {},
        relevance_level=relevance_level,
        remove_query=remove_query,
        notes=notes,
        sources=sources or {},
    )
