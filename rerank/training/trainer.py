"""Training: steps over lists, validations, and a checkpoint every so often.

A step is the mean loss of some lists: each one forward pass with all its queries, and one
backward pass. AdamW (arXiv 1711.05101) steps on fp32 copies of the weights, and on head weights.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.rerank.training.checkpoint import Checkpoint, TrainingFolder
from ranklens.rerank.training.objectives import parse_objective
from ranklens.rerank.training.order import shuffled, visited
from ranklens.rerank.training.settings import Settings
from ranklens.rerank.training.student import Student, Weights
from ranklens.rerank.training.validation import HeldOut, Validation

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from ranklens.rerank.training.lists import TrainingList

HEADS = "head_weights"
_LAYER = re.compile(r"(?:^|\.)layers\.([0-9]+)\.")
_BETAS = (0.9, 0.999)


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is done: its number from 1, mean loss, learning rate and gradient norm.

    ``queries`` and ``documents`` are those of its lists; ``skipped`` lists had nothing that the
    objective goes by.
    """

    step: int
    loss: float
    rate: float
    norm: float
    queries: int
    documents: int
    skipped: int


Watch = Callable[[Step | Validation], None]


def trained_weights(
    model: Any, settings: Settings, going_on: Path | None = None, *, layers: int | None = None
) -> list[tuple[str, torch.nn.Parameter]]:
    """Say what of a model is trained, with LoRA put into it where the settings have a rank.

    ``going_on`` is the folder of the adapter that is trained on, None for a new one; ``layers``
    is how many the base model has, see ``read_pairs``. Without a rank it is every weight of the
    decoder's layers: a list has few of the vocabulary's rows, so embeddings stay as they are.
    """
    if going_on is not None:
        from ranklens.rerank.training.adapter import go_on_with_lora

        return go_on_with_lora(model, going_on, layers=layers)
    if settings.lora is not None:
        from ranklens.rerank.training.adapter import add_lora

        return add_lora(model, settings.lora, alpha=settings.alpha, seed=settings.seed)
    model.requires_grad_(False)
    found = [(name, own) for name, own in model.named_parameters() if "layers." in name]
    if not found:
        raise InvalidInputError(
            f"a {model.config.model_type!r} model has no weights in layers; train it with LoRA"
        )
    for _, own in found:
        own.requires_grad_(True)
    return found


def highest_layer(names: Iterable[str]) -> int | None:
    """Return the last layer that weights of these names are in, None where names do not tell."""
    found = (_LAYER.search(name) for name in names)
    return max((int(match[1]) for match in found if match), default=None)


