"""``ranklens retrieve``: the first stage alone."""

from __future__ import annotations

from ranklens.cli import options


def retrieve(
    collection: options.CollectionArgument,
    output: options.OutputOption,
    retriever: options.RetrieverOption = "bm25",
    k: options.TopOption = 1000,
    limit: options.LimitOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Index a collection, search its queries, write a TREC run.

    Example: ranklens retrieve sample:pydocs -k 100 -o bm25.run
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.specs import build_retriever
    from ranklens.cli.stages import retrieve as retrieve_stage
    from ranklens.data.load import load_collection
    from ranklens.data.runs import write_run

    check_output(output)
    build_retriever(retriever)
    loaded = load_collection(collection)
    warn(loaded.notes)
    found = retrieve_stage(loaded, retriever, k, list(loaded.queries)[:limit])
    write_run(found, output)
    documents = sum(map(len, found.values()))
    if as_json:
        print_json(
            {"status": "ok", "run": str(output), "queries": len(found), "documents": documents}
        )
    else:
        note(f"wrote {output}: {len(found)} queries, {documents} documents")
