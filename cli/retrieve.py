"""``ranklens retrieve``: the first stage alone."""

from __future__ import annotations

from typing import Annotated

import typer

from ranklens.cli import options
from ranklens.data.errors import UsageError


def retrieve(
    collection: options.CollectionArgument,
    output: options.OutputOption,
    retriever: options.RetrieverOption = "bm25",
    k: options.TopOption = 1000,
    k1: Annotated[float, typer.Option("--k1", help="BM25: how soon term counts saturate.")] = 0.9,
    b: Annotated[float, typer.Option("--b", help="BM25: how much length counts, 0 to 1.")] = 0.4,
    rm3: Annotated[bool, typer.Option("--rm3", help="lucene: expand queries by RM3.")] = False,
    multifield: Annotated[
        bool, typer.Option("--multifield", help="lucene: the title as a field of its own.")
    ] = False,
    prebuilt: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="lucene: an index of Pyserini's, fetched by it."),
    ] = None,
    heap: Annotated[
        str | None, typer.Option(metavar="SIZE", help="lucene: Java's largest heap (2g).")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="BM25: of the texts, en (the default) or cjk (also zh, ja, ko)."),
    ] = None,
    passages: Annotated[
        str | None,
        typer.Option(
            metavar="HOW[:WORDS]",
            help="Index passages of long documents: max or sum of their scores, or first.",
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            help="hybrid: how bm25 and dense become one (rrf); 'wsum(weights=0.3,0.7)', …."
        ),
    ] = None,
    faiss: Annotated[
        str, typer.Option(help="dense, hybrid: flat (exact), hnsw, ivfpq, sq8 or rabitq.")
    ] = "flat",
    pooling: Annotated[
        str | None,
        typer.Option(help="dense, hybrid: mean, cls or lasttoken; the model's own if absent."),
    ] = None,
    query_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="dense, hybrid: put before queries; the model's own."),
    ] = None,
    passage_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="dense, hybrid: put before documents; the model's own."),
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--no-normalize", help="dense, hybrid: cosines, or inner products."
        ),
    ] = True,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            callback=options.positive, help="dense, hybrid: tokens read; the model's limit."
        ),
    ] = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    index: options.IndexOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Build the index of --index anew.")
    ] = False,
    remove_query: Annotated[
        bool | None,
        typer.Option(
            "--remove-query/--no-remove-query",
            help="Leave out documents with the query's own id; on where that is known to be due.",
        ),
    ] = None,
    limit: options.LimitOption = None,
    sample: options.SampleOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Index a collection, search its queries, write a TREC run.

    lucene is Lucene's own BM25 by Pyserini and Java, in a process of its own. dense encodes
    documents by MODEL (minilm-l6) and searches by Faiss; hybrid fuses bm25 and dense. Killed
    while it encodes, the same command with --index goes on.

    Example: ranklens retrieve sample:pydocs -k 100 -o bm25.run
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.retrievers import RetrieverSpec
    from ranklens.cli.stages import retrieve as retrieve_stage
    from ranklens.data.load import load_collection
    from ranklens.data.runs import write_run
    from ranklens.data.sampling import sampled

    if sample is not None and prebuilt is not None:
        raise UsageError("--sample takes documents from the collection; --prebuilt has its own")
    check_output(output)
    if index is not None and prebuilt is not None:
        raise UsageError("--prebuilt is an index already; --index would keep one that is built")
    if overwrite and index is None:
        raise UsageError("--overwrite is about the index; give --index too")
    spec = RetrieverSpec.parse(
        retriever,
        k1=k1,
        b=b,
        rm3=rm3,
        multifield=multifield,
        prebuilt=prebuilt,
        heap=heap,
        language=language,
        passages=passages,
        fusion=fusion,
        faiss=faiss,
        pooling=pooling,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        normalize=normalize,
        max_tokens=max_tokens,
        device=device,
        dtype=dtype,
    )
    loaded = load_collection(collection)
    if sample is not None:
        loaded = sampled(loaded, sample)
    warn(loaded.notes)
    remove = loaded.remove_query if remove_query is None else remove_query
    queries = list(loaded.queries)[:limit]
    found = retrieve_stage(
        loaded, spec, k, queries, remove_query=remove, index=index, overwrite=overwrite
    )
    write_run(found, output)
    documents = sum(map(len, found.values()))
    if as_json:
        print_json(
            {"status": "ok", "run": str(output), "queries": len(found), "documents": documents}
        )
    else:
        note(f"wrote {output}: {len(found)} queries, {documents} documents")
