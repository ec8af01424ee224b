"""``ranklens rerank``: reorder a run."""

from __future__ import annotations

from typing import Annotated

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_PROFILE, DEFAULT_RERANKER, RerankerSpec


def rerank(
    collection: options.CollectionArgument,
    candidates: Annotated[
        str, typer.Argument(metavar="CANDIDATES", help="A run file, or the collection's name.")
    ],
    output: options.OutputOption,
    reranker: options.RerankerOption = DEFAULT_RERANKER,
    profile: options.ProfileOption = DEFAULT_PROFILE,
    depth: options.DepthOption = 100,
    limit: options.LimitOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Rerank the first candidates of every query, write a TREC run.

    Candidates below the depth follow in their order. For long work `ranklens run` resumes
    after an interruption; this command writes at the end.

    Example: ranklens rerank sample:pydocs bm25.run --depth 20 -o reranked.run
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.specs import find_candidates
    from ranklens.cli.stages import fetch_texts, merged
    from ranklens.cli.stages import rerank as rerank_stage
    from ranklens.data.load import load_collection
    from ranklens.data.runs import Run, write_run

    spec = RerankerSpec.parse(reranker, profile, device, dtype)
    check_output(output)
    loaded = load_collection(collection)
    warn(loaded.notes)
    first = find_candidates(loaded, candidates, loaded.queries)
    queries = [query for query in loaded.queries if query.id in first][:limit]
    note(f"loading {spec.model}")
    engine = spec.load()
    texts = fetch_texts(loaded, first, depth, queries)
    rankings = {}
    shortened = 0
    for query, ranking in rerank_stage(engine, first, texts, depth, queries):
        if ranking is not None:
            shortened += sum(1 for ranked in ranking if ranked.tokens_cut)
            head = [(ranked.id, ranked.score) for ranked in ranking]
            rankings[query.id] = merged(head, first[query.id])
    if shortened:
        warn([f"{shortened} documents were shortened to fit"])
    write_run(Run(rankings), output)
    if as_json:
        print_json({"status": "ok", "run": str(output), "queries": len(rankings)})
    else:
        note(f"wrote {output}: {len(rankings)} queries reranked at depth {depth}")
