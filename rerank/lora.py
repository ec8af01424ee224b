"""Merging a LoRA adapter into a model's weights: W + (α/r)·B·A, in fp32 (arXiv 2106.09685).

Files are peft's, which is not needed to read them. What is merged costs nothing more to run. An
adapter that would have to be guessed at (another kind, weights that are not there or nowhere to
put) is refused: half an adapter is another model that looks like this one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import shown
from ranklens.data.models.adapter import CONFIG, WEIGHTS, read_settings

if TYPE_CHECKING:
    import torch

Pair = tuple["torch.Tensor", "torch.Tensor"]
"""A [rank, inputs] and B [outputs, rank] of a module."""

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_LAYER = re.compile(r"(?:^|\.)layers\.([0-9]+)\.")
# What changes no number of an adapter that is there.
_ELSEWHERE = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type",
    "use_rslora",
}  # fmt: skip
# Starts that leave the base model's own weights as they are.
_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter_config.json says of plain LoRA.

    ``scale`` multiplies B·A: α/r, or α/√r of rank-stabilised LoRA. ``targets`` tells whether a
    module of that name is changed.
    """

    rank: int
    scale: float
    targets: Callable[[str], bool]


def read_lora(folder: Path) -> Lora:
    """Read an adapter's configuration; InvalidInputError for anything but plain LoRA."""
    settings, where = read_settings(folder), folder / CONFIG

    def refuse(name: str, expected: str) -> InvalidInputError:
        return InvalidInputError(f"{where}: {name} is {shown(settings.get(name))}; {expected}")

    if settings.get("peft_type") != "LORA":
        raise refuse("peft_type", "only LORA can be merged")
    if settings.get("init_lora_weights", True) not in _STARTS:
        raise refuse("init_lora_weights", "it moved the base model's weights; save it converted")
    for name, value in settings.items():
        plain = name in _ELSEWHERE or name == "init_lora_weights"
        if not plain and value not in (None, False, "none", [], {}):
            raise refuse(name, "only plain LoRA of linear layers can be merged")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise refuse("r", "it must be a whole number of at least 1")
    if not isinstance(alpha, int | float) or not 0 < abs(alpha) < math.inf:
        raise refuse("lora_alpha", "it must be a number")
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Lora(rank, scale, _targets(settings, refuse))


def _targets(
    settings: Mapping[str, Any], refuse: Callable[[str, str], InvalidInputError]
) -> Callable[[str], bool]:
    """Return which modules the configuration names, as peft reads it."""

    def matcher(name: str) -> Callable[[str], bool]:
        wanted = settings.get(name)
        if isinstance(wanted, str):
            try:
                pattern = re.compile(wanted)
            except re.error as error:
                raise refuse(name, f"no regular expression ({error})") from None
            return lambda module: pattern.fullmatch(module) is not None
        if not isinstance(wanted, list) or not all(isinstance(one, str) for one in wanted):
            raise refuse(name, "it must be a list of modules, or a regular expression")
        ends = tuple(f".{one}" for one in wanted)
        return lambda module: f".{module}".endswith(ends)

    included = matcher("target_modules")
    excluded = matcher("exclude_modules") if settings.get("exclude_modules") else None
    layers = settings.get("layers_to_transform")
    if layers is not None:
        layers = layers if isinstance(layers, list) else [layers]
        if not all(type(layer) is int for layer in layers):
            raise refuse("layers_to_transform", "it must be a list of layers")

    def targeted(module: str) -> bool:
        if excluded is not None and excluded(module):
            return False
        return included(module) and (not layers or _layer(module) in layers)

    return targeted


def merge_adapter(model: Any, folder: Path, *, layers: int | None = None) -> None:
    """Add an adapter's change to the weights of a model, which keep their dtype and device.

    Raises as ``read_pairs``, before anything is changed.
    """
    import torch

    lora, pairs = read_pairs(model, folder, layers=layers)
    with torch.no_grad():
        for name, pair in pairs.items():
            weight = model.get_submodule(name).weight
            a, b = (side.to(weight.device, torch.float32) for side in pair)
            weight.copy_(weight.float() + lora.scale * (b @ a))


def read_pairs(
    model: Any, folder: Path, *, layers: int | None = None
) -> tuple[Lora, dict[str, Pair]]:
    """Return what an adapter says, and its A and B of the model's modules, by name.

    ``layers`` is how many layers the whole base model has, where ``model`` has only the first of
    them: what the adapter says of the others is left out.

    Raises InvalidInputError for an adapter that is no plain LoRA, does not fit the model, lacks
    weights or has more than it names, or holds NaN or Inf; and for a file that is damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    lora, file = read_lora(folder), folder / WEIGHTS
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    loaded = model.config.get_text_config().num_hidden_layers
    behind = range(loaded, loaded if layers is None else layers)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(file, framework="pt") as stored:
            names = stored.keys()
            if not names:
                raise InvalidInputError(f"{file}: there are no weights in it")
            for key in names:
                module, part = _module(key, file, linear)
                if module in linear:
                    pairs.setdefault(module, {})[part] = stored.get_tensor(key)
                elif _layer(module) not in behind:
                    raise InvalidInputError(
                        f"{file}: {key} is for a part that the model does not have; the adapter "
                        "was made for another one"
                    )
    except (SafetensorError, OSError) as error:
        raise InvalidInputError(f"{file}: no safetensors, or damaged ({error})") from None
    # Names as the base model has them, or as one with a vocabulary projection has.
    wanted = {name for name in linear if lora.targets(name) or lora.targets(f"model.{name}")}
    _check_complete(pairs, wanted, file)
    for name, pair in pairs.items():
        _check_pair(name, pair, linear[name].weight, lora.rank, file)
    return lora, {name: (pair["A"], pair["B"]) for name, pair in pairs.items()}


def _module(key: str, file: Path, linear: Mapping[str, Any]) -> tuple[str, str]:
    """Return the module that a tensor is for, named as in a model without a head, and A or B."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise InvalidInputError(
            f"{file}: {shown(key)} is no weight of plain LoRA (base_model.model.….lora_A.weight)"
        )
    name, part = match[1], match[2]
    bare = name.removeprefix("model.")
    return (name if name in linear else bare), part


def _layer(module: str) -> int | None:
    match = _LAYER.search(module)
    return int(match[1]) if match else None


def _check_complete(pairs: Mapping[str, Any], wanted: set[str], file: Path) -> None:
    def first(names: Iterable[str]) -> str:
        return sorted(names)[0]

    half = [name for name, pair in pairs.items() if len(pair) < 2]
    if absent := (wanted - pairs.keys()) | set(half):
        raise InvalidInputError(
            f"{file} lacks weights of {len(absent)} parts that {CONFIG} names "
            f"(first: {first(absent)}); the file is incomplete, or the adapter of another model"
        )
    if more := pairs.keys() - wanted:
        raise InvalidInputError(
            f"{file} has weights of {len(more)} parts that {CONFIG} does not name "
            f"(first: {first(more)})"
        )


def _check_pair(
    name: str, pair: Mapping[str, torch.Tensor], weight: torch.Tensor, rank: int, file: Path
) -> None:
    rows, columns = weight.shape
    for part, expected in (("A", (rank, columns)), ("B", (rows, rank))):
        tensor = pair[part]
        if tuple(tensor.shape) != expected:
            raise InvalidInputError(
                f"{file}: lora_{part} of {name} has the shape {list(tensor.shape)}, "
                f"the model and a rank of {rank} need {list(expected)}; the adapter was made for "
                "another one"
            )
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InvalidInputError(f"{file}: lora_{part} of {name} holds NaN, Inf or no floats")
