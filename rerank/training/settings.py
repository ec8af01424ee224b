"""All that the result of a training run depends on, as one record.

Two runs with the same settings on the same machine end with the same weights, however often one
of them was interrupted. What changes only time or memory (how often is saved, gradient
checkpointing) is not here.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ranklens.data.errors import UsageError
from ranklens.rerank.training.objectives import parse_objective

FORMAT = 1
DTYPES = ("float32", "bfloat16")
HEAD_RATE = 3e-3
"""What a step may change of a head's weight at first, as a share of the mean weight."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate's factor: rises over ``warmup`` steps, then stays, or falls as a cosine."""

    kind: Literal["cosine", "constant"] = "cosine"
    warmup: int = 0

    def factor(self, step: int, steps: int) -> float:
        """Return the factor of step ``step``, counted from 0, of ``steps``; it lies in (0, 1]."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        share = (step - self.warmup) / max(1, steps - self.warmup)
        return (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True, slots=True)
class Settings:
    """A training run.

    ``lists`` and ``validation`` are digests of what is trained and validated on; ``profile`` is
    what ``Profile.to_dict`` gives. ``lora`` is the rank of the adapter, None trains all weights
    of the layers; ``alpha`` None is the rank. ``going_on`` is the digest of the adapter that is
    trained on, None for a new one. ``learning_rate`` is of weights,
    ``head_learning_rate`` of head weights, which have no weight decay; 0 leaves them as they
    are. ``clip`` bounds the norm of all gradients together. A step is ``accumulate`` lists.
    ``patience``: so many validations without a better one end the run; None goes to the end.

    Raises UsageError for a value that makes no sense.
    """

    lists: str
    model: str
    revision: str
    profile: Mapping[str, Any]
    objective: str
    steps: int
    learning_rate: float
    head_learning_rate: float
    lora: int | None = 16
    alpha: float | None = None
    going_on: str | None = None
    schedule: Schedule = Schedule()
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    device: str = "cpu"
    backend: str = "torch"
    dtype: str = "float32"
    validation: str | None = None
    validate_every: int = 50
    patience: int | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        parse_objective(self.objective)
        counts = {
            "steps": self.steps, "accumulate": self.accumulate, "lora": self.lora,
            "validate-every": self.validate_every, "patience": self.patience,
        }  # fmt: skip
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UsageError(f"{name} must be at least 1, got {count}")
        amounts = {
            "learning rate": self.learning_rate, "head learning rate": self.head_learning_rate,
            "weight decay": self.weight_decay,
        }  # fmt: skip
        for name, amount in amounts.items():
            if not 0 <= amount < math.inf:
                raise UsageError(f"the {name} must be 0 or more, and finite: {amount}")
        for name, bound in {"clip": self.clip, "alpha": self.alpha}.items():
            if bound is not None and not 0 < bound < math.inf:
                raise UsageError(f"{name} must be positive and finite: {bound}")
        if not 0 <= self.schedule.warmup <= self.steps:
            raise UsageError(
                f"{self.schedule.warmup} steps of warm-up do not fit into {self.steps} steps"
            )
        if self.schedule.kind not in ("cosine", "constant"):
            raise UsageError(f"unknown schedule {self.schedule.kind!r}; choose cosine or constant")
        if self.dtype not in DTYPES:
            raise UsageError(
                f"cannot train in {self.dtype}: gradients vanish in its range; "
                f"choose {' or '.join(DTYPES)}"
            )
        if self.patience is not None and self.validation is None:
            raise UsageError("patience counts validations; give lists to validate on")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as what settings.json holds."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"format": FORMAT, "job": "ranklens train model", **found}
