"""The parts of ``ranklens udcg`` that ask a model: ``score`` and ``answer``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli import udcg_shared as shared
from ranklens.data.errors import PartialError, RanklensError

if TYPE_CHECKING:
    from ranklens.data.causal_lm import CausalLM
    from ranklens.eval.udcg.kept import Kept

ReaderOption = Annotated[
    str, typer.Option(help="The reader: a name of `ranklens models list`, a folder, or a hub id.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The JSON file to write.")]
_TOKENS = 32


def score(
    file: shared.FileArgument,
    model: ReaderOption,
    output: OutputOption,
    depth: Annotated[
        int | None, typer.Option(callback=options.positive, help="Score the first passages only.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts in a batch.")] = 8,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compute p_abs: how likely a model declines to answer, given each passage alone.

    What is computed is kept, so that an interrupted command goes on and other lists of the same
    passages cost nothing. Template and dtype are written beside every value. Passages that cannot
    be scored have none; the file is written all the same, and the command ends with 7.

    Example: ranklens udcg score lists.json --model smollm2-135m -o scored.json
    """
    from ranklens.cli.output import check_output, note, print_json, warn
    from ranklens.cli.progress import progress
    from ranklens.eval.udcg.abstention import abstention_probabilities
    from ranklens.eval.udcg.dataset import P_ABS, read_examples, write_examples
    from ranklens.eval.udcg.prompt import reader_settings

    check_output(output)
    examples = read_examples(file)
    lm, name = _loaded(model, device, dtype)
    settings = reader_settings(lm)
    pairs = [(e.question, passage.text) for e in examples for passage in e.passages[:depth]]
    with (
        _kept({"kind": "p_abs", **settings}) as kept,
        progress("scoring", len(pairs), "passages") as advance,
    ):
        values = abstention_probabilities(lm, pairs, kept, batch=batch, advance=advance)
    found = dict(zip(pairs, values, strict=True))
    reasons = [one.missing for one in values if one.missing]
    if values and len(reasons) == len(values):
        raise RanklensError(f"no passage could be scored; the first: {reasons[0]}")
    about = {key: settings[key] for key in ("revision", "template", "dtype")}
    scored = []
    for example in examples:
        passages = list(example.passages)
        for place, passage in enumerate(passages[:depth]):
            one = found[example.question, passage.text]
            info = {other: dict(known) for other, known in passage.models_info.items()}
            info.pop(name, None)
            if one.p_abs is not None:
                info[name] = {P_ABS: one.p_abs, **about, "tokens_cut": one.tokens_cut}
            passages[place] = dataclasses.replace(passage, models_info=info)
        scored.append(dataclasses.replace(example, passages=tuple(passages)))
    write_examples(scored, output)
    cut = sum(one.tokens_cut > 0 for one in values)
    warnings = [f"{cut} passages lost their beginning to fit the model"] if cut else []
    if reasons:
        warnings.append(f"{len(reasons)} passages have no p_abs; the first: {reasons[0]}")
    if as_json:
        counts = {"passages": len(values), "missing": len(reasons), "cut": cut}
        print_json(
            {"status": "partial" if reasons else "ok", "file": str(output), "model": name,
             **about, **counts, "warnings": warnings}
        )  # fmt: skip
    else:
        warn(warnings)
        note(f"wrote {output}: p_abs of {len(values) - len(reasons)} passages for {name}")
    if reasons:
        raise typer.Exit(PartialError.exit_code)


def answer(
    file: shared.FileArgument,
    model: ReaderOption,
    output: OutputOption,
    depth: Annotated[
        int, typer.Option(callback=options.positive, help="Passages the model is given.")
    ] = 5,
    tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = _TOKENS,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Let a model answer each question from its first passages, and grade the answers.

    Greedy, the first line counts. Grades are exact match and F1 as in SQuAD, the best over the
    gold answers of the file; an answer with NO-RESPONSE abstains and has 0 in both. Questions
    without gold answers are left out. Answers are kept: an interrupted command goes on.

    Example: ranklens udcg answer scored.json --model smollm2-135m --depth 5 -o answered.json
    """
    from ranklens.cli.output import check_output, note, print_json, print_table, warn
    from ranklens.cli.progress import progress
    from ranklens.data.errors import InvalidInputError
    from ranklens.eval.udcg.answers import grade
    from ranklens.eval.udcg.dataset import read_examples, write_examples
    from ranklens.eval.udcg.prompt import reader_settings
    from ranklens.eval.udcg.reading import answers_of

    check_output(output)
    examples = read_examples(file)
    asked = {
        e.example_id: (e.question, tuple(p.text for p in e.passages[:depth]))
        for e in examples
        if e.answers
    }
    if not asked:
        raise InvalidInputError(
            f"{file}: no question has gold answers ('answers'); give them to "
            "`ranklens udcg prepare --answers`"
        )
    lm, name = _loaded(model, device, dtype)
    with (
        _kept({"kind": "answer", **reader_settings(lm)}) as kept,
        progress("answering", len(asked), "questions") as advance,
    ):
        listed = answers_of(lm, list(asked.values()), kept, tokens, advance=advance)
    texts = dict(zip(asked, listed, strict=True))
    grades = {e.example_id: grade(texts[e.example_id], e.answers) for e in examples if e.answers}
    written = [
        dataclasses.replace(
            example,
            generated={
                **example.generated,
                name: {
                    "depth": depth,
                    "text": texts[example.example_id],
                    **dataclasses.asdict(grades[example.example_id]),
                },
            },
        )
        if example.example_id in texts
        else example
        for example in examples
    ]
    write_examples(written, output)
    count = len(grades)
    means = {
        "exact_match": sum(one.exact_match for one in grades.values()) / count,
        "f1": sum(one.f1 for one in grades.values()) / count,
        "abstained": sum(one.abstained for one in grades.values()) / count,
    }
    left = len(examples) - count
    warnings = [f"{left} questions have no gold answers and are left out"] if left else []
    if as_json:
        value: dict[str, Any] = {"model": name, "depth": depth, "questions": count, **means}
        print_json({"status": "ok", "file": str(output), **value, "warnings": warnings})
        return
    warn(warnings)
    note(f"reader {name}, {depth} passages")
    print_table(
        f"{count} questions",
        ["", "mean"],
        [[key, f"{value:.4f}"] for key, value in means.items()],
    )
    note(f"wrote {output}")


def _loaded(model: str, device: str | None, dtype: str | None) -> tuple[CausalLM, str]:
    """Return a model, and the name under which a file holds what it says."""
    from ranklens.cli.output import note
    from ranklens.cli.specs import pull_model
    from ranklens.data.causal_lm import CausalLM
    from ranklens.data.models.naming import name_of

    pull_model(model)
    note(f"loading {model}")
    return CausalLM.load(model, device, dtype), name_of(model)


@contextmanager
def _kept(settings: Mapping[str, Any]) -> Iterator[Kept]:
    """Open what a model has said before; an interruption tells that it is kept."""
    from ranklens.data.home import home
    from ranklens.eval.udcg.kept import open_kept

    with open_kept(home() / "udcg", settings) as kept:
        try:
            yield kept
        except KeyboardInterrupt:
            raise PartialError(
                "interrupted; what the model has said is kept, and the same command goes on"
            ) from None
