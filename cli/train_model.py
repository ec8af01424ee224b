"""``ranklens train model``: training lists to a model that is loaded by its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_MODEL
from ranklens.cli.train_start import RANK
from ranklens.data.errors import PartialError, UsageError

if TYPE_CHECKING:
    from ranklens.cli.train_start import Start
    from ranklens.data.device import Placement
    from ranklens.rerank.training.checkpoint import TrainingFolder
    from ranklens.rerank.training.lists import TrainingList
    from ranklens.rerank.training.settings import Settings
    from ranklens.rerank.training.trainer import Trainer
    from ranklens.rerank.training.validation import HeldOut

_ADAPTER_DTYPES = ("bfloat16", "float16", "float32")


def model(
    lists: Annotated[
        list[Path],
        typer.Argument(
            metavar="LISTS...",
            help="Folders that `ranklens train lists` made; one given twice is visited twice as "
            "often.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The run folder; the same command resumes in it.")
    ],
    base: Annotated[
        str,
        typer.Option(
            "--model",
            help="What is trained: a name of `ranklens models list`, a folder, a hub id. A trained "
            "model's adapter is trained on; with --lora a new one is put on top.",
        ),
    ] = DEFAULT_MODEL,
    profile: Annotated[
        str | None,
        typer.Option(
            help="What it is read with: a shipped profile or a JSON file; a trained model's own, "
            "else documents in blocks and the logarithm of their attention."
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, help="Read every head of the first so many layers, and no others."),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            help="A sum of graded, infonce, kl(TEACHER, τ), margin-mse(TEACHER, τ) and next-token, "
            "as in 'graded + 0.5*kl(minilm-l6, 0.05)'."
        ),
    ] = "graded",
    validation: Annotated[
        str | None,
        typer.Option(
            metavar="LISTS|COLLECTION[@CANDIDATES]",
            help="Validate on these, and keep the weights that rank them best.",
        ),
    ] = None,
    validation_depth: Annotated[
        int, typer.Option(callback=options.positive, help="Candidates of a collection's queries.")
    ] = 20,
    validation_limit: Annotated[
        int | None,
        typer.Option(callback=options.positive, help="Validate on the first so many only."),
    ] = None,
    lora: Annotated[int | None, typer.Option(help=f"LoRA's rank ({RANK}).")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's α; its rank if absent.")] = None,
    all_weights: Annotated[
        bool, typer.Option("--all-weights", help="Train all weights of the layers, no adapter.")
    ] = False,
    as_lora: Annotated[
        int | None,
        typer.Option(
            metavar="RANK",
            callback=options.positive,
            help="With --all-weights: keep what they learned as an adapter of this rank.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="How many steps; all lists once if absent.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Instead of --steps: how often all lists are visited.")
    ] = None,
    accumulate: Annotated[int, typer.Option(help="Lists in a step.")] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option("--lr", help="Learning rate (LoRA 3e-4, all weights 5e-5)."),
    ] = None,
    head_learning_rate: Annotated[
        float | None,
        typer.Option(
            "--head-lr",
            help="That of head weights (0.003 of their mean); 0 keeps them as they are.",
        ),
    ] = None,
    schedule: Annotated[
        str, typer.Option(help="After the warm-up: cosine (down to 0) or constant.")
    ] = "cosine",
    warmup: Annotated[
        int | None, typer.Option(help="Steps of warm-up (a twentieth of all).")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="AdamW's, of matrices.")] = 0.0,
    clip: Annotated[float, typer.Option(help="The most that gradients' norm may be.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Order of lists and documents; LoRA's start.")] = 0,
    validate_every: Annotated[int, typer.Option(help="Steps between validations.")] = 50,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many validations without a better one.")
    ] = None,
    save_every: Annotated[
        int, typer.Option(callback=options.positive, help="Steps between checkpoints.")
    ] = 50,
    checkpointing: Annotated[
        bool,
        typer.Option(
            "--checkpointing", help="Less memory, a third more work: compute layers twice."
        ),
    ] = False,
    adapter_dtype: Annotated[
        str, typer.Option(help="What an adapter is stored in: bfloat16, float16 or float32.")
    ] = "bfloat16",
    device: options.DeviceOption = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; chosen if absent.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Train a decoder's attention to rank; resumes exactly where it was interrupted.

    Steps over the lists, with documents in another order at every visit. The folder then holds
    model/ (loaded as attention:OUT/model), curve.svg, and a checkpoint.

    Example: ranklens train model lists --layers 18 --validation scifact -o runs/trained
    """
    if all_weights and (lora is not None or alpha is not None):
        raise UsageError("--all-weights trains no adapter: give it, or --lora and --alpha")
    if as_lora is not None and not all_weights:
        raise UsageError("--as-lora cuts what --all-weights learns; --lora has its own rank")
    if steps is not None and epochs is not None:
        raise UsageError("--steps and --epochs exclude each other; give one")
    if adapter_dtype not in _ADAPTER_DTYPES:
        raise UsageError(
            f"--adapter-dtype is {adapter_dtype!r}; choose {', '.join(_ADAPTER_DTYPES)}"
        )
    if validation is None and patience is not None:
        raise UsageError("--patience counts validations: give --validation")
    from ranklens.cli.output import note, warn
    from ranklens.cli.train_start import placement_of, start_of, versions
    from ranklens.cli.train_validation import held_out_lists, seen_in_training
    from ranklens.data.extras import require
    from ranklens.data.models.naming import name_of
    from ranklens.rerank.training.checkpoint import open_training_folder
    from ranklens.rerank.training.folder import joined_digest, read_lists
    from ranklens.rerank.training.settings import HEAD_RATE, Schedule, Settings

    require("llm", "torch", "transformers", "safetensors")
    parts = [part for folder in lists for part in read_lists(folder)]
    _check_teachers(objective, parts)
    held_out = None
    if validation is not None:
        held_out = held_out_lists(validation, validation_depth, validation_limit)
        seen = seen_in_training(held_out, parts)
        if seen:
            warn(
                [
                    f"{len(seen)} of the queries to validate on are trained on (first: "
                    f"{seen[0]!r}): the figures will be too good"
                ]
            )
    start = start_of(base, profile, layers, lora=lora, alpha=alpha, all_weights=all_weights)
    placement = placement_of(device, dtype)
    count = (
        steps if steps is not None else _steps(1.0 if epochs is None else epochs, parts, accumulate)
    )
    settings = Settings(
        lists=joined_digest(lists),
        model=name_of(start.base.spec),
        revision=start.base.revision,
        going_on=start.adapter_digest,
        profile=start.profile.to_dict(),
        objective=objective,
        steps=count,
        learning_rate=start.learning_rate if learning_rate is None else learning_rate,
        head_learning_rate=HEAD_RATE * start.mean_weight
        if head_learning_rate is None
        else head_learning_rate,
        lora=start.lora,
        alpha=start.alpha,
        schedule=Schedule(
            cast("Literal['cosine', 'constant']", schedule),
            count // 20 if warmup is None else warmup,
        ),
        weight_decay=weight_decay,
        clip=clip,
        accumulate=accumulate,
        seed=seed,
        device=placement.device.partition(":")[0],
        dtype=placement.dtype,
        validation=None if held_out is None else held_out.digest,
        validate_every=validate_every,
        patience=patience,
        versions=versions(adapter=not all_weights),
    )
    with open_training_folder(out) as folder:
        if folder.begin(settings):
            note(f"resuming in {out}")
        manifest = _run(
            settings, start, parts, held_out, placement, folder,
            lists=lists, save_every=save_every, checkpointing=checkpointing,
            adapter_dtype=adapter_dtype, as_lora=as_lora,
        )  # fmt: skip
        _tell(folder, manifest, as_json)


