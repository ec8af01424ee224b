"""Gradient checkpointing: layers whose inner states are computed again when gradients are taken.

Between layers only the states that one hands to the next are kept (Chen et al., arXiv 1604.06174).
The attention function records what it reads into the pass's ``AttentionRun``, once for each layer,
so the second computing of a layer gets a run of its own: the same operations, whose results nobody
collects. What was recorded the first time is what the gradients flow back from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ranklens.rerank.projections import decoder_layers

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def recomputed_layers(model: nn.Module, last_layer: int) -> Iterator[None]:
    """Within the context compute the layers up to ``last_layer`` again where gradients ask for it.

    Non-reentrant, so that gradients reach parameters though a layer's input may have none, and
    what a layer leaves in the run beside its output is part of the graph.
    """
    with contextlib.ExitStack() as restore:
        for _, layer in decoder_layers(model, last_layer):
            restore.enter_context(_recomputed(layer))
        yield


@contextlib.contextmanager
def _recomputed(layer: nn.Module) -> Iterator[None]:
    from torch.utils.checkpoint import checkpoint

    # An attribute of the module itself, where somebody has set one, is put back as it was.
    before = vars(layer).get("forward")
    forward = layer.forward
    vars(layer)["forward"] = lambda *args, **kwargs: checkpoint(
        partial(_Once(forward), *args, **kwargs), use_reentrant=False
    )
    try:
        yield
    finally:
        if before is None:
            del vars(layer)["forward"]
        else:
            vars(layer)["forward"] = before


class _Once:
    """A layer's forward that records into the pass's run the first time, later into another."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self._called = False

    def __call__(self, *args: Any, attention_run: Any, **kwargs: Any) -> Any:
        run = attention_run.anew() if self._called else attention_run
        self._called = True
        return self._forward(*args, attention_run=run, **kwargs)
