"""The parts of ``ranklens udcg`` that compare measures with answers: ``check`` and ``fit``."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from ranklens.cli import options
from ranklens.cli import udcg_shared as shared
from ranklens.eval.udcg.practical import GAMMA


def check(
    file: shared.FileArgument,
    model: shared.ModelOption = None,
    target: shared.TargetOption = "f1",
    measure: Annotated[
        list[str] | None, typer.Option("--measure", "-m", help="Others to compare: nDCG@5, P@5, …")
    ] = None,
    learned: Annotated[
        Path | None, typer.Option(help="Also the learned UDCG with these weights.")
    ] = None,
    gamma: shared.GammaOption = GAMMA,
    as_json: options.JsonOption = False,
) -> None:
    """Say how well measures agree with the answers: Spearman's correlation over questions.

    Each measure is taken at the depth at which the answers were made, against the same answers.
    nDCG and P are of the file's passages: relevant ones that are not in it do not exist for them.
    log2_utility is the discounted sum that some call UDCG. Intervals are 95%, by bootstrap.

    Example: ranklens udcg check answered.json --target f1
    """
    from ranklens.cli.output import note, print_json, print_table, warn
    from ranklens.eval.udcg.correlation import correlation
    from ranklens.eval.udcg.dataset import read_examples
    from ranklens.eval.udcg.endtoend import abstained_share, context_measures, outcomes

    examples = read_examples(file)
    reader = shared.reader_of(examples, model, file)
    answered, depth, accuracy = outcomes(examples, reader, target)
    names = measure or [f"nDCG@{depth}", f"P@{depth}"]
    values = context_measures(answered, reader, depth, gamma, names)
    weights = shared.weights_at(learned, [depth])
    if weights is not None:
        listed = [weights.value(example.utilities(reader)) for example in answered]
        values[f"UDCG_learned@{depth}"] = listed
    warnings = [*(weights.warnings(reader) if weights else ()), *shared.holes(answered, reader)]
    if left := len(examples) - len(answered):
        warnings.append(f"{left} questions without {target} of {reader} are left out")
    found = {
        name: (fmean(listed), correlation(listed, accuracy)) for name, listed in values.items()
    }
    if any(one.rho is None for _, one in found.values()):
        warnings.append("where a measure or the accuracy is constant there is no correlation")
    abstained = abstained_share(answered, reader)
    if as_json:
        rows = {
            name: {"value": mean, "spearman": one.rho, "ci95": one.ci95}
            for name, (mean, one) in found.items()
        }
        print_json(
            {"status": "ok", "model": reader, "depth": depth, "target": target,
             "questions": len(answered), "accuracy": fmean(accuracy), "abstained": abstained,
             "measures": rows, "warnings": warnings}
        )  # fmt: skip
        return
    warn(warnings)
    silent = "" if abstained is None else f", {abstained:.1%} abstained"
    note(f"reader {reader}, {depth} passages: {target} {fmean(accuracy):.4f}{silent}")
    print_table(
        f"{len(answered)} questions, against {target}",
        ["measure", "mean", "Spearman", "95% CI"],
        [
            [name, f"{mean:.4f}", *shared.shown_correlation(one.rho, one.ci95)]
            for name, (mean, one) in found.items()
        ],
    )


def fit(
    file: shared.FileArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file of weights.")],
    model: shared.ModelOption = None,
    target: shared.TargetOption = "f1",
    l2: Annotated[float, typer.Option(help="Strength of the penalty on the weights.")] = 1.0,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    as_json: options.JsonOption = False,
) -> None:
    """Fit the learned UDCG to answers: a weight for each position, of gain and of distraction.

    The weights are of one reader and of the depth at which it answered. Figures are of questions
    that the weights did not see; practical UDCG is no probability, so its log-loss is large.

    Example: ranklens udcg fit answered.json --target exact_match -o weights.json
    """
    import dataclasses

    from ranklens.cli.output import check_output, note, print_json, print_table, warn
    from ranklens.data.files import sha256
    from ranklens.eval.udcg.dataset import read_examples
    from ranklens.eval.udcg.endtoend import outcomes
    from ranklens.eval.udcg.learned import fit_learned, write_learned

    check_output(output)
    examples = read_examples(file)
    reader = shared.reader_of(examples, model, file)
    answered, depth, accuracy = outcomes(examples, reader, target)
    fitted = fit_learned(
        [example.utilities(reader) for example in answered],
        accuracy,
        depth,
        model=reader,
        target=target,
        data=f"sha256:{sha256(file)}",
        l2=l2,
        folds=folds,
    )
    write_learned(fitted, output)
    held = fitted.held_out
    warnings = shared.holes(answered, reader)
    if len(answered) < 20 * depth:
        warnings.append(
            f"{len(answered)} questions for {2 * depth} weights: expect them to be noisy"
        )
    if as_json:
        value = {"alpha": fitted.alpha, "beta": fitted.beta, "held_out": dataclasses.asdict(held)}
        about = {"model": reader, "k": depth, "questions": len(answered)}
        print_json({"status": "ok", "file": str(output), **about, **value, "warnings": warnings})
        return
    warn(warnings)
    note(f"weights of {reader} at depth {depth}")
    print_table(
        f"{len(answered)} questions",
        ["position", "alpha", "beta"],
        [
            [str(place), f"{a:+.3f}", f"{b:+.3f}"]
            for place, (a, b) in enumerate(zip(fitted.alpha, fitted.beta, strict=True), start=1)
        ],
    )
    print_table(
        f"held out, {folds} folds",
        ["", "Spearman", "log-loss"],
        [
            ["learned", shared.shown_rho(held.spearman), f"{held.log_loss:.4f}"],
            ["practical", shared.shown_rho(held.practical_spearman),
             f"{held.practical_log_loss:.4f}"],
            ["mean accuracy", "", f"{held.constant_log_loss:.4f}"],
        ],
    )  # fmt: skip
    note(f"wrote {output}")
