"""``ranklens fuse``: one run of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.data.runs import Run
    from ranklens.retrieval.fusion import Fusion


def fuse(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="TREC run files, two or more.")
    ],
    output: options.OutputOption,
    method: Annotated[
        str | None,
        typer.Option(
            help="rrf (the default), isr, bordafuse; wsum, combsum, combmnz, combmax. With its "
            "settings: 'rrf(k=20)', 'wsum(norm=max,weights=0.3,0.7)'."
        ),
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(help="min-max (the default), z-score, max, sum or rank; not for rrf's kind."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W...", help="wsum: a weight for each run.")
    ] = None,
    depth: Annotated[
        int, typer.Option(callback=options.positive, help="Documents per query.")
    ] = 1000,
    optimise: Annotated[
        str | None,
        typer.Option(
            metavar="QRELS|COLLECTION", help="Find wsum's weights, or rrf's k, on judgements."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="What --optimise makes best (nDCG@10; AP, RR@10, …).")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Fuse runs of the same queries into one.

    A query or document that one run alone has is in it too. With --weights or --optimise the
    method is wsum unless another is given. The first use takes a minute, later ones some
    seconds: ranx compiles itself.

    Example: ranklens fuse bm25.run dense.run --method combsum -o fused.run
    """
    from ranklens.cli.output import check_output, note, print_json, print_text, warn
    from ranklens.data.extras import require
    from ranklens.data.runs import read_run, write_run
    from ranklens.retrieval.fusion import check_runs

    if metric is not None and optimise is None:
        raise UsageError("--metric is what --optimise makes best; give --optimise too")
    if optimise is not None and weights is not None:
        raise UsageError("--optimise finds the weights; it excludes --weights")
    fusion = _fusion(method, norm, weights, best=optimise is not None)
    check_runs(runs, fusion.weights)
    check_output(output)
    require("hybrid", "ranx")
    given = [read_run(path) for path in runs]
    note("fusing (ranx compiles for some seconds, at its first use for a minute)")
    found: dict[str, Any] = {}
    if optimise is None:
        fused = fusion.fuse(given, depth)
    else:
        fusion, fused, found = _optimised(given, fusion, optimise, metric or "nDCG@10", depth)
    write_run(fused, output)
    documents = sum(map(len, fused.values()))
    if as_json:
        counts = {"queries": len(fused), "documents": documents}
        print_json({"status": "ok", "run": str(output), "fusion": str(fusion), **counts, **found})
        return
    warn(found.get("warnings", ()))
    if optimise is not None:
        print_text(f"{fusion}  {found['metric']} {found['value']:.4f}")
    note(f"wrote {output}: {len(fused)} queries, {documents} documents, {fusion}")


def _fusion(method: str | None, norm: str | None, weights: str | None, *, best: bool) -> Fusion:
    """Return the fusion that the options describe."""
    from ranklens.retrieval.fusion import Fusion

    name = method or ("wsum" if best or weights is not None else "rrf")
    if "(" in name:
        if norm is not None or weights is not None or best:
            raise UsageError(
                f"--method {name!r} has its settings in it; "
                "it excludes --norm, --weights and --optimise"
            )
        return Fusion.parse(name)
    numbers = None
    if weights is not None:
        try:
            numbers = tuple(float(weight) for weight in weights.split(","))
        except ValueError:
            raise UsageError(
                f"--weights is {weights!r}; expected a number for each run, as 0.3,0.7"
            ) from None
    return Fusion(name, norm, numbers)


def _optimised(
    runs: list[Run], fusion: Fusion, spec: str, metric: str, depth: int
) -> tuple[Fusion, Run, dict[str, Any]]:
    """Return the best settings, the run they give, and what to say of it."""
    from ranklens.cli.measuring import load_qrels
    from ranklens.eval.measures import evaluate
    from ranklens.retrieval.fusion import optimise

    qrels, _, notes = load_qrels(spec)
    best = optimise(runs, qrels, fusion.method, norm=fusion.norm, measure=metric)
    fused = best.fuse(runs, depth)
    unjudged = sum(1 for query_id in fused if query_id not in qrels)
    warnings = [
        *notes,
        f"the settings were found on the judgements of {spec}: figures on these are optimistic",
    ]
    if unjudged:
        warnings.append(f"{unjudged} queries are not judged there and had no part in it")
    value = evaluate(qrels, fused, [metric]).measures[metric].value
    return best, fused, {"metric": metric, "value": value, "warnings": warnings}
