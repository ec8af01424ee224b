"""A report's content out of runs, a collection and a reranker: what is done in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranklens import __version__
from ranklens.cli.html_report.agreement import agreement
from ranklens.cli.html_report.attention import head_map, shape_of
from ranklens.cli.html_report.bias import bias_of_orders, bias_of_run
from ranklens.cli.html_report.content import Bias, Content, ReportedCollection
from ranklens.cli.html_report.environment import checksum_warnings, commands, environment
from ranklens.cli.html_report.gather import (
    fetched,
    measured,
    reported_queries,
    reported_runs,
    shown_documents,
)
from ranklens.cli.html_report.sources import Source, baseline_of, wanted_queries
from ranklens.data.collection import Collection
from ranklens.data.coverage import absent_judged
from ranklens.data.errors import InvalidInputError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query
from ranklens.eval.policy import DEFAULT, Policy

if TYPE_CHECKING:
    from ranklens.cli.html_report.reading import Read, Reader


@dataclass(frozen=True, slots=True)
class Choice:
    """What a report is to show.

    ``depth`` documents of each list, ``characters`` of each document, ``queries`` of them (None:
    all). ``attention`` queries have coloured tokens (None: all), read in ``permutations``
    shuffled orders too. ``arguments`` made it, ``warnings`` are known already.
    """

    measures: Sequence[str]
    policy: Policy = DEFAULT
    baseline: str | None = None
    depth: int = 20
    characters: int = 1000
    queries: int | None = None
    attention: int | None = None
    permutations: int = 0
    arguments: Sequence[str] = ()
    warnings: Sequence[str] = ()


def build(
    collection: Collection,
    sources: Sequence[Source],
    choice: Choice,
    *,
    labels: Mapping[str, Qrels] | None = None,
    reader: Reader | None = None,
) -> Content:
    """Gather what a report shows. ``labels`` are held against the collection's judgements.

    Without a ``reader`` no tokens are coloured. Raises InvalidInputError for runs that have no
    query of the collection, and as ``evaluate``, ``compare`` and ``label_agreement`` do.
    """
    queries, qrels = _questions(collection, sources)
    baseline = baseline_of(choice.baseline, sources)
    warnings = [*choice.warnings, *collection.notes, *absent_judged(collection)]
    warnings += checksum_warnings(collection, sources)
    found = measured(qrels, sources, choice.measures, choice.policy, baseline)
    agreed, doubts = agreement(collection, labels or {})
    warnings += [*found.warnings, *doubts]
    shown = queries[: choice.queries]
    if len(shown) < len(queries):
        warnings.append(
            f"the first {len(shown)} of {len(queries)} queries are shown; measures and comparisons "
            "are of all"
        )
    listed = reported_queries(shown, sources, qrels, found, choice.depth)
    texts = fetched(collection, shown, sources, choice.depth)
    documents = shown_documents(listed, texts, choice.characters)
    absent = [doc_id for doc_id, document in documents.items() if document.missing]
    if absent:
        warnings.append(
            f"{len(absent)} of {len(documents)} shown documents are not in the collection (first: "
            f"{absent[0]!r})"
        )
    read: Read | None = None
    if reader is not None and choice.attention != 0:
        numbers = {query.id: number for number, query in enumerate(collection.queries)}
        chosen = shown[: choice.attention]
        read = reader.read(chosen, numbers, texts, listed, documents, choice.permutations)
        warnings += read.warnings
        if read.attention is not None and len(chosen) < len(shown):
            warnings.append(f"the tokens of the first {len(chosen)} queries are coloured")
    return Content(
        title=f"Rankings of {collection.name}",
        made_with=f"ranklens {__version__}",
        collection=ReportedCollection(
            collection.name,
            len(queries),
            sum(map(len, qrels.values())),
            collection.relevance_level,
        ),
        measures=tuple(choice.measures) if qrels else (),
        runs=reported_runs(sources, found),
        comparisons=found.pairs,
        queries=listed,
        documents=documents,
        attention=None if read is None else read.attention,
        heads=None if reader is None else head_map(reader.profile, shape_of(reader.model)),
        bias=_bias(sources, shown, texts, read, choice.permutations),
        agreement=agreed,
        environment=environment(sources, None if read is None else read.with_what),
        warnings=tuple(dict.fromkeys(warnings)),
        commands=commands(collection, sources, choice.arguments),
    )


def _questions(collection: Collection, sources: Sequence[Source]) -> tuple[list[Query], Qrels]:
    """Return the queries that the runs are about, with their judgements."""
    queries, qrels = list(collection.queries), collection.qrels
    wanted = wanted_queries(sources)
    if wanted is not None:
        queries = [query for query in queries if query.id in wanted]
        qrels = qrels.restricted_to(query.id for query in queries)
    if not any(source.run.get(query.id) for query in queries for source in sources):
        raise InvalidInputError(
            f"the runs have none of the {len(collection.queries)} queries of collection "
            f"{collection.name!r} (theirs: {next(iter(sources[0].run), None)!r}, …; the "
            f"collection's: {collection.queries[0].id!r}, …); are they of the same test set?"
        )
    return queries, qrels


def _bias(
    sources: Sequence[Source],
    queries: Sequence[Query],
    texts: Mapping[str, Document],
    read: Read | None,
    permutations: int,
) -> Bias | None:
    """Return what shuffled orders say, where they were read, else what the first run says."""
    if read is not None and read.readings:
        return bias_of_orders(read.run, read.readings, permutations)
    reranked = next((source for source in sources if source.role == "reranked"), None)
    if reranked is None:
        return None
    return bias_of_run(reranked, [query.id for query in queries], texts)
