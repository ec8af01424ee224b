"""A trained model as a folder that is loaded by its path: weights, profile, manifest, card.

LoRA becomes an adapter folder, merged when it is loaded; so does what all weights learned where it
is cut to a rank, else a folder in the Hugging Face layout that ends with the last layer read.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ranklens.data.files import write_json
from ranklens.data.models.adapter import CONFIG
from ranklens.data.models.naming import name_of
from ranklens.rerank.engine import shorten
from ranklens.rerank.origin import trained_into
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import save_profile
from ranklens.rerank.training.adapter import save_adapter, write_adapter
from ranklens.rerank.training.card import model_card
from ranklens.rerank.training.low_rank import cut
from ranklens.rerank.training.trainer import Trainer
from ranklens.rerank.training.validation import HeldOut

if TYPE_CHECKING:
    from ranklens.data.models import ResolvedModel
    from ranklens.rerank.training.adapter import Pair
    from ranklens.rerank.training.low_rank import LowRank
    from ranklens.rerank.training.settings import Settings

FORMAT = 1
KEPT = "share of the change kept"
"""The figure of a cut: of the squared norm of what training changed, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a trained model comes from, besides its settings.

    ``lists`` is the manifest of the training lists, ``licence`` the base model's, None where it
    is not known. ``history`` is the manifest of the adapter that was trained on, None for a new
    one.
    """

    base: ResolvedModel
    lists: Mapping[str, Any]
    licence: str | None = None
    history: Mapping[str, Any] | None = None


def export(
    folder: Path,
    trainer: Trainer,
    provenance: Provenance,
    *,
    held_out: HeldOut | None = None,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    low_rank: LowRank | None = None,
) -> dict[str, Any]:
    """Write the student's weights as they are now, and return what training.json says.

    An adapter's weights are rounded to ``dtype``, in the student too, and that is what the last
    figure is measured with; so are those that ``low_rank`` leaves of a change of all weights. A
    model of an earlier start in ``folder`` is replaced.
    """
    import torch

    student, settings, base = trainer.student, trainer.settings, provenance.base
    pairs: dict[str, Pair] = {}
    extra: dict[str, float] = {}
    if low_rank is not None:
        pairs, extra[KEPT] = cut(trainer.weights, low_rank, getattr(torch, dtype))
    else:
        with torch.no_grad():
            rounded = dtype if settings.lora is not None else settings.dtype
            for own in trainer.weights.copies.values():
                own.copy_(own.to(getattr(torch, rounded)))
        trainer.weights.publish()
    method = _method(settings, low_rank)
    manifest = _manifest(trainer, provenance, held_out, method, extra)
    manifest["cut_to_rank"] = None if low_rank is None else low_rank.rank
    if provenance.history is not None:
        manifest["trained_before"] = dict(provenance.history)
    with _replaced(folder) as made:
        if low_rank is not None:
            write_adapter(made, pairs, base=base, rank=low_rank.rank, alpha=low_rank.rank)
        elif settings.lora is not None:
            save_adapter(
                made, student.engine.model, base=base, rank=settings.lora,
                dtype=dtype, weights=trainer.weights.copies,
            )  # fmt: skip
        else:
            _save_model(made, student.engine, student.plan.last_layer + 1)
        name = folder.absolute().parent.name
        profile = _profile(made, name, trainer, method, manifest)
        save_profile(profile, made / "profile.json")
        write_json(made / "training.json", manifest)
        card = model_card(profile.name, manifest, provenance.licence)
        (made / "README.md").write_text(card, encoding="utf-8", newline="\n")
    return manifest


def _manifest(
    trainer: Trainer,
    provenance: Provenance,
    held_out: HeldOut | None,
    method: str,
    extra: Mapping[str, float],
) -> dict[str, Any]:
    figures: dict[str, Any] = {"steps": trainer.step, **extra}
    if held_out is not None and trainer.best is not None:
        found = held_out.validate(trainer.student, trainer.objective, trainer.step)
        figures |= {
            "best step": trainer.best.step,
            "held-out nDCG@10 before training": trainer.validations[0].ndcg,
            "held-out nDCG@10 at the best step": trainer.best.ndcg,
            "held-out nDCG@10": found.ndcg,
        }
    settings = trainer.settings.to_dict()
    profile = settings.pop("profile")
    return {
        "format": FORMAT,
        "description": f"{name_of(provenance.base.spec)}, {method}",
        "base": {
            "model": name_of(provenance.base.spec),
            "revision": provenance.base.revision,
            "licence": provenance.licence,
        },
        "figures": figures,
        "measured": None if held_out is None else held_out.measured_by,
        "stopped_early": trainer.stopped_early,
        "settings": settings,
        "started_from": profile["name"],
        "lists": dict(provenance.lists),
    }


def _profile(
    made: Path, name: str, trainer: Trainer, method: str, manifest: Mapping[str, Any]
) -> Profile:
    """Return the profile of the trained model whose weights are in ``made``."""
    settings = trainer.settings
    trained = trainer.student.trained_profile(name)
    trained = dataclasses.replace(
        trained,
        source=(
            f"{method} from {manifest['base']['model']} for {trainer.step} steps; prompt and "
            f"rows of {trainer.student.profile.name}"
        ),
        made_with=None,
        score_map=None,
    )
    if not (made / CONFIG).is_file():
        # What it is read with lies in its own folder, and may be called anything.
        return trained
    return trained_into(
        made,
        trained,
        name=name,
        method=method,
        dtype=settings.dtype,
        data=[f"training lists {settings.lists}"],
        figures={key: float(value) for key, value in manifest["figures"].items()},
    )


def _method(settings: Settings, low_rank: LowRank | None) -> str:
    how = "all weights" if settings.lora is None else f"LoRA of rank {settings.lora}"
    kept = "" if low_rank is None else f", the change cut to rank {low_rank.rank}"
    on = "" if settings.going_on is None else " further"
    return f"{how} trained{on} on {settings.objective}{kept}"


def _save_model(folder: Path, engine: Any, layers: int) -> None:
    """Write base model and tokenizer in the Hugging Face layout, up to the last layer read."""
    model = engine.model
    weights = model.state_dict()
    config = model.config
    if layers < engine.config.num_hidden_layers:
        behind = tuple(f"layers.{n}." for n in range(layers, engine.config.num_hidden_layers))
        weights = {name: own for name, own in weights.items() if not _is_in(name, behind)}
        config = copy.deepcopy(config)
        shorten(config, layers)
    model.save_pretrained(folder, state_dict=weights)
    config.save_pretrained(folder)
    engine.tokenizer.save_pretrained(folder)


def _is_in(name: str, layers: tuple[str, ...]) -> bool:
    return name.startswith(layers) or any(f".{layer}" in name for layer in layers)


@contextlib.contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of ``folder`` when the block ends well."""
    made = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    made.mkdir(parents=True)
    try:
        yield made
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
