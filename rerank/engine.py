"""The attention engine: one forward pass of a decoder, out of which comes attention per token."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.data.extras import require
from ranklens.rerank.device import Placement, choose_placement
from ranklens.rerank.prompt import PromptLayout

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.attention import AttentionRun


@dataclass(frozen=True, slots=True)
class TokenSignal:
    """Attention that each tail pays to each shared token.

    ``mass``: float32 tensor [layers, tails, shared] on the CPU; mean over a tail's rows, sum
    over a layer's heads. Summed over a layer it is at most the number of heads.
    """

    mass: torch.Tensor

    def total(self) -> torch.Tensor:
        """Return the sum over all layers, float64 [tails, shared]."""
        return self.mass.double().sum(0)


class AttentionEngine:
    """A decoder whose attention is read.

    Takes a base model (no vocabulary projection) and its tokenizer; use ``from_pretrained``.
    One engine may be used from several threads: forward passes take turns.
    """

    def __init__(self, model: Any, tokenizer: Any, placement: Placement) -> None:
        from ranklens.rerank import attention

        attention.register()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.placement = placement
        self._lock = threading.Lock()
        config = model.config
        if getattr(config, "is_encoder_decoder", False):
            raise InvalidInputError(
                f"{config.model_type} is an encoder-decoder; an attention reranker needs a decoder"
            )
        try:
            model.set_attn_implementation(attention.IMPLEMENTATION)
        except (ValueError, AttributeError) as error:
            raise InvalidInputError(_unusable(config, str(error))) from None
        self._probe()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, device: str | None = None, dtype: str | None = None
    ) -> AttentionEngine:
        """Load a model folder in the Hugging Face layout.

        Raises MissingPrerequisiteError without the ``llm`` extra, InvalidInputError for a
        folder that does not load or a model whose attention cannot be read.
        """
        require("llm", "torch", "transformers", "safetensors")
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer

        from ranklens.data.quiet import quiet_transformers

        placement = choose_placement(device, dtype)
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
                model, loading = AutoModel.from_pretrained(
                    path,
                    local_files_only=True,
                    dtype=getattr(torch, placement.dtype),
                    output_loading_info=True,
                )
            # A truncated weight file is a SafetensorError, weights of another size a RuntimeError.
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                raise InvalidInputError(
                    f"cannot load the model in {path}: {_line(error)}"
                ) from error
        # transformers fills absent weights with random numbers and says so in a log line only.
        absent = sorted(
            {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
        )
        if absent:
            raise InvalidInputError(
                f"the model in {path} lacks {len(absent)} weights of its architecture "
                f"(first: {absent[0]}); the folder is incomplete or holds another model"
            )
        return cls(model.to(placement.device), tokenizer, placement)

    @property
    def context(self) -> int:
        """The longest prompt in tokens: positions, and the sliding window where there is one."""
        config = self.model.config
        limits: list[int] = [config.max_position_embeddings]
        sliding: int | None = getattr(config, "sliding_window", None)
        layer_types = getattr(config, "layer_types", None) or ["sliding_attention"]
        if sliding is not None and "sliding_attention" in layer_types:
            # Within the window a sliding layer is a full one; beyond it it would not be read.
            limits.append(sliding)
        chunk: int | None = getattr(config, "attention_chunk_size", None)
        if chunk is not None:
            limits.append(chunk)
        return min(limits)

    def read(self, layout: PromptLayout) -> TokenSignal:
        """Run the layout once and return the attention of its tails.

        Raises InvalidInputError when the prompt exceeds the context, NumericalError naming the
        layer and the document for NaN or Inf.
        """
        import torch

        if layout.length > self.context:
            raise InvalidInputError(
                f"the prompt of {layout.length} tokens exceeds the context of {self.context}"
            )
        # Equal tails (a query that is the null query) are one branch: their difference is 0,
        # not the noise of computing it twice.
        branches = list(dict.fromkeys(map(tuple, layout.tails)))
        run = self._forward(layout.shared, branches)
        mass = torch.stack([run.mass[layer] for layer in sorted(run.mass)]).cpu()
        if not bool(mass.isfinite().all()):
            raise NumericalError(self._fault(layout, branches, mass))
        return TokenSignal(mass[:, [branches.index(tuple(tail)) for tail in layout.tails]])

    def _forward(
        self, shared: Sequence[int], tails: Sequence[Sequence[int]], *, trace: bool = False
    ) -> AttentionRun:
        import torch

        from ranklens.rerank.attention import AttentionRun, ReadingDone

        ids = torch.tensor([[*shared, *(token for tail in tails for token in tail)]])
        with self._lock, torch.inference_mode():
            device = self.model.device
            run = AttentionRun(
                len(shared),
                [len(tail) for tail in tails],
                device,
                last_layer=self.model.config.num_hidden_layers - 1,
                trace=trace,
            )
            with contextlib.suppress(ReadingDone):
                self.model(
                    input_ids=ids.to(device),
                    position_ids=run.position_ids,
                    use_cache=False,
                    attention_run=run,
                )
            return run

    def _fault(
        self, layout: PromptLayout, tails: Sequence[Sequence[int]], mass: torch.Tensor
    ) -> str:
        """Say where NaN or Inf began, by a second pass that looks for it."""
        fault = self._forward(layout.shared, tails, trace=True).fault
        if fault is None:
            layer = int((~mass.isfinite()).nonzero()[0, 0])
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

        config = self.model.config
        # Some hybrids run a convolution beside the attention of every layer.
        convolutions = (m for m in self.model.modules() if isinstance(m, torch.nn.Conv1d))
        if any(m.kernel_size[0] > 1 for m in convolutions):
            raise InvalidInputError(_unusable(config, "it has convolutional or recurrent layers"))
        try:
            found = len(self._forward([0, 1, 2], [[1, 2], [2]]).mass)
        except InvalidInputError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InvalidInputError(_unusable(config, _line(error))) from error
        layers = config.num_hidden_layers
        if found != layers:
            raise InvalidInputError(
                _unusable(config, f"{found} of {layers} layers attend through it")
            )


def _unusable(config: Any, detail: str) -> str:
    return (
        f"the attention of a {config.model_type!r} model cannot be read through "
        f"transformers.AttentionInterface ({detail}); use a Llama, Mistral or Qwen style decoder"
    )


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
