"""``ranklens udcg``: what the passages of a run are worth to the model that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options, udcg_answers, udcg_reader
from ranklens.cli import udcg_shared as shared
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.eval.udcg.practical import GAMMA

if TYPE_CHECKING:
    from ranklens.eval.udcg.dataset import Example

app = typer.Typer(
    no_args_is_help=True,
    help="Judge lists of passages by what a language model makes of them (UDCG). In this order: "
    "prepare, score, measure; and for a check from end to end: answer, check, fit.",
    epilog="Example: ranklens udcg measure scored.json -k 1 -k 3 -k 5",
)


@app.command()
def prepare(
    collection: options.CollectionArgument,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run file, or the collection's name for one.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The JSON file to write.")],
    depth: Annotated[
        int, typer.Option(callback=options.positive, help="Passages of each query.")
    ] = 10,
    qrels: Annotated[
        Path | None, typer.Option(help="Judge relevance by this file, not the collection's.")
    ] = None,
    relevance_level: Annotated[
        int | None,
        typer.Option(
            callback=options.positive, help="The lowest grade that is relevant; the collection's."
        ),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Gold answers, JSON lines: query_id, answers.")
    ] = None,
    limit: options.LimitOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write the passages that a run gives to a reader, with their relevance.

    Documents that are not judged count as irrelevant; how many is said. Labels of a judge serve
    as --qrels.

    Example: ranklens udcg prepare sample:pydocs bm25.run --depth 5 -o lists.json
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.stages import fetch_texts, given_candidates
    from ranklens.data.load import load_collection
    from ranklens.data.qrels import read_qrels
    from ranklens.eval.udcg.dataset import write_examples
    from ranklens.eval.udcg.lists import examples_of, read_answers

    check_output(output)
    loaded = load_collection(collection)
    judged = read_qrels(qrels) if qrels else loaded.judgements("UDCG")
    queries = [query for query in loaded.queries if query.id in judged][:limit]
    if not queries:
        judge = qrels or f"the judgements of {loaded.name!r}"
        raise InvalidInputError(f"{judge}: no query of {loaded.name!r} is judged")
    golds = read_answers(answers) if answers else {}
    found = given_candidates(loaded, run, queries)
    texts = fetch_texts(loaded, found, depth, queries)
    examples = examples_of(
        queries,
        found,
        texts,
        judged,
        depth=depth,
        relevance_level=relevance_level or loaded.relevance_level,
        answers=golds,
    )
    write_examples(examples, output)
    passages = sum(len(example.passages) for example in examples)
    unjudged = sum(
        passage.doc_id not in judged[example.example_id]
        for example in examples
        for passage in example.passages
    )
    warnings = [*loaded.notes]
    if unjudged:
        warnings.append(f"{unjudged} of {passages} passages are not judged: irrelevant")
    if empty := sum(not example.passages for example in examples):
        warnings.append(f"{empty} queries are not in the run and have no passages")
    if answers and (without := sum(not example.answers for example in examples)):
        warnings.append(f"{without} queries have no gold answers in {answers}")
    if as_json:
        counts = {"examples": len(examples), "passages": passages, "unjudged": unjudged}
        print_json({"status": "ok", "file": str(output), **counts, "warnings": warnings})
        return
    warn(warnings)
    note(f"wrote {output}: {len(examples)} questions, {passages} passages")


app.command()(udcg_reader.score)


@app.command()
def measure(
    file: shared.FileArgument,
    depth: Annotated[
        list[int] | None, typer.Option("--depth", "-k", help="UDCG@k; of whole lists if absent.")
    ] = None,
    model: shared.ModelOption = None,
    gamma: shared.GammaOption = GAMMA,
    learned: Annotated[
        Path | None, typer.Option(help="Also the learned UDCG with these weights, of `udcg fit`.")
    ] = None,
    empty_as_zero: Annotated[
        bool, typer.Option("--empty-as-zero", help="An empty list is worth 0, as in the reference.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the file with its UDCG there.")
    ] = None,
    per_query: Annotated[bool, typer.Option("--per-query", help="Show every question.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show UDCG, the mean over questions, at one or more depths.

    It judges the passages that are there, not their order. For gamma = 1/3 it lies in
    [0.4174, 0.7311]; 0.5 is a list from which the reader takes nothing, or an empty one. "raw" is
    the sum before the sigmoid. Passages without a p_abs or a relevance count as worth nothing.

    Example: ranklens udcg measure scored.json -k 1 -k 3 -k 5
    """
    import dataclasses

    from ranklens.cli.output import check_output, note, print_json, print_table, warn
    from ranklens.eval.intervals import mean_interval
    from ranklens.eval.udcg.dataset import read_examples, write_examples
    from ranklens.eval.udcg.practical import NEUTRAL, REFERENCE_EMPTY, practical_udcg

    depths = list(dict.fromkeys(depth)) if depth else [None]
    if output is not None:
        if len(depths) > 1:
            raise UsageError("--output keeps one UDCG for each question; give one depth")
        check_output(output)
    examples = read_examples(file)
    reader = shared.reader_of(examples, model, file)
    empty = REFERENCE_EMPTY if empty_as_zero else NEUTRAL
    values = {
        _name(k): [
            practical_udcg(e.utilities(reader), gamma, depth=k, empty=empty) for e in examples
        ]
        for k in depths
    }
    weights = shared.weights_at(learned, depths)
    extra = {}
    if weights is not None:
        listed = [weights.value(example.utilities(reader)) for example in examples]
        extra[f"UDCG_learned@{weights.k}"] = listed
    warnings = [*(weights.warnings(reader) if weights else ()), *shared.holes(examples, reader)]
    if empties := sum(not example.passages for example in examples):
        warnings.append(f"{empties} questions have no passages: their UDCG is {empty:g}")
    if gap := _own_gap(examples, reader, gamma, empty) if depths == [None] else "":
        warnings.append(gap)
    if output is not None:
        [only] = values.values()
        write_examples(
            (
                dataclasses.replace(example, udcg={**example.udcg, reader: one.value})
                for example, one in zip(examples, only, strict=True)
            ),
            output,
        )
    by_question = {name: [v.value for v in found] for name, found in values.items()} | extra
    rows: dict[str, dict[str, Any]] = {
        name: {"value": fmean(listed), "ci95": list(mean_interval(listed))}
        for name, listed in by_question.items()
    }
    for name, found in values.items():
        rows[name]["raw"] = fmean([v.raw for v in found])
    if as_json:
        ids = [example.example_id for example in examples]
        measures = {
            name: row | ({"per_query": dict(zip(ids, by_question[name], strict=True))}
                         if per_query else {})
            for name, row in rows.items()
        }  # fmt: skip
        print_json(
            {"status": "ok", "model": reader, "gamma": gamma, "questions": len(examples),
             "measures": measures, "warnings": warnings}
        )  # fmt: skip
        return
    warn(warnings)
    if per_query:
        print_table(
            str(file),
            ["question", *by_question],
            [
                [example.example_id, *(f"{listed[place]:.4f}" for listed in by_question.values())]
                for place, example in enumerate(examples)
            ],
        )
    note(f"reader {reader}, gamma {gamma:.4g}")
    print_table(
        f"{len(examples)} questions, mean and 95% interval",
        ["measure", "mean", "95% CI", "raw"],
        [
            [
                name,
                f"{row['value']:.4f}",
                "[{:.3f}, {:.3f}]".format(*row["ci95"]),
                f"{row['raw']:+.4f}" if "raw" in row else "",
            ]
            for name, row in rows.items()
        ],
    )
    if output is not None:
        note(f"wrote {output}")


app.command()(udcg_reader.answer)
app.command()(udcg_answers.check)
app.command()(udcg_answers.fit)


def _own_gap(examples: Sequence[Example], reader: str, gamma: float, empty: float) -> str:
    """Return what to say where the file has other UDCG values than these."""
    from ranklens.eval.udcg.practical import practical_udcg

    gaps = [
        abs(
            practical_udcg(example.utilities(reader), gamma, empty=empty).value
            - example.udcg[reader]
        )
        for example in examples
        if reader in example.udcg
    ]
    if not gaps or max(gaps) <= 1e-12:
        return ""
    return (
        f"the file's own UDCG differs by up to {max(gaps):.2g}: it was made with another gamma "
        "(the authors' sample with 0.333) or of other passages"
    )


def _name(depth: int | None) -> str:
    return "UDCG" if depth is None else f"UDCG@{depth}"
