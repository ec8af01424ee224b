"""LoRA adapters: put into a model, trained (on), and saved as peft saves them (arXiv 2106.09685).

    h = W x + (α/r) · B A x,    A [r, inputs] random, B [outputs, r] zero, W frozen

Training goes through peft; what is saved is read without it, by ``ranklens.rerank.lora``.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.extras import require
from ranklens.data.files import write_json
from ranklens.data.models.adapter import CONFIG, WEIGHTS
from ranklens.rerank.lora import Pair as Pair
from ranklens.rerank.lora import merge_adapter as merge_adapter
from ranklens.rerank.lora import read_pairs

if TYPE_CHECKING:
    import torch

    from ranklens.data.models import ResolvedModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"
Dtype = Literal["bfloat16", "float16", "float32"]


def add_lora(
    model: Any, rank: int, *, alpha: float | None = None, seed: int = 0
) -> list[tuple[str, torch.nn.Parameter]]:
    """Put LoRA into every projection of a model, freeze the rest, and return what is trained.

    Parameters come by name, in the model's order and dtype. ``alpha`` None is the rank, a factor
    of 1. A starts uniform in ±1/√inputs, drawn in fp32 from ``seed`` alone, B at zero, so that
    the model is at first what it was.

    Raises MissingPrerequisiteError without peft, UsageError for a rank below 1 or an alpha that
    is not positive, InvalidInputError for a model without such projections or with adapters.
    """
    require("train", "peft")
    if rank < 1:
        raise UsageError(f"the rank of LoRA is {rank}; it must be at least 1")
    alpha = float(rank if alpha is None else alpha)
    if not 0 < alpha < math.inf:
        raise UsageError(f"alpha of LoRA is {alpha}; it must be a positive number")
    import torch

    _check_plain(model)
    names = [
        name
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in PROJECTIONS and isinstance(module, torch.nn.Linear)
    ]
    if not names:
        raise InvalidInputError(
            f"a {model.config.model_type!r} model has none of the projections that LoRA changes: "
            f"{', '.join(PROJECTIONS)}"
        )
    source = torch.Generator().manual_seed(seed)

    def drawn(_: str, a: torch.Tensor, b: torch.Tensor) -> None:
        bound = 1 / math.sqrt(a.shape[1])
        a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=source))
        b.zero_()

    return _inject(model, names, rank, alpha, drawn)


def go_on_with_lora(
    model: Any, folder: Path, *, layers: int | None = None
) -> list[tuple[str, torch.nn.Parameter]]:
    """Put an adapter's LoRA into its base model to be trained on; return what ``add_lora`` does.

    The model computes what it would with the adapter merged, to rounding; A and B are rounded to
    its dtype. ``layers`` as in ``read_pairs``, and it raises as that does;
    MissingPrerequisiteError without peft.
    """
    require("train", "peft")
    _check_plain(model)
    lora, pairs = read_pairs(model, folder, layers=layers)

    def kept(name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        for own, value in zip((a, b), pairs[name], strict=True):
            own.copy_(value)

    return _inject(model, list(pairs), lora.rank, lora.scale * lora.rank, kept)


def _inject(
    model: Any,
    modules: list[str],
    rank: int,
    alpha: float,
    start: Callable[[str, torch.Tensor, torch.Tensor], None],
) -> list[tuple[str, torch.nn.Parameter]]:
    """Put LoRA into modules; ``start`` fills A and B of each, in the model's order."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    # peft draws a start of its own, which is nobody's business outside.
    with torch.random.fork_rng(devices=[]):
        # Its type says int; α is any number.
        settings: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": modules}
        inject_adapter_in_model(LoraConfig(**settings), model)
    model.requires_grad_(False)
    for name, module in _adapted(model):
        a, b = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
        with torch.no_grad():
            start(name, a, b)
        a.requires_grad_(True)
        b.requires_grad_(True)
    return [(name, own) for name, own in model.named_parameters() if own.requires_grad]


def _check_plain(model: Any) -> None:
    if next(_adapted(model), None) is not None:
        raise InvalidInputError("the model has LoRA already")


def save_adapter(
    folder: Path,
    model: Any,
    *,
    base: ResolvedModel,
    rank: int,
    dtype: Dtype = "bfloat16",
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write the LoRA of a model as adapter_config.json and adapter_model.safetensors.

    ``base`` is the model it changes, by its name, hub id or (absolute) folder and its revision.
    ``weights`` are taken instead of the model's where they have a parameter's name: fp32 copies,
    or the best ones. Each file appears whole or not at all.

    Raises InvalidInputError for a model without LoRA of that rank, NumericalError for NaN or Inf
    (also of what ``dtype`` is too narrow for).
    """
    import torch

    instead = weights or {}
    pairs: dict[str, Pair] = {}
    alphas = set()
    for name, module in _adapted(model):
        alphas.add(module.lora_alpha[_ADAPTER])
        if module.r[_ADAPTER] != rank:
            raise InvalidInputError(f"{name} has LoRA of rank {module.r[_ADAPTER]}, not {rank}")
        a, b = (
            instead.get(f"{name}.lora_{part}.{_ADAPTER}.weight", side[_ADAPTER].weight)
            .detach()
            .to("cpu", getattr(torch, dtype))
            .contiguous()
            for part, side in (("A", module.lora_A), ("B", module.lora_B))
        )
        pairs[name] = a, b
    if not pairs:
        raise InvalidInputError("the model has no LoRA to save")
    (alpha,) = alphas
    write_adapter(folder, pairs, base=base, rank=rank, alpha=alpha)


def write_adapter(
    folder: Path, pairs: Mapping[str, Pair], *, base: ResolvedModel, rank: int, alpha: float
) -> None:
    """Write A and B of modules, by name, as ``save_adapter`` does, in the dtype they have.

    They are contiguous and on the CPU. Raises NumericalError for NaN or Inf.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, pair in pairs.items():
        for part, own in zip("AB", pair, strict=True):
            if not bool(own.isfinite().all()):
                dtype = str(own.dtype).removeprefix("torch.")
                raise NumericalError(f"lora_{part} of {name} holds NaN or Inf in {dtype}")
            tensors[f"base_model.model.{name}.lora_{part}.weight"] = own
    place = Path(base.spec).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(folder / WEIGHTS)
    finally:
        temporary.unlink(missing_ok=True)
    settings = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": str(place.resolve()) if place.is_dir() else base.spec,
        "revision": base.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "target_modules": list(pairs),
    }
    write_json(folder / CONFIG, settings)


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules that have LoRA, by name."""
    for name, module in model.named_modules():
        if _ADAPTER in getattr(module, "lora_A", ()):
            yield name, module
