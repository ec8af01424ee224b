"""What a report says of its runs: measures, comparisons, and the lists side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ranklens.cli.html_report.content import (
    Listed,
    ReportedPair,
    ReportedQuery,
    ReportedRun,
    ShownDocument,
    Value,
)
from ranklens.cli.html_report.sources import Source
from ranklens.data.collection import Collection
from ranklens.data.errors import UsageError
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query
from ranklens.eval.ceiling import ceiling_run
from ranklens.eval.comparison import compare
from ranklens.eval.measure_names import check_comparable
from ranklens.eval.measures import Evaluation, MeasureResult, evaluate
from ranklens.eval.policy import Policy


@dataclass(frozen=True, slots=True)
class Measured:
    """Evaluations by run, of the ceilings by run, the pairs, and what to be careful about.

    All are empty where nothing is judged.
    """

    runs: Mapping[str, Evaluation]
    ceilings: Mapping[str, Evaluation]
    pairs: tuple[ReportedPair, ...]
    warnings: tuple[str, ...]


def measured(
    qrels: Qrels, sources: Sequence[Source], measures: Sequence[str], policy: Policy, baseline: str
) -> Measured:
    """Evaluate runs and the best that their candidates allow, and compare runs with the baseline.

    Pairs are of measures that are means and better when higher. Raises as ``evaluate`` and
    ``compare`` do.
    """
    if not qrels:
        return Measured({}, {}, (), ("nothing is judged: the report has lists, but no measures",))
    runs, ceilings, warnings = {}, {}, []
    pools: list[tuple[Source, Evaluation]] = []
    for source in sources:
        runs[source.name] = found = evaluate(qrels, source.run, measures, policy)
        warnings += [f"{source.name}: {text}" for text in found.warnings]
        if source.pool is None or source.depth is None:
            continue
        best = next((known for one, known in pools if _same_pool(one, source)), None)
        if best is None:
            pool = ceiling_run(source.pool, qrels, source.depth)
            best = evaluate(qrels, pool, measures, policy)
            pools.append((source, best))
        ceilings[source.name] = best
    comparable = [name for name in measures if _comparable(name)]
    if len(sources) < 2 or not comparable:
        return Measured(runs, ceilings, (), tuple(warnings))
    comparison = compare(
        qrels,
        {source.name: source.run for source in sources},
        comparable,
        baseline=baseline,
        policy=policy,
    )
    nan = float("nan")
    pairs = tuple(
        ReportedPair(
            run=pair.run,
            against=pair.against,
            measure=pair.measure,
            difference=pair.effect.difference,
            ci95=pair.effect.ci95 or (nan, nan),
            p=pair.p_corrected,
            wins=pair.effect.wins,
            ties=pair.effect.ties,
            losses=pair.effect.losses,
        )
        for pair in comparison.pairs
    )
    return Measured(runs, ceilings, pairs, tuple(dict.fromkeys([*warnings, *comparison.warnings])))


def reported_runs(sources: Sequence[Source], found: Measured) -> tuple[ReportedRun, ...]:
    """Return the runs with their measures."""
    return tuple(
        ReportedRun(
            name=source.name,
            role=source.role,
            depth=source.depth,
            values={
                measure: Value(result.value, result.ci95)
                for measure, result in _results(found.runs, source.name).items()
            },
            ceiling={
                measure: result.value
                for measure, result in _results(found.ceilings, source.name).items()
            }
            if source.name in found.ceilings
            else None,
        )
        for source in sources
    )


def reported_queries(
    queries: Sequence[Query], sources: Sequence[Source], qrels: Qrels, found: Measured, depth: int
) -> tuple[ReportedQuery, ...]:
    """Return queries with their values and the first ``depth`` documents of every run."""
    return tuple(
        ReportedQuery(
            id=query.id,
            text=query.text,
            values=_of_query(found.runs, query.id),
            ceiling=_of_query(found.ceilings, query.id),
            lists={
                source.name: tuple(
                    Listed(doc.doc_id, doc.score, qrels.get(query.id, {}).get(doc.doc_id))
                    for doc in source.run.get(query.id, ())[:depth]
                )
                for source in sources
            },
        )
        for query in queries
    )


def fetched(
    collection: Collection, queries: Sequence[Query], sources: Sequence[Source], depth: int
) -> dict[str, Document]:
    """Return the documents that the collection has of those shown, and of those reranked."""
    wanted = {
        doc.doc_id
        for query in queries
        for source in sources
        for run, most in ((source.run, depth), (source.pool, source.depth or 0))
        if run is not None
        for doc in run.get(query.id, ())[:most]
    }
    return collection.documents.get_many(sorted(wanted))


def shown_documents(
    queries: Sequence[ReportedQuery], texts: Mapping[str, Document], characters: int
) -> dict[str, ShownDocument]:
    """Return the documents of the lists, titles and texts cut at so many code points each."""
    shown: dict[str, ShownDocument] = {}
    for query in queries:
        for listed in (one for docs in query.lists.values() for one in docs):
            if listed.doc in shown:
                continue
            document = texts.get(listed.doc)
            if document is None:
                shown[listed.doc] = ShownDocument("", "", cut=False, missing=True)
                continue
            title, text = document.title[:characters], document.text[:characters]
            cut = len(document.title) > len(title) or len(document.text) > len(text)
            shown[listed.doc] = ShownDocument(title, text, cut)
    return shown


def _comparable(measure: str) -> bool:
    try:
        check_comparable(measure)
    except UsageError:
        return False
    return True


def _same_pool(one: Source, other: Source) -> bool:
    return one.depth == other.depth and dict(one.pool or {}) == dict(other.pool or {})


def _results(evaluations: Mapping[str, Evaluation], name: str) -> Mapping[str, MeasureResult]:
    return evaluations[name].measures if name in evaluations else {}


def _of_query(evaluations: Mapping[str, Evaluation], query_id: str) -> dict[str, dict[str, float]]:
    return {
        name: {
            measure: result.per_query[query_id]
            for measure, result in evaluation.measures.items()
            if query_id in result.per_query
        }
        for name, evaluation in evaluations.items()
    }