def _run(
    settings: Settings,
    start: Start,
    parts: Sequence[TrainingList],
    held_out: HeldOut | None,
    placement: Placement,
    folder: TrainingFolder,
    *,
    lists: Sequence[Path],
    save_every: int,
    checkpointing: bool,
    adapter_dtype: str,
    as_lora: int | None,
) -> dict[str, Any]:
    """Train to the end and write the model; PartialError on Ctrl-C."""
    from ranklens.cli.output import note, warn
    from ranklens.cli.train_progress import draw, training_progress, watching
    from ranklens.rerank.engine import AttentionEngine
    from ranklens.rerank.training.export import Provenance, export
    from ranklens.rerank.training.folder import joined_manifest
    from ranklens.rerank.training.low_rank import before_training
    from ranklens.rerank.training.objectives import parse_objective
    from ranklens.rerank.training.student import Student
    from ranklens.rerank.training.trainer import Trainer, highest_layer, trained_weights

    base, profile = start.base, start.profile
    trainer: Trainer | None = None
    try:
        note(f"loading {base.spec} on {placement.device} in {placement.dtype}: {placement.reason}")
        answers = parse_objective(settings.objective).asks_for_answers
        engine = AttentionEngine.from_pretrained(
            base.path,
            device=placement.device,
            dtype=placement.dtype,
            layers=None if answers else profile.signal.layers_needed,
            adapters=base.adapters,
        )
        named = trained_weights(engine.model, settings, start.going_on, layers=start.layers)
        low_rank = None if as_lora is None else before_training(dict(named), as_lora)
        student = Student(
            engine,
            profile,
            checkpointing=checkpointing,
            train_heads=settings.head_learning_rate > 0,
        )
        changed = highest_layer(name for name, _ in named)
        if changed is not None and changed < student.plan.last_layer:
            warn(
                [
                    f"layers are read up to {student.plan.last_layer}, and the adapter changes "
                    f"those up to {changed}: the others stay as they are; --lora puts a new "
                    "adapter on all"
                ]
            )
        trainer = Trainer(
            student, named, settings, parts, folder, held_out=held_out, save_every=save_every
        )
        weights = sum(own.numel() for _, own in named)
        note(
            f"{weights:,} weights and {len(student.plan.heads)} heads, {len(parts)} lists, "
            f"steps {trainer.step} to {settings.steps}"
        )
        with training_progress(settings.steps, trainer.step, trainer.best) as tell:
            trainer.run(watching(tell, folder, settings))
        if trainer.stopped_early:
            note(
                f"stopped at step {trainer.step}: no better validation since step {_best(trainer)}"
            )
        draw(folder, settings)
        return export(
            folder.model,
            trainer,
            Provenance(base, joined_manifest(lists), start.licence, start.history),
            held_out=held_out,
            dtype=cast("Literal['bfloat16', 'float16', 'float32']", adapter_dtype),
            low_rank=low_rank,
        )
    except KeyboardInterrupt:
        kept = trainer.saved_step if trainer is not None else 0
        where = "from there" if kept else "from the start"
        raise PartialError(
            f"interrupted; step {kept} of {settings.steps} is kept, and the same command goes on "
            f"{where} ({folder.path})"
        ) from None


