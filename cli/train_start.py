"""What ``ranklens train model`` starts from: weights, a profile, perhaps an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.data.device import Placement
    from ranklens.data.models import ResolvedModel
    from ranklens.rerank.profile import Profile

RANK = 16
_RATES = {"lora": 3e-4, "all": 5e-5}


@dataclass(frozen=True, slots=True)
class Start:
    """A base model, the profile that it is trained to be read with, and what is trained of it.

    ``lora`` and ``alpha`` are those of an adapter, None for all weights. ``going_on`` is the
    adapter of the base that is trained on, None for a new one. ``history`` is the manifest of a
    trained model, see ``read_history``.
    """

    base: ResolvedModel
    profile: Profile
    lora: int | None
    alpha: float | None
    going_on: Path | None = None
    history: Mapping[str, Any] | None = None

    @property
    def learning_rate(self) -> float:
        """The rate where none is given."""
        return _RATES["all" if self.lora is None else "lora"]

    @property
    def adapter_digest(self) -> str | None:
        """The identity of the adapter that is trained on."""
        from ranklens.data.models.adapter import read_adapter

        return None if self.going_on is None else read_adapter(self.going_on).digest

    @property
    def layers(self) -> int:
        """How many layers the base model has, whether they are read or not."""
        count: int = self._config.num_hidden_layers
        return count

    @property
    def mean_weight(self) -> float:
        """The mean absolute weight of the heads that the profile reads of the base."""
        from ranklens.rerank.plan import plan_signal

        plan = plan_signal(self.profile.signal, self._config)
        weights = [abs(weight) for heads in plan.weights.values() for weight in heads.values()]
        return sum(weights) / len(weights)

    @property
    def licence(self) -> str | None:
        """That of the weights that are trained, where it is known."""
        from ranklens.data.models import REGISTRY

        if self.history is not None:
            # An adapter without a manifest may have any licence, whatever its base has.
            base = self.history.get("base", {})
            return str(base["licence"]) if base.get("licence") else None
        return REGISTRY[self.base.spec].licence if self.base.spec in REGISTRY else None

    @property
    def _config(self) -> Any:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.base.path, local_files_only=True)
        return config.get_text_config()


def start_of(
    model: str,
    profile: str | None,
    layers: int | None,
    *,
    lora: int | None,
    alpha: float | None,
    all_weights: bool,
) -> Start:
    """Find what is trained, bringing a named model to this disk.

    A trained model is read with its own profile unless another is given, and its adapter is
    trained on; with ``lora`` or ``all_weights`` that is merged, and new weights are trained.
    Raises UsageError for an ``alpha`` of an adapter that has one, MissingPrerequisiteError without
    peft where it is needed, and what models, profiles and manifests raise.
    """
    from ranklens.cli.specs import pull_model
    from ranklens.data.extras import require
    from ranklens.data.models import resolve
    from ranklens.data.models.adapter import CONFIG, PROFILE
    from ranklens.rerank.lora import read_lora
    from ranklens.rerank.profile_file import load_profile
    from ranklens.rerank.training.history import read_history
    from ranklens.rerank.training.starting import starting_profile

    if not all_weights:
        require("train", "peft")
    given = None if profile is None else load_profile(profile)
    pull_model(model)
    found = resolve(model)
    folder = found.adapter or found.path
    history = read_history(folder)
    if given is None and history is not None and (folder / PROFILE).is_file():
        given = load_profile(str(folder / PROFILE))
    chosen = starting_profile(given, layers)
    if all_weights:
        return Start(found, chosen, None, None, history=history)
    if found.base is None or found.adapter is None or lora is not None:
        return Start(found, chosen, RANK if lora is None else lora, alpha, history=history)
    if alpha is not None:
        raise UsageError(
            f"--alpha is of a new adapter, and that of {model} is trained on; give --lora as well "
            "to put another one on top"
        )
    adapter = read_lora(found.adapter)
    if adapter.scale < 0:
        raise UsageError(
            f"{found.adapter / CONFIG}: an adapter with a negative lora_alpha cannot be trained "
            "on; give --lora to put another one on top"
        )
    return Start(
        found.base, chosen, adapter.rank, adapter.scale * adapter.rank, found.adapter, history
    )


def placement_of(device: str | None, dtype: str | None) -> Placement:
    """Return where to train; float16, which some GPUs would rank in, is not for gradients."""
    from ranklens.data.device import choose_placement

    found = choose_placement(device, dtype)
    if dtype is None and found.dtype == "float16":
        return choose_placement(device, "float32")
    return found


def versions(*, adapter: bool) -> Mapping[str, str]:
    """Return the versions of what a training run's result depends on."""
    from importlib.metadata import version

    names = ("ranklens", "tokenizers", "torch", "transformers", *(("peft",) if adapter else ()))
    return {name: version(name) for name in names}
