"""Projections that compute what reading takes, and round alike wherever and with whom.

How a matrix product rounds depends on its number of rows. So that a layer's attention does not
depend, in its last bit, on whether the pass ends there, the tail's rows get a query projection of
their own in every layer: in the last one that is read no other queries are needed. And so that a
document kept from one pass is, in its last bit, what another pass would compute among other
documents, a pass can be ``steady``: every product over blocks then has the same number of rows,
and the tails' rows have products of their own throughout. Filled-up products cost time (a CPU
also arranges a weight anew for each), so only passes with a document cache are.

On a CPU what a layer does row by row over a long prompt is done in pieces: tensors of hundreds of
megabytes leave the caches, and the system hands out and clears their pages anew each time. That is
for causal prompts, and blocks of such a length; others in blocks go in ``groups``. Norms are the
lean ones of ``norms``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ranklens.rerank.norms import stand_in

_ROWS = {"cpu": 256, "cuda": 2048}
"""Rows of a steady product: more would be filled up for a single document, fewer are slow."""
_PIECE = 2048
"""Rows at a time of prompts that have more than twice as many, on a CPU."""


@contextlib.contextmanager
def reading_projections(
    model: Any,
    last_layer: int,
    shared: int,
    tails: int,
    lean: Mapping[nn.Module, nn.Module],
    *,
    steady: bool = False,
) -> Iterator[None]:
    """Within the context project tail rows apart, and in ``last_layer`` neither others nor values.

    The pass has ``shared`` rows and ``tails`` behind them; ``lean`` says what stands for norms.
    Reading a layer takes the keys of all and the queries of the tails; in the last one what comes
    after the attention is never reached. Layers whose projections are fused into one (Phi-3)
    compute all of them. Experts that group their tokens themselves (GPT-OSS) round with their
    neighbours even in a ``steady`` pass.
    """
    rows = _ROWS.get(model.device.type, _ROWS["cuda"]) if steady else None
    # Tails by themselves have products of their own anyhow.
    found = list(_replacements(model, last_layer, _Split(shared, tails, rows))) if shared else []
    found += _norms(model, last_layer, lean)
    if not steady and model.device.type == "cpu" and shared + tails > 2 * _PIECE:
        found += _pieces(model, last_layer, lean)
    with contextlib.ExitStack() as restore:
        for parent, name, instead in found:
            restore.callback(setattr, parent, name, getattr(parent, name))
            setattr(parent, name, instead)
        yield


@dataclass(frozen=True, slots=True)
class _Split:
    """The rows of a pass: shared ones, then the tails'; ``steady`` rows in a product, or all."""

    shared: int
    tails: int
    steady: int | None


def _replacements(
    model: Any, last_layer: int, split: _Split
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield (parent, name of a child, what to put in its place)."""
    for number, layer in decoder_layers(model, last_layer):
        whole = []
        for name, child in layer.named_children() if split.steady is not None else ():
            if _is_row_by_row(child):
                whole.append(child)
                yield layer, name, _Apart(child, split)
        inside = {part for child in whole for part in child.modules()}
        for parent in (part for part in layer.modules() if part not in inside):
            attention = hasattr(parent, "q_proj") and hasattr(parent, "v_proj")
            for name, child in parent.named_children():
                if attention and name == "v_proj" and number == last_layer:
                    yield parent, name, _Nothing(child)
                elif attention and name == "q_proj":
                    yield parent, name, _Apart(child, split, alone=number == last_layer)
                elif split.steady is not None and isinstance(child, nn.Linear):
                    yield parent, name, _Apart(child, split)


def _norms(
    model: Any, last_layer: int, lean: Mapping[nn.Module, nn.Module]
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for _, layer in decoder_layers(model, last_layer):
        for parent in layer.modules():
            for name, child in parent.named_children():
                instead = stand_in(child, lean)
                if instead is not child:
                    yield parent, name, instead


def _pieces(
    model: Any, last_layer: int, lean: Mapping[nn.Module, nn.Module]
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield what takes the place of norms and MLPs, piece by piece."""
    for _, layer in decoder_layers(model, last_layer):
        for name, child in layer.named_children():
            if _is_row_by_row(child) or type(child).__name__.endswith("RMSNorm"):
                yield layer, name, _InPieces(stand_in(child, lean))


def decoder_layers(model: Any, last_layer: int) -> Iterator[tuple[int, nn.Module]]:
    """Yield number and module of the decoder's layers up to the last that is read."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for layer in (layer for layers in lists for layer in layers):
        number = _number(layer)
        if number is not None and number <= last_layer:
            yield number, layer


def _is_row_by_row(module: nn.Module) -> bool:
    """Say whether a layer's module is linear maps and functions of each row, as an MLP is.

    Its functions too are computed for a steady number of rows then: how a vectorised one rounds
    can depend on where it begins.
    """
    parts = list(module.modules())
    own = [part for part in parts if list(part.parameters(recurse=False))]
    return (
        len(parts) > 1
        and bool(own)
        and all(isinstance(part, nn.Linear) for part in own)
        and not any(isinstance(part, nn.ModuleList) or hasattr(part, "layer_idx") for part in parts)
    )


def _number(layer: nn.Module) -> int | None:
    """Return the index of a decoder layer, or None for a module that is none."""
    numbers = (getattr(part, "layer_idx", None) for part in layer.children())
    return next((number for number in numbers if number is not None), None)


class _Apart(nn.Module):
    """Project the tails' rows apart, or ``alone``, with zeros for the others."""

    def __init__(self, projection: nn.Module, split: _Split, *, alone: bool = False) -> None:
        super().__init__()
        self.projection, self.split, self.alone = projection, split, alone

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        shared, tails = self.split.shared, self.split.tails
        # Routed layers flatten batch and tokens, and give an expert some of them.
        if states.shape[-2] != shared + tails:
            done: torch.Tensor = self.projection(states)
            return done
        before, behind = torch.split(states, [shared, tails], dim=-2)
        if self.alone:
            return F.pad(self.projection(behind), (0, 0, shared, 0))
        # To put two products together is a copy of all rows, which a product of them is not; what
        # is no plain product may return what is not to be written to.
        if self.split.steady is None and type(self.projection) is nn.Linear:
            done = self.projection(states)
            done[..., shared:, :] = self.projection(behind)
            return done
        parts = [*self._parts(before)] if shared else []
        if tails:
            parts.append(self.projection(behind))
        return torch.cat(parts, dim=-2)

    def _parts(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        rows = self.split.steady or states.shape[-2]
        for piece in torch.split(states, rows, dim=-2):
            length = piece.shape[-2]
            yield self.projection(F.pad(piece, (0, 0, 0, rows - length)))[..., :length, :]


class _InPieces(nn.Module):
    """A module that treats every row by itself, a number of rows at a time."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.module(piece) for piece in torch.split(states, _PIECE, -2)], dim=-2)


class _Nothing(nn.Module):
    """Zeros of a projection's shape, which take no memory."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        width = self.projection(rows[:, :0]).shape[-1]
        return rows.new_zeros(()).expand(*rows.shape[:2], width)
