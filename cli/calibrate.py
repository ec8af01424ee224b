"""``ranklens calibrate``: turn a profile's scores into probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_RERANKER, AttentionSpec
from ranklens.data.errors import UsageError
from ranklens.rerank.from_spec import split_spec

_FOLDS = 5


def calibrate(
    collection: options.CollectionArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The profile to write (JSON).")],
    candidates: options.FirstStageOption = None,
    model: Annotated[
        str, typer.Option(help="A name of `ranklens models list`, a folder, or a hub id.")
    ] = split_spec(DEFAULT_RERANKER)[1],
    profile: options.ProfileOption = None,
    method: Annotated[str, typer.Option(help="platt or isotonic.")] = "platt",
    of: Annotated[
        str, typer.Option(help="raw: the scores as they are; z: each within its list.")
    ] = "raw",
    depth: options.DepthOption = 20,
    limit: options.LimitOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Fit a map from scores to probabilities on a judged collection; write it into a profile.

    Documents without a judgement count as not relevant. The figures printed are of queries held
    out, a fifth at a time. `ranklens rerank --scale probability` uses the map; it holds for the
    same model, and lists as long as --depth.

    Example: ranklens calibrate sample:pydocs --method isotonic -o calibrated.json
    """
    import dataclasses

    from ranklens.cli.lists import candidate_lists
    from ranklens.cli.output import check_output, note, print_json, print_table, warn
    from ranklens.cli.progress import progress
    from ranklens.cli.stages import request_numbers
    from ranklens.data.models.naming import name_of
    from ranklens.data.score_map import (
        FittedOn,
        Method,
        ScoreMap,
        check_labels,
        fit_score_map,
        held_out,
    )
    from ranklens.eval.reliability import reliability
    from ranklens.rerank.profile_file import save_profile
    from ranklens.rerank.scales import z

    if method not in ("platt", "isotonic"):
        raise UsageError(f"unknown method {method!r}; choose platt or isotonic")
    if of not in ("raw", "z"):
        raise UsageError(f"--of must be raw or z, got {of!r}")
    chosen = cast(Method, method)
    spec = AttentionSpec.parse(f"attention:{model}", profile, device, dtype)
    check_output(output)
    loaded, lists = candidate_lists(collection, candidates, depth, limit=limit, judged=True)
    level = loaded.relevance_level
    graded = {query.id: loaded.qrels.get(query.id, {}) for query, _ in lists}
    check_labels(
        [[graded[query.id].get(one.id, 0) >= level for one in texts] for query, texts in lists],
        _FOLDS,
    )
    note(f"loading {model}")
    reranker = spec.load()
    pairs: list[list[tuple[float, bool]]] = []
    total = sum(len(documents) for _, documents in lists)
    numbers = request_numbers(loaded)
    with progress("ranking", total, "docs") as advance:
        for query, documents in lists:
            ranking = reranker.rank(query, documents, request=numbers[query.id])
            values = z(ranking) if of == "z" else [ranked.score for ranked in ranking]
            labels = [graded[query.id].get(ranked.id, 0) >= level for ranked in ranking]
            pairs.append(list(zip(values, labels, strict=True)))
            advance(len(documents))
    every = [pair for of_query in pairs for pair in of_query]
    fitted = fit_score_map(every, chosen)
    figures = reliability(held_out(pairs, chosen, folds=_FOLDS))
    relevant = sum(label for _, label in every)
    score_map = ScoreMap(
        fitted.method,
        "z" if of == "z" else "raw",
        fitted.slope,
        fitted.intercept,
        fitted.knots,
        FittedOn(
            collection=loaded.name,
            model=name_of(model),
            revision=reranker.model.revision if reranker.model else None,
            candidates=candidates or "bm25",
            depth=depth,
            queries=len(lists),
            documents=len(every),
            relevant=relevant,
            relevance_level=loaded.relevance_level,
            brier=figures.brier,
            ece=figures.ece,
        ),
    )
    warnings = []
    if fitted.slope == 0 or (fitted.knots and fitted.knots[0][1] == fitted.knots[-1][1]):
        warnings.append(
            "relevant documents do not score higher here: the map gives every document "
            "the same probability"
        )
    elif figures.brier >= figures.base_brier:
        warnings.append(
            "on queries held out the map is no better than always giving the share of relevant "
            "documents"
        )
    save_profile(dataclasses.replace(reranker.profile, score_map=score_map), output)
    if as_json:
        print_json(
            {
                "status": "ok",
                "profile": str(output),
                "score_map": dataclasses.asdict(score_map),
                "held_out": {"folds": _FOLDS, **dataclasses.asdict(figures)},
                "warnings": warnings,
            }
        )
        return
    warn(warnings)
    print_table(
        f"{loaded.name}: {relevant} of {len(every)} documents relevant, held out by query: "
        f"Brier {figures.brier:.4f} (always the same: {figures.base_brier:.4f}), "
        f"ECE {figures.ece:.4f}",
        ["predicted", "observed", "documents"],
        [[f"{b.predicted:.3f}", f"{b.observed:.3f}", str(b.count)] for b in figures.bins],
        text_columns=0,
    )
    note(f"wrote {output}")