class Trainer:
    """A training run in a folder, from its last checkpoint on.

    ``lists`` are trained on, ``held_out`` validated on. ``save_every`` steps a checkpoint is
    written, and at the end. Nothing is drawn
    from generators of torch or Python; those of torch are saved all the same, for models that
    do. ``resumed_at`` is the step that training goes on from.

    Raises InvalidInputError for a checkpoint of another model.
    """

    def __init__(
        self,
        student: Student,
        named: Sequence[tuple[str, torch.nn.Parameter]],
        settings: Settings,
        lists: Sequence[TrainingList],
        folder: TrainingFolder,
        *,
        held_out: HeldOut | None = None,
        save_every: int = 50,
    ) -> None:
        if not lists:
            raise InvalidInputError("there are no training lists")
        self.student, self.settings, self.folder = student, settings, folder
        self.objective = parse_objective(settings.objective)
        self.weights = Weights(named)
        heads = {HEADS: student.head_weights} if student.train_heads else {}
        self.parameters = {**self.weights.copies, **heads}
        self._lists, self._held_out = lists, held_out
        self._save_every = save_every
        self._watch: Watch = lambda event: None
        self._optimiser = _adamw(self.parameters, settings)
        self._visits = 0
        # The parameters, optimiser and counts are of one step.
        self._whole = True
        self.step = 0
        self.validations: list[Validation] = []
        self._best: Mapping[str, torch.Tensor] | None = None
        self._generators: Mapping[str, torch.Tensor] | None = None
        kept = folder.load()
        self._curve_bytes = 0 if kept is None else kept.curve_bytes
        if kept is not None:
            self._restore(kept)
        self.resumed_at = self.saved_step = self.step

    @property
    def best(self) -> Validation | None:
        """The validation with the highest nDCG, the first of equal ones."""
        return max(self.validations, key=lambda found: found.ndcg, default=None)

    @property
    def stopped_early(self) -> bool:
        """Whether so many validations as ``patience`` says were no better than the best."""
        if self.settings.patience is None or self.best is None:
            return False
        since = len(self.validations) - 1 - self.validations.index(self.best)
        return since >= self.settings.patience

    def run(self, watch: Watch | None = None) -> None:
        """Train to the end, then put the best weights (the last, unvalidated) into the student.

        ``watch`` is told of every step and validation.
        Raises NumericalError naming step and list where loss, gradient or weights are NaN or
        infinite: the last checkpoint, which is finite, stays. On Ctrl-C one of the last whole step
        is written before KeyboardInterrupt goes on.
        """
        import torch

        self._watch = watch or self._watch
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self._set_generators()
            try:
                self._go_on()
            except KeyboardInterrupt:
                if self._whole and self.step > self.saved_step:
                    self._save()
                raise
        if self._best is not None:
            self._put(self._best)

    def _go_on(self) -> None:
        while True:
            if self._is_to_validate():
                self._validate()
            over = self.step >= self.settings.steps or self.stopped_early
            if self.step > self.saved_step and (over or self.step % self._save_every == 0):
                self._save()
            if over:
                return
            self._advance()

    def _advance(self) -> None:
        """Do one step."""
        import torch

        settings, step = self.settings, self.step + 1
        losses: list[float] = []
        of_step: list[int] = []
        visits = self._visits
        queries = documents = 0
        for parameter in self.parameters.values():
            parameter.grad = None
        while len(losses) < settings.accumulate:
            if visits - self._visits - len(losses) >= len(self._lists):
                raise InvalidInputError(
                    f"objective {settings.objective!r} has nothing to go by in any of "
                    f"{len(self._lists)} lists: no relevant document, or no such teacher"
                )
            number = visited(visits, len(self._lists), settings.seed)
            training = shuffled(self._lists[number], settings.seed, visits)
            visits += 1
            loss = self._loss(number, training, step)
            if loss is None:
                continue
            torch.autograd.backward(loss / settings.accumulate)
            self.weights.collect()
            losses.append(float(loss.detach()))
            of_step.append(number)
            queries += len(training.queries)
            documents += len(training.documents)
        norm = self._clipped(step, of_step)
        rate = settings.schedule.factor(self.step, settings.steps)
        skipped = visits - self._visits - len(losses)
        done = Step(
            step, math.fsum(losses) / len(losses), rate * settings.learning_rate, norm, queries,
            documents, skipped,
        )  # fmt: skip
        self._whole = False
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["base"]
        self._optimiser.step()
        self.weights.publish()
        self._curve_bytes = self.folder.append(dataclasses.asdict(done))
        self._visits, self.step = visits, step
        self._whole = True
        self._watch(done)

    def _loss(self, number: int, training: TrainingList, step: int) -> torch.Tensor | None:
        where = f"step {step}, list {number + 1} of {len(self._lists)}"
        try:
            return self.student.losses(training, self.objective)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}") from error
        except NumericalError as error:
            raise NumericalError(f"{where}: {error} ({self._kept})") from error

    def _clipped(self, step: int, of_step: Sequence[int]) -> float:
        """Scale gradients to the bound on their norm; return what it was."""
        import torch

        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip))
        if not math.isfinite(norm):
            numbers = ", ".join(str(number + 1) for number in of_step)
            raise NumericalError(
                f"step {step}, list {numbers} of {len(self._lists)}: a gradient is NaN or "
                f"infinite; use a lower learning rate or float32 ({self._kept})"
            )
        return norm

    @property
    def _kept(self) -> str:
        """What is left after numbers went wrong."""
        if self.saved_step:
            return f"the checkpoint of step {self.saved_step} is kept"
        return "there is no checkpoint yet"

    def _is_to_validate(self) -> bool:
        if self._held_out is None or (self.validations and self.validations[-1].step == self.step):
            return False
        due = self.step % self.settings.validate_every == 0
        return due or self.step == self.settings.steps

    def _validate(self) -> None:
        assert self._held_out is not None
        found = self._held_out.validate(self.student, self.objective, self.step)
        self._whole = False
        better = self.best is None or found.ndcg > self.best.ndcg
        if better:
            self._best = {
                name: own.detach().to("cpu", copy=True) for name, own in self.parameters.items()
            }
        self._curve_bytes = self.folder.append(
            {"step": found.step, "validation": {"nDCG@10": found.ndcg, "loss": found.loss}}
        )
        self.validations.append(found)
        self._whole = True
        self._watch(found)

    @property
    def _device(self) -> torch.device:
        return self.student.head_weights.device

    def _set_generators(self) -> None:
        import torch

        if self._generators is None:
            torch.manual_seed(self.settings.seed)
            return
        torch.set_rng_state(self._generators["cpu"])
        if "cuda" in self._generators:
            torch.cuda.set_rng_state(self._generators["cuda"], self._device)

    def _save(self) -> None:
        import torch

        for name, own in self.parameters.items():
            if not bool(own.isfinite().all()):
                raise NumericalError(
                    f"after step {self.step} {name} holds NaN or infinite values; use a lower "
                    f"learning rate or float32 ({self._kept})"
                )
        tensors = {f"weights/{name}": own.detach() for name, own in self.parameters.items()}
        moments, counts = {}, {}
        for name, own in self.parameters.items():
            known = self._optimiser.state.get(own)
            if known:
                counts[name] = int(known["step"])
                moments[f"mean/{name}"] = known["exp_avg"]
                moments[f"square/{name}"] = known["exp_avg_sq"]
        best = {f"best/{name}": own for name, own in (self._best or {}).items()}
        generators = {"generator/cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            generators["generator/cuda"] = torch.cuda.get_rng_state(self._device)
        state = {
            "step": self.step,
            "visits": self._visits,
            "validations": [dataclasses.asdict(found) for found in self.validations],
            "optimiser_steps": counts,
        }
        everything = {**tensors, **moments, **best, **generators}
        self.folder.save(Checkpoint(everything, state, self._curve_bytes))
        self.saved_step = self.step

    def _restore(self, kept: Checkpoint) -> None:
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in kept.tensors.items():
            part, _, of = name.partition("/")
            parts.setdefault(part, {})[of] = tensor
        self._put(parts.get("weights", {}))
        for name, count in kept.state["optimiser_steps"].items():
            own = self.parameters[name]
            self._optimiser.state[own] = {
                "step": own.new_tensor(float(count), device="cpu"),
                "exp_avg": parts["mean"][name].to(own),
                "exp_avg_sq": parts["square"][name].to(own),
            }
        self._best = parts.get("best")
        self._generators = parts["generator"]
        self.step, self._visits = kept.state["step"], kept.state["visits"]
        self.validations = [Validation(**found) for found in kept.state["validations"]]

    def _put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Make weights those of a checkpoint, in the copies and in the model."""
        import torch

        shapes = {name: tuple(own.shape) for name, own in self.parameters.items()}
        if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
            raise InvalidInputError(
                f"the checkpoint in {self.folder.path} is of other weights than the model's; "
                "give another --out"
            )
        with torch.no_grad():
            for name, own in self.parameters.items():
                own.copy_(tensors[name])
        self.weights.publish()


def _adamw(
    parameters: Mapping[str, torch.nn.Parameter], settings: Settings
) -> torch.optim.Optimizer:
    """Return AdamW over matrices, vectors (norms, biases: no decay) and head weights."""
    import torch

    def groups() -> Iterator[dict[str, Any]]:
        own = [(name, value) for name, value in parameters.items() if name != HEADS]
        for matrices in (True, False):
            chosen = [value for _, value in own if (value.dim() > 1) == matrices]
            if chosen:
                decay = settings.weight_decay if matrices else 0.0
                yield {"params": chosen, "base": settings.learning_rate, "weight_decay": decay}
        if HEADS in parameters:
            heads = [parameters[HEADS]]
            yield {"params": heads, "base": settings.head_learning_rate, "weight_decay": 0.0}

    return torch.optim.AdamW(list(groups()), lr=settings.learning_rate, betas=_BETAS)
