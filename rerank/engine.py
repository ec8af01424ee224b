"""The attention engine: one forward pass of a decoder, out of which comes attention per token."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.device import Placement, choose_placement
from ranklens.data.errors import InvalidInputError, NumericalError, RanklensError
from ranklens.data.extras import require
from ranklens.data.models.loading import lacking
from ranklens.data.pages import keep_freed_pages
from ranklens.rerank.groups import MOST, Gathered, groups, held_bytes
from ranklens.rerank.lora import merge_adapter
from ranklens.rerank.plan import SignalPlan, context_of, full_layers, plan_signal, rope_switch
from ranklens.rerank.profile import SignalChoice
from ranklens.rerank.prompt import PromptLayout, Tail

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.attention import AttentionRun, Held
    from ranklens.rerank.kernels.dispatch import Backend


_FAR = 100
_CLOSE = 0.03
"""How far a key is moved to see whether it can be, and how far off, relatively, it may be then:
bfloat16 rounds by 0.4%, another order of channels is off by more than half."""


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """Attention that each tail pays to each shared token, mean over the tail's rows.

    ``mass``: float32 tensor on the CPU, [layers, tails, shared], heads summed by weight; or
    [heads, tails, shared], one entry per (layer, head) of ``heads``, as they are; or, by
    rollout, [1, tails, shared].
    """

    mass: torch.Tensor
    plan: SignalPlan

    def total(self) -> torch.Tensor:
        """Return the weighted sum over all that was read, float64 [tails, shared]."""
        if not self.plan.per_head:
            return self.mass.double().sum(0)
        import torch

        weights = [self.plan.weights[layer][head] for layer, head in self.plan.heads]
        return torch.einsum("h,hts->ts", torch.tensor(weights).double(), self.mass.double())


class AttentionEngine:
    """A decoder whose attention is read.

    Takes a base model (no vocabulary projection) and its tokenizer; use ``from_pretrained``.
    ``backend`` says whether the kernels or torch compute, None as the device is for, see
    ``choose``.
    One engine may be used from several threads: forward passes take turns.
    """

    def __init__(
        self, model: Any, tokenizer: Any, placement: Placement, *, backend: Backend | None = None
    ) -> None:
        from ranklens.rerank import attention
        from ranklens.rerank.kernels.dispatch import choose
        from ranklens.rerank.norms import lean_norms

        attention.register()
        self.model = model.eval()
        self._lean: dict[Any, Any] = {}
        if model.device.type == "cpu":
            keep_freed_pages()
        self.backend: Backend = backend or choose(model.device).name
        self.tokenizer = tokenizer
        self.placement = placement
        self._lock = threading.Lock()
        self._frequencies: torch.Tensor | None = None
        self.config = config = model.config.get_text_config()
        if getattr(model.config, "is_encoder_decoder", False):
            raise InvalidInputError(
                f"{config.model_type} is an encoder-decoder; an attention reranker needs a decoder"
            )
        try:
            model.set_attn_implementation(attention.IMPLEMENTATION)
        except (ValueError, AttributeError) as error:
            raise InvalidInputError(_unusable(config, str(error))) from None
        self._probe()
        if model.device.type == "cpu":
            self._lean = lean_norms(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        layers: int | None = None,
        adapters: Sequence[Path] = (),
        backend: Backend | None = None,
    ) -> AttentionEngine:
        """Load a model folder in the Hugging Face layout, ``layers`` of its layers (None: all).

        ``adapters`` are merged into its weights in turn, see ``merge_adapter``.

        Raises MissingPrerequisiteError without the ``llm`` extra, InvalidInputError for a
        folder that does not load, an adapter that does not fit, or a model whose attention
        cannot be read.
        """
        require("llm", "torch", "transformers", "safetensors")
        import torch
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        from ranklens.data.quiet import quiet_transformers

        placement = choose_placement(device, dtype)
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
                config = AutoConfig.from_pretrained(path, local_files_only=True)
                whole = config.get_text_config().num_hidden_layers
                shorten(config, layers)
                model, loading = AutoModel.from_pretrained(
                    path,
                    config=config,
                    local_files_only=True,
                    dtype=getattr(torch, placement.dtype),
                    output_loading_info=True,
                )
            # A truncated weight file is a SafetensorError, weights of another size a RuntimeError.
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                raise InvalidInputError(
                    f"cannot load the model in {path}: {_line(error)}"
                ) from error
        if absent := lacking(loading):
            raise InvalidInputError(
                f"the model in {path} lacks {len(absent)} weights of its architecture "
                f"(first: {absent[0]}); the folder is incomplete or holds another model"
            )
        for adapter in adapters:
            merge_adapter(model, adapter, layers=whole)
        return cls(model.to(placement.device), tokenizer, placement, backend=backend)

    @property
    def context(self) -> int:
        """The longest prompt in tokens; see ``context_of``."""
        return context_of(self.config)

    @property
    def rope_switch(self) -> int | None:
        """The length beyond which prompts have other rotations; see ``rope_switch``."""
        return rope_switch(self.config)

    def plan(self, choice: SignalChoice) -> SignalPlan:
        """Settle a profile's signal for this model; see ``plan_signal``."""
        return plan_signal(choice, self.config)

    def backend_of(self, plan: SignalPlan) -> Backend:
        """Return what computes a plan's passes: logits are no weights, and are left to torch."""
        return "torch" if plan.values == "logits" else self.backend

    def read(
        self,
        layout: PromptLayout,
        plan: SignalPlan,
        *,
        held: Held | None = None,
        steady: bool = False,
    ) -> TokenSignal:
        """Run the layout once, up to the plan's last layer, and return what its tails attend to.

        With ``held`` the shared tokens are not computed again; the result is, to the last bit,
        that of a ``steady`` pass without, see ``reading_projections``. Where rotations depend
        on the prompt's length (Phi-3's longrope) all tails have those of the longest, so that a
        query and a shorter content-free one stay comparable.

        Raises InvalidInputError when the prompt exceeds the context, NumericalError naming the
        layer and the document for NaN or Inf.
        """
        import torch

        self.check(layout)
        # Equal tails (a query that is the null query) are one branch: their difference is 0,
        # not the noise of computing it twice.
        names = [(tuple(tail.ids), tail.rows) for tail in layout.tails]
        branches = dict(zip(names, layout.tails, strict=True))
        once = dataclasses.replace(layout, tails=tuple(branches.values()))
        if held is None and not steady:
            held = self._gathered(once, plan)
        run = self._forward(once, plan, held=held, steady=steady)
        layers = [run.mass[layer] for layer in sorted(run.mass)]
        mass = (torch.cat(layers) if plan.per_head else torch.stack(layers)).cpu()
        if not bool(mass.isfinite().all()):
            raise NumericalError(self._fault(once, plan, held))
        places = {name: place for place, name in enumerate(branches)}
        return TokenSignal(mass[:, [places[name] for name in names]], plan)

    def check(self, layout: PromptLayout) -> None:
        """Raise InvalidInputError for a prompt beyond the context."""
        if layout.length > self.context:
            raise InvalidInputError(
                f"the prompt of {layout.length} tokens exceeds the context of {self.context}"
            )

    def _gathered(self, layout: PromptLayout, plan: SignalPlan) -> Held | None:
        """Compute the documents of a long prompt, or return None where one pass is to do it."""
        if self.backend_of(plan) != "torch" or self.model.device.type != "cpu":
            return None
        # Rotations would be those of a group's length; a rollout goes through whole layers.
        if self.rope_switch is not None or plan.values == "rollout":
            return None
        parts = groups(layout)
        kept = held_bytes(self.config, self.model.dtype.itemsize) * (plan.last_layer + 1)
        if not parts or kept * len(layout.shared) > MOST:
            return None
        gathered = Gathered(layout.blocks[0][0], plan.last_layer)
        for part in parts:
            gathered.add(self.compute(part, plan, steady=False))
        return gathered

    def compute(
        self, layout: PromptLayout, plan: SignalPlan, *, steady: bool = True
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Return the keys and values [key heads, shared, D] of every layer that reading takes.

        For a layout in blocks, whose tails are left out. Of the plan's last layer the values are
        zeros, unless they come out of one projection with the keys. Raises as ``read``.
        """
        import torch

        run = self._forward(dataclasses.replace(layout, tails=()), plan, steady=steady)
        if not all(bool(torch.isfinite(keys).all()) for keys, _ in run.computed.values()):
            raise NumericalError(self._fault(layout, plan))
        return run.computed

    def _forward(
        self,
        layout: PromptLayout,
        plan: SignalPlan,
        *,
        held: Held | None = None,
        steady: bool = False,
        trace: bool = False,
    ) -> AttentionRun:
        import torch

        from ranklens.rerank.attention import AttentionRun, ReadingDone
        from ranklens.rerank.projections import reading_projections
        from ranklens.rerank.rollout import roll_out

        frequencies = None if layout.places is None else self.frequencies()
        with self._lock, torch.inference_mode():
            device = self.model.device
            run = AttentionRun(
                layout,
                plan,
                device,
                held=held,
                frequencies=frequencies,
                backend=self.backend_of(plan),
                # What documents have in common is another product beside others.
                apart=steady,
                trace=trace,
            )
            shared = len(run.ids) - run.tail_rows
            projections = reading_projections(
                self.model, plan.last_layer, shared, run.tail_rows, self._lean, steady=steady
            )
            with contextlib.suppress(ReadingDone), projections:
                self.model(
                    input_ids=torch.tensor([run.ids], device=device),
                    position_ids=run.position_ids,
                    use_cache=False,
                    attention_run=run,
                )
            if plan.values == "rollout":
                run.mass[plan.last_layer] = roll_out(run)
            return run

    def frequencies(self) -> torch.Tensor:
        """Return the rotation per position of each pair of a key's channels; see ``rotation``.

        Raises InvalidInputError for a model whose keys cannot be moved by them.
        """
        if self._frequencies is None:
            from ranklens.rerank.rotation import frequencies, moved

            found = frequencies(self.model)
            # A token that is alone sees itself wherever it stands, so that in every layer its key
            # is turned by its position and else the same.
            last = self.config.num_hidden_layers - 1
            every = SignalPlan({last: {0: 1.0}}, "attention", "all-keys", per_head=False)
            near, far = (
                self.compute(PromptLayout([0], (), 0, (), (), (), (at,)), every) for at in (0, _FAR)
            )
            for layer, (keys, _) in far.items():
                start = near[layer][0]
                error = (moved(start, start.new_tensor([_FAR]), found) - keys).float().abs().max()
                if error > _CLOSE * keys.float().abs().max():
                    raise InvalidInputError(
                        f"layer {layer} of a {self.config.model_type!r} model rotates its keys "
                        "otherwise than Llama does, or not at all, so they cannot be moved to "
                        "other positions: use positions 'shared'"
                    )
            self._frequencies = found
        return self._frequencies

    def _fault(self, layout: PromptLayout, plan: SignalPlan, held: Held | None = None) -> str:
        """Say where NaN or Inf began, by a second pass that looks for it."""
        run = self._forward(layout, plan, held=held, trace=True)
        fault = run.fault
        if fault is None:
            layer = next(n for n, mass in sorted(run.mass.items()) if not mass.isfinite().all())
            where = f"the attention logits of layer {layer} gave NaN or Inf"
        else:
            layer, token = fault
            inside = [i for i, (start, end) in enumerate(layout.spans) if start <= token < end]
            part = "the query" if token >= len(layout.shared) else "the prompt's frame"
            part = f"document {inside[0]} (counted from 0)" if inside else part
            where = f"layer {layer} has NaN or Inf in its keys, first in {part}"
        return f"{where}; the weights are damaged, or {self.placement.dtype} is too narrow for them"

    def _probe(self) -> None:
        """Refuse a model that mixes tokens other than through our attention function.

        Branches share one forward pass, so a single recurrent or convolutional layer would let
        tails see each other; and a model that never calls the function gives no signal.
        """
        import torch

        config = self.config
        # Some hybrids run a convolution beside the attention of every layer.
        convolutions = (m for m in self.model.modules() if isinstance(m, torch.nn.Conv1d))
        if any(m.kernel_size[0] > 1 for m in convolutions):
            raise InvalidInputError(_unusable(config, "it has convolutional or recurrent layers"))
        plan = self.plan(SignalChoice(rows="instruction-to-end"))
        # The probe has to come to the end of the model, whichever layers can be read.
        layers = config.num_hidden_layers
        weights = {**plan.weights, layers - 1: {0: 1.0}}
        everything = dataclasses.replace(plan, weights=weights)
        tails = (Tail([1, 2], (0, 2)), Tail([2], (0, 1)))
        layout = PromptLayout([0, 1, 2], tails, len(tails), (), ())
        try:
            found = len(self._forward(layout, everything).layers_seen)
        except InvalidInputError:
            raise
        except Exception as error:
            if self.backend == "triton":
                raise RanklensError(
                    f"the kernels do not run here ({_line(error)}); AttentionEngine with "
                    "backend='torch' computes without them"
                ) from error
            if not isinstance(error, TypeError | ValueError | RuntimeError | AttributeError):
                raise
            raise InvalidInputError(_unusable(config, _line(error))) from error
        if found != layers:
            raise InvalidInputError(
                _unusable(config, f"{found} of {layers} layers attend through it")
            )


def shorten(config: Any, layers: int | None) -> None:
    """Leave out of a configuration the layers behind the first ``layers``.

    Raises InvalidInputError where that leaves out every layer that can be read.
    """
    text = config.get_text_config()
    if layers is None or layers >= text.num_hidden_layers:
        return
    full = full_layers(text)
    if full[0] >= layers:
        # What is left would look like a model all of whose layers slide, and be read within
        # its window.
        raise InvalidInputError(
            f"the first {layers} layers of a {text.model_type!r} model all have sliding "
            f"attention; the model's full layers are {', '.join(map(str, full))}"
        )
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def _unusable(config: Any, detail: str) -> str:
    return (
        f"the attention of a {config.model_type!r} model cannot be read through "
        f"transformers.AttentionInterface ({detail}); use a Llama, Mistral or Qwen style decoder"
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
