"""``ranklens rerank``: reorder a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from ranklens.cli import options
from ranklens.cli.documents import kept_documents, tell_origins
from ranklens.cli.specs import DEFAULT_RERANKER, AttentionSpec, RerankerSpec
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.rerank.scales import Scale


def rerank(
    collection: options.CollectionArgument,
    candidates: Annotated[
        str, typer.Argument(metavar="CANDIDATES", help="A run file, or the collection's name.")
    ],
    output: options.OutputOption,
    reranker: options.RerankerOption = DEFAULT_RERANKER,
    profile: options.ProfileOption = None,
    long_lists: options.LongListsOption = "refuse",
    passages: options.PassagesOption = None,
    documents: options.DocumentsOption = None,
    depth: options.DepthOption = 100,
    limit: options.LimitOption = None,
    scale: Annotated[
        str, typer.Option(help="What scores to write: raw, softmax, z or probability.")
    ] = "raw",
    threshold: Annotated[
        float | None, typer.Option(help="Leave out documents that score less on the scale.")
    ] = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Rerank the first candidates of every query, write a TREC run.

    Candidates below the depth follow in their order. For long work `ranklens run` resumes
    after an interruption; this command writes at the end.

    softmax and z are within a query's list; probability needs a profile that `ranklens
    calibrate` made. On these scales candidates below the depth, which have no such score, are
    left out. With --threshold the run holds what reaches it and nothing else. How many were
    left out is said.

    Example: ranklens rerank sample:pydocs bm25.run --depth 20 -o reranked.run
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.specs import find_candidates
    from ranklens.cli.stages import fetch_texts, merged, request_numbers
    from ranklens.cli.stages import rerank as rerank_stage
    from ranklens.data.load import load_collection
    from ranklens.data.records import ScoredDoc
    from ranklens.data.runs import Run, write_run
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.scales import keep, rescaled

    spec = RerankerSpec.parse(
        reranker, profile, device, dtype, long_lists, passages, kept_documents(documents)
    )
    written = _scale(scale, threshold, spec, depth)
    check_output(output)
    loaded = load_collection(collection)
    warn(loaded.notes)
    first = find_candidates(loaded, candidates, loaded.queries)
    queries = [query for query in loaded.queries if first.get(query.id)][:limit]
    note(f"loading {spec.model or spec.kind}")
    engine = spec.load()
    attention = engine if isinstance(engine, AttentionReranker) else None
    score_map = None if attention is None else attention.profile.score_map
    texts = fetch_texts(loaded, first, depth, queries)
    rankings = {}
    shortened = dropped = below = 0
    best = -math.inf
    numbers = request_numbers(loaded)
    for query, ranking in rerank_stage(engine, first, texts, depth, queries, numbers):
        if ranking is None:
            continue
        shortened += sum(1 for ranked in ranking if ranked.tokens_cut)
        scaled = rescaled(ranking, written, score_map=score_map)
        if scale == "raw" and threshold is None:
            head = [(ranked.id, ranked.score) for ranked in scaled]
            rankings[query.id] = merged(head, first[query.id])
            continue
        best = max(best, scaled[0].score)
        kept = scaled if threshold is None else keep(scaled, threshold)
        dropped += len(scaled) - len(kept)
        below += len(first[query.id]) - len(scaled)
        rankings[query.id] = [ScoredDoc(ranked.id, ranked.score) for ranked in kept]
    origins = None if attention is None else tell_origins(attention.documents)
    if shortened:
        warn([f"{shortened} documents were shortened to fit"])
    empty = [query_id for query_id, docs in rankings.items() if not docs]
    if threshold is not None and len(empty) == len(rankings):
        raise InvalidInputError(
            f"no document reaches --threshold {threshold:g}: the best {scale} score is "
            f"{best:.6g}, so nothing is written"
        )
    write_run(Run(rankings), output)
    if as_json:
        value = {"status": "ok", "run": str(output), "queries": len(rankings), "scale": scale}
        value |= {"documents": origins} if origins is not None else {}
        left_out = {"threshold": threshold, "dropped": dropped, "below_depth": below}
        value |= left_out | {"empty_queries": empty} if threshold is not None else {}
        print_json(value)
        return
    if threshold is None and below:
        warn([f"{below} candidates below the depth have no {scale} score and are left out"])
    if threshold is not None:
        warn(
            [
                f"--threshold {threshold:g} left out {dropped} documents that score less and "
                f"{below} candidates below the depth; {len(empty)} queries have none left"
            ]
        )
    note(f"wrote {output}: {len(rankings)} queries reranked at depth {depth}")


def _scale(scale: str, threshold: float | None, spec: RerankerSpec, depth: int) -> Scale:
    """Return the scale, refused before the work where the profile does not have it."""
    from ranklens.cli.output import warn
    from ranklens.data.models.naming import name_of
    from ranklens.rerank.profile_file import load_profile
    from ranklens.rerank.scales import SCALES

    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"--threshold must be a number, got {threshold}")
    if scale == "probability":
        if not isinstance(spec, AttentionSpec):
            raise UsageError(
                f"--scale probability is by a profile of attention:MODEL; {spec.text} has none"
            )
        score_map = load_profile(spec.profile).score_map
        if score_map is None:
            raise InvalidInputError(
                f"profile {spec.profile!r} has no score_map, so its scores have no "
                "probabilities; make one with `ranklens calibrate`"
            )
        made = score_map.fitted_on
        if made is not None and made.depth != depth:
            warn(
                [
                    f"the profile's score_map was fitted at depth {made.depth}: at depth "
                    f"{depth} scores are others, and probabilities may be off"
                ]
            )
        named = name_of(spec.model)
        if made is not None and made.model != named:
            warn([f"the profile's score_map was fitted with {made.model}, not {named}"])
    for known in SCALES:
        if scale == known:
            return known
    raise UsageError(f"unknown scale {scale!r}; choose {', '.join(SCALES)}")
