"""The pipeline: first stage, reranking, evaluation, in a folder that can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.cli.documents import tell_origins
from ranklens.cli.output import note, warn
from ranklens.cli.pipeline_report import pipeline_metrics
from ranklens.cli.retrievers import RetrieverSpec
from ranklens.cli.run_folder import RunFolder, open_run_folder
from ranklens.cli.specs import RerankerSpec
from ranklens.cli.stages import (
    check_index,
    fetch_texts,
    given_candidates,
    merged,
    request_numbers,
    rerank,
    retrieve,
)
from ranklens.data.collection import Collection
from ranklens.data.coverage import absent_judged
from ranklens.data.errors import PartialError, UsageError
from ranklens.data.records import Query
from ranklens.data.runs import Run
from ranklens.eval.measures import default_measures, evaluate

if TYPE_CHECKING:
    from ranklens.rerank.base import Reranker

RETRIEVAL_DEPTH = 1000


def run_pipeline(
    collection: Collection,
    out: Path,
    reranker: RerankerSpec,
    *,
    depth: int,
    retriever: RetrieverSpec | None = None,
    index: Path | None = None,
    candidates: str | None = None,
    limit: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run, or resume, a pipeline in the folder ``out`` and return its metrics.

    The first stage is BM25 where no ``retriever`` is given; its index is kept in the folder
    ``index`` where there is one. ``candidates`` names a run to rerank instead of retrieving;
    ``limit`` takes the first queries only; ``overwrite`` drops an earlier run, once settings,
    candidates, index and model of this one are found to work. Raises PartialError on Ctrl-C, with
    what is done kept.
    """
    if depth < 1:
        raise UsageError(f"--depth must be at least 1, got {depth}")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, got {limit}")
    collection.judgements("`ranklens run`")
    retrieving = retriever or RetrieverSpec()
    queries = list(collection.queries)[:limit]
    warn((*collection.notes, *absent_judged(collection)))
    if len(queries) < len(collection.queries):
        warn([f"only the first {len(queries)} of {len(collection.queries)} queries are used"])
    with open_run_folder(out) as folder:
        try:
            given = (
                None if candidates is None else given_candidates(collection, candidates, queries)
            )
            manifest = {
                "collection": {"name": collection.name, "checksums": collection.fingerprint()},
                "queries": [query.id for query in queries],
                "first_stage": _first_stage(retrieving, collection)
                if given is None
                else _digest(given),
                "reranker": reranker.describe(),
                "depth": depth,
            }
            # What cannot be used is refused before an earlier run is dropped for it.
            if overwrite and index is not None:
                check_index(collection, retrieving, index)
            loaded = _load(reranker) if overwrite else None
            if folder.begin(manifest, overwrite=overwrite):
                note(f"resuming in {folder.path}")
            first_stage = _candidates(folder, collection, queries, retrieving, index, given)
            return _finish(folder, collection, queries, reranker, loaded, depth, first_stage)
        except KeyboardInterrupt:
            done = len(folder.results())
            raise PartialError(
                f"interrupted with {done} of {len(queries)} queries reranked; "
                f"the same command goes on from there ({out})"
            ) from None


def _load(spec: RerankerSpec) -> Reranker:
    note(f"loading {spec.model or spec.kind}")
    reranker = spec.load()
    placement = reranker.placement
    if placement is not None:
        note(f"running on {placement.device}: {placement.reason}")
    return reranker


def _candidates(
    folder: RunFolder,
    collection: Collection,
    queries: Sequence[Query],
    retriever: RetrieverSpec,
    index: Path | None,
    given: Run | None,
) -> Run:
    """Return the first stage's run: the folder's, else the given one, else a retrieval."""
    kept = folder.candidates()
    if kept is not None:
        return kept
    found = given or retrieve(
        collection,
        retriever,
        RETRIEVAL_DEPTH,
        queries,
        remove_query=collection.remove_query,
        index=index,
    )
    if given is not None and given.tied_queries:
        warn(
            [
                f"{len(given.tied_queries)} queries of the candidates have tied scores; "
                "they are taken in the order of the rank column, then document id"
            ]
        )
    wanted = {query.id for query in queries}
    return folder.keep_candidates(
        Run({q: docs for q, docs in found.items() if q in wanted}, tag=found.tag)
    )


def _finish(
    folder: RunFolder,
    collection: Collection,
    queries: Sequence[Query],
    spec: RerankerSpec,
    loaded: Reranker | None,
    depth: int,
    first_stage: Run,
) -> dict[str, Any]:
    """Rerank what is not reranked yet, then evaluate."""
    qrels = collection.qrels.restricted_to(query.id for query in queries)
    measures = default_measures(collection.relevance_level)
    # Candidates that cannot be evaluated are refused before the long work, not after it.
    evaluate(qrels, first_stage, measures[:1])
    done = folder.results()
    todo = [query for query in queries if query.id not in done and query.id in first_stage]
    if todo:
        _rerank(folder, collection, todo, loaded or _load(spec), depth, first_stage)
        done = folder.results()
    rankings = {
        query.id: merged(done[query.id], first_stage.get(query.id, ()))
        for query in queries
        if query.id in done
    }
    # What is evaluated is what lies in the folder: files have no ties, runs in memory may.
    reranked = folder.keep_reranked(Run(rankings))
    metrics = pipeline_metrics(qrels, first_stage, reranked, depth, measures)
    folder.keep_metrics(metrics)
    return metrics


def _rerank(
    folder: RunFolder,
    collection: Collection,
    queries: Sequence[Query],
    reranker: Reranker,
    depth: int,
    first_stage: Run,
) -> None:
    from ranklens.rerank.attention_reranker import AttentionReranker

    texts = fetch_texts(collection, first_stage, depth, queries)
    shortened = 0
    numbers = request_numbers(collection)
    for query, ranking in rerank(reranker, first_stage, texts, depth, queries, numbers):
        if ranking is not None:
            shortened += sum(1 for ranked in ranking if ranked.tokens_cut)
            folder.append(query.id, ranking)
    if isinstance(reranker, AttentionReranker):
        tell_origins(reranker.documents)
    if shortened:
        warn([f"{shortened} documents were shortened to fit (tokens_cut in results.jsonl)"])


def _first_stage(retriever: RetrieverSpec, collection: Collection) -> dict[str, Any]:
    # Said where it is so: folders of earlier runs, which do not have it, still resume.
    removed = {"remove_query": True} if collection.remove_query else {}
    return {**retriever.describe(), "k": RETRIEVAL_DEPTH, **removed}


def _digest(run: Run) -> dict[str, str]:
    """Identify a run that was given by what is in it: where it lies does not matter."""
    import hashlib

    digest = hashlib.sha256()
    for query_id, docs in run.items():
        for doc in docs:
            digest.update(f"{query_id}\t{doc.doc_id}\t{doc.score!r}\n".encode())
    return {"run": run.tag, "sha256": digest.hexdigest()}
