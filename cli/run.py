"""``ranklens run``: retrieve, rerank, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli import options
from ranklens.cli.documents import kept_documents
from ranklens.cli.retrievers import RETRIEVER_FORMS, RetrieverSpec
from ranklens.cli.specs import DEFAULT_RERANKER, RerankerSpec
from ranklens.data.errors import UsageError


def run(
    collection: options.CollectionArgument,
    out: Annotated[Path, typer.Option(help="The run folder; the same command resumes in it.")],
    retriever: Annotated[
        str | None, typer.Option(help=f"First stage: {RETRIEVER_FORMS} (default bm25).")
    ] = None,
    index: options.IndexOption = None,
    candidates: Annotated[
        str | None, typer.Option(help="Rerank these: a name in the collection, or a run file.")
    ] = None,
    reranker: options.RerankerOption = DEFAULT_RERANKER,
    profile: options.ProfileOption = None,
    long_lists: options.LongListsOption = "refuse",
    passages: options.PassagesOption = None,
    documents: options.DocumentsOption = None,
    depth: options.DepthOption = 20,
    limit: options.LimitOption = None,
    sample: options.SampleOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Retrieve, rerank and evaluate; end with a table.

    The run folder holds candidates, results, the final run and the metrics. Killed at any
    moment, the same command resumes and ends with the same bytes.

    Example: ranklens run sample:pydocs --depth 20 --out runs/pydocs
    """
    if retriever is not None and candidates is not None:
        raise UsageError("--retriever and --candidates exclude each other; give one")
    if sample is not None and candidates is not None:
        raise UsageError("--candidates are of all documents, --sample is searched; give one")
    if index is not None and candidates is not None:
        raise UsageError("--candidates are searched already; --index is of a retriever; give one")
    from ranklens.cli.output import note, print_json, warn
    from ranklens.cli.pipeline import run_pipeline
    from ranklens.cli.pipeline_report import print_metrics
    from ranklens.data.load import load_collection
    from ranklens.data.sampling import sampled

    spec = RerankerSpec.parse(
        reranker, profile, device, dtype, long_lists, passages, kept_documents(documents)
    )
    loaded = load_collection(collection)
    if sample is not None:
        loaded = sampled(loaded, sample)
    metrics = run_pipeline(
        loaded,
        out,
        spec,
        depth=depth,
        retriever=RetrieverSpec.of_run(retriever or "bm25", device),
        index=index,
        candidates=candidates,
        limit=limit,
        overwrite=overwrite,
    )
    if as_json:
        print_json({"status": "ok", "collection": loaded.name, **metrics})
    else:
        warn(metrics["warnings"])
        print_metrics(metrics, loaded.name)
        note(f"written to {out}")