def _check_teachers(objective: str, parts: Sequence[TrainingList]) -> None:
    """Raise UsageError for a teacher that scored none of the lists."""
    from ranklens.rerank.training.objectives import parse_objective

    known = {name for part in parts for query in part.queries for name in query.teachers}
    for teacher in parse_objective(objective).teachers:
        if teacher not in known:
            have = ", ".join(sorted(known)) or "none"
            raise UsageError(
                f"--objective asks for teacher {teacher!r}; the lists have scores of: {have}"
            )


def _steps(epochs: float, parts: Sequence[TrainingList], accumulate: int) -> int:
    if not 0 < epochs < math.inf:
        raise UsageError(f"--epochs must be positive and finite, got {epochs}")
    return max(1, math.ceil(epochs * len(parts) / max(1, accumulate)))


def _best(trainer: Trainer) -> int:
    return trainer.best.step if trainer.best is not None else 0


def _tell(folder: TrainingFolder, manifest: Mapping[str, Any], as_json: bool) -> None:
    from ranklens.cli.output import note, print_json, print_table

    figures = manifest["figures"]
    if as_json:
        print_json(
            {
                "status": "ok",
                "model": str(folder.model),
                "figures": figures,
                "measured": manifest["measured"],
                "stopped_early": manifest["stopped_early"],
            }
        )
        return
    rows = [[key, str(x) if isinstance(x, int) else f"{x:.4f}"] for key, x in figures.items()]
    print_table("figures", ["figure", "value"], rows)
    note(f"measured: {manifest['measured'] or 'nothing was held out'}")
    note(f"the loss: {folder.path / 'curve.svg'}")
    note(f"to use it: --reranker attention:{folder.model}")
