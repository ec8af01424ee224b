"""``ranklens retrieve``: the first stage alone."""

from __future__ import annotations

from typing import Annotated

import typer

from ranklens.cli import options


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
        typer.Option(help="Of the texts: en (the default), or cjk (also zh, ja, ko)."),
    ] = None,
    remove_query: Annotated[
        bool,
        typer.Option(
            "--remove-query", help="Leave out documents with the query's own id (ArguAna)."
        ),
    ] = False,
    limit: options.LimitOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Index a collection, search its queries, write a TREC run.

    lucene is Lucene's own BM25 by Pyserini and Java, in a process of its own.

    Example: ranklens retrieve sample:pydocs -k 100 -o bm25.run
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.retrievers import RetrieverSpec
    from ranklens.cli.stages import retrieve as retrieve_stage
    from ranklens.data.load import load_collection
    from ranklens.data.runs import Run, write_run

    check_output(output)
    spec = RetrieverSpec(retriever, k1, b, rm3, multifield, prebuilt, heap, language)
    loaded = load_collection(collection)
    warn(loaded.notes)
    # One more than asked for, where the query itself may be among them.
    found = retrieve_stage(loaded, spec, k + remove_query, list(loaded.queries)[:limit])
    if remove_query:
        others = {q: [doc for doc in docs if doc.doc_id != q][:k] for q, docs in found.items()}
        found = Run(others, tag=found.tag)
    write_run(found, output)
    documents = sum(map(len, found.values()))
    if as_json:
        print_json(
            {"status": "ok", "run": str(output), "queries": len(found), "documents": documents}
        )
    else:
        note(f"wrote {output}: {len(found)} queries, {documents} documents")
