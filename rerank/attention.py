"""The attention function that reads as it computes, entered through transformers' interface.

A forward pass carries the shared tokens first and then every tail. Shared tokens attend
causally among themselves; a tail's token attends to all shared tokens and causally within its
own tail; in block layout a document's tokens among them see the prefix and their document
only. Tails start at one position and do not see each other, but for the rows with which they all
begin, so each branch computes what a separate pass over *shared + tail* would. While the tail
rows are computed in full their attention to the shared tokens is reduced to

    mass[t, j] = mean_{i in rows of tail t} Σ_h w_h softmax(q_{h,i} · k_{h,j} · scale)

in fp32, or to the same for each head apart. Nothing of size prompt × prompt is ever made, and
the tail rows of as many heads at a time as fit in a fixed room.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol

import torch

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.blocks import block_attention, buckets
from ranklens.rerank.body import Softmax, causal_attention, wide
from ranklens.rerank.branches import OPENING, Branches
from ranklens.rerank.fused import Fused
from ranklens.rerank.kernels.dispatch import Backend
from ranklens.rerank.openings import Computed
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.prompt import PromptLayout
from ranklens.rerank.rotation import moved

IMPLEMENTATION = "ranklens"
"""The name under which the function is registered with ``transformers.AttentionInterface``."""

_IGNORED = {"position_ids", "cache_position", "use_cache", "output_attentions"}
"""Options of attention functions that have no part in the weights, or are already in the keys."""
_TINY = 1e-30
_ROOM = 2**22
"""Logits of tail rows held at a time, in elements (16 MiB in fp32), or those of one key head."""


class Held(Protocol):
    """Keys and values of the shared tokens from an earlier pass."""

    def keys(self, layer: int, behind: torch.Tensor) -> torch.Tensor:
        """Return [key heads, shared + rows, D], rotated, with the tails' keys ``behind``."""
        ...

    def values(self, layer: int, behind: torch.Tensor) -> torch.Tensor:
        """Return the same of values; not asked for in the plan's last layer."""
        ...


class AttentionRun:
    """What one forward pass needs to know, and what it collects.

    ``layout`` has one tail per branch. ``mass`` maps a layer to a tensor
    [tails, shared], or [heads read, tails, shared] where the plan keeps heads apart. With
    ``trace`` the run also looks where NaN or Inf comes from: ``fault`` is then the first layer
    and token with a key that is not finite. Where the plan reads by rollout ``kept`` holds each
    layer's queries [heads, P, D], keys [key heads, P, D] and softmax instead. After the plan's
    last layer ReadingDone ends the pass.

    ``ids`` are the tokens of the rows to compute, at ``position_ids``: the shared ones, then
    ``tail_rows`` of the tails. What documents begin with is one row, unless they are to be
    ``apart``; ``source`` then says which row stands for each token.

    With ``held`` the shared tokens take no part in the pass but through their keys and values.
    A layout whose tails see documents at other places takes the ``frequencies`` of the model.
    The mass is in ``dtype``, which is float64 only for a model that is. With ``to_the_end`` the
    pass goes on behind the plan's last layer: ``last``, the one that ends it, is None.
    A layout without tails has nothing to read: ``computed`` then maps a layer to the keys and
    values [key heads, shared, D] of the shared tokens (of the last layer, keys alone).
    """

    def __init__(
        self,
        layout: PromptLayout,
        plan: SignalPlan,
        device: torch.device,
        *,
        held: Held | None = None,
        frequencies: torch.Tensor | None = None,
        backend: Backend = "torch",
        apart: bool = False,
        trace: bool = False,
        dtype: torch.dtype = torch.float32,
        to_the_end: bool = False,
    ) -> None:
        self.shared = shared = len(layout.shared)
        self.held = held
        self.computed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.plan = plan
        self.last = None if to_the_end else plan.last_layer
        self.trace = trace
        self.fault: tuple[int, int] | None = None
        self.layers_seen: set[int] = set()
        self.mass: dict[int, torch.Tensor] = {}
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor, Softmax]] = {}
        # The kernels take every document and every tail by itself, a rollout goes through all.
        self.branches = branches = Branches.of(layout.tails, apart=backend == "triton")
        apart |= backend == "triton" or plan.values == "rollout" or held is not None
        rows = Computed.of(layout, apart=apart)
        self.ids = [*(rows.ids if held is None else ()), *branches.ids]
        self.tail_rows = len(branches.ids)
        self.longest = layout.length
        first = shared if layout.tail_start is None else layout.tail_start
        behind = first + torch.tensor(branches.offsets, dtype=torch.long)
        before = rows.positions if held is None else ()
        positions = torch.cat([torch.tensor(before, dtype=torch.long), behind])
        self.position_ids = positions.to(device)[None]
        before = layout.positions or range(shared)
        positions = torch.cat([torch.tensor(before, dtype=torch.long), behind]).to(device)
        self.places = positions
        self.turn: tuple[torch.Tensor, torch.Tensor] | None = None
        if layout.places is not None:
            assert frequencies is not None
            self.places = positions.clone()
            self.places[:shared] = torch.tensor(layout.places)
            self.turn = ((self.places - positions)[:shared], frequencies)
        # Which computed row has the key of each token.
        self.source: torch.Tensor | None = None
        if held is None and rows.source is not None:
            source = [*rows.source, *range(len(rows.ids), len(self.ids))]
            self.source = torch.tensor(source, device=device)
        self.fused: Fused | None = None
        if backend == "triton":
            self.fused = Fused(layout, plan, positions, self.places, self.last)
        self.prefix = rows.blocks[0][0] if rows.blocks else shared
        computed = rows.blocks if held is None and self.fused is None else ()
        self.buckets = buckets(computed, device) if computed else []
        # 0 for tokens that all later ones see, then one number for each block and tail.
        own = torch.zeros(shared, dtype=torch.long)
        for number, (start, end) in enumerate(layout.blocks, start=1):
            own[start:end] = number
        self.block = own.to(device)
        # 0 for the shared tokens, then as Branches says.
        branch = torch.tensor(branches.numbers, dtype=torch.long)
        self.branch = torch.nn.functional.pad(branch, (shared, 0)).to(device)
        seen = (branch[:, None] == branch) | (branch == OPENING)
        seen &= torch.ones(seen.shape).tril().bool()
        self.tail_bias = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf).to(device)
        weights = torch.tensor(branches.weights, dtype=dtype)
        self.row_weights = weights.view(len(layout.tails), self.tail_rows).to(device)
        # In an order of their own, or a sum over them would depend on the input's in its last bit.
        documents = [torch.arange(first, end) for first, end in sorted(layout.spans)]
        self.document_tokens = torch.cat(documents).to(device) if documents else None

    def anew(self) -> AttentionRun:
        """Return a run over the same tokens that has not collected anything.

        What is computed a second time, for gradients, goes there.
        """
        other = copy.copy(self)
        other.layers_seen, other.mass, other.kept, other.computed = set(), {}, {}, {}
        return other

    def whole(self, states: torch.Tensor) -> torch.Tensor:
        """Return keys or values [key heads, rows, D] of the rows computed as those of all tokens.

        In one arrangement in memory, wherever they come from: products round by it.
        """
        return states.contiguous() if self.source is None else states.index_select(1, self.source)

    def unseen(self, rows: slice) -> torch.Tensor:
        """Return which tokens do not exist for those of ``rows``, bool [rows, P], windows aside."""
        number = torch.arange(len(self.branch), device=self.branch.device)
        block = torch.nn.functional.pad(self.block, (0, len(number) - self.shared))
        within = (self.branch == 0) & (block > 0)
        hidden = number[rows, None] < number
        hidden |= (self.branch > OPENING) & (self.branch[rows, None] != self.branch)
        # Blocks hide from each other, not from tails.
        hidden |= within & (self.branch[rows, None] == 0) & (block[rows, None] != block)
        return hidden

    def token(self, row: int) -> int:
        """Return the first token that a row computed stands for."""
        if self.held is not None:
            return self.shared + row
        return row if self.source is None else int((self.source == row).nonzero()[0])

    def hidden_by(self, window: int) -> torch.Tensor:
        """Return which keys lie beyond a sliding window of each tail row, bool [rows, P]."""
        return self.places[self.shared :, None] - self.places[None] >= window

    def record(self, layer: int, heads: slice, logits: torch.Tensor, weights: torch.Tensor) -> None:
        """Add what ``heads`` of a layer pay to the shared tokens.

        ``logits`` and ``weights`` are [heads, rows, P], see ``wide``.
        """
        chosen = self.plan.weights[layer]
        source = (logits if self.plan.values == "logits" else weights)[:, :, : self.shared]
        rows = self.row_weights  # [tails, rows]
        numbers = [head for head in range(heads.start, heads.stop) if head in chosen]
        if not numbers:
            return
        scale = 1 / self._denominators(weights)  # [heads, rows]
        if self.plan.per_head:
            if len(numbers) < len(source):  # a copy, which reading every head does not need
                within = [head - heads.start for head in numbers]
                source, scale = source[within], scale[within]
            found = (rows[None] * scale[:, None]) @ source  # [heads read, tails, shared]
            known = self.mass.get(layer)
            self.mass[layer] = found if known is None else torch.cat([known, found])
            return
        by_head = [chosen.get(head, 0.0) for head in range(heads.start, heads.stop)]
        scale = scale * scale.new_tensor(by_head)[:, None]
        # Mean over a tail's rows and sum over heads are one matrix product.
        averaging = (rows[:, None] * scale[None]).flatten(1)  # [tails, heads × rows]
        found = averaging @ source.flatten(0, 1)
        self.mass[layer] = self.mass[layer] + found if layer in self.mass else found

    def _denominators(self, weights: torch.Tensor) -> torch.Tensor:
        """Return the sum of each row's weights over the keys that count, [heads, rows]."""
        if self.plan.over == "without-sink":
            # Not 1 − the first: where that takes nearly all, rounding would be what is left.
            return weights[..., 1:].sum(-1).clamp_min(_TINY)
        if self.plan.over == "documents" and self.document_tokens is not None:
            return weights[..., self.document_tokens].sum(-1).clamp_min(_TINY)
        return weights.new_ones(weights.shape[:2])


class ReadingDone(Exception):  # noqa: N818
    """Ends a forward pass whose last attention is read: what would follow has no reader."""


def register() -> None:
    """Make the function known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(IMPLEMENTATION, branch_attention)
    AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Stand where transformers would build a prompt × prompt mask."""


def branch_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    attention_run: AttentionRun | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for shared tokens and tails, and record the tails' mass.

    Shapes: query [1, heads, P, D]; key, value [1, key heads, P, D]; returns [1, P, heads, D].
    Raises InvalidInputError for attention that this engine cannot read exactly.
    """
    run = attention_run
    name = type(module).__name__
    if run is None:
        raise InvalidInputError(
            f"{name} got no AttentionRun: the model was called other than through AttentionEngine, "
            "or its family drops what the engine hands to its layers"
        )
    if not getattr(module, "is_causal", True) or options.pop("is_causal", True) is False:
        raise InvalidInputError(f"{name} is not causal: an attention reranker needs a decoder")
    if attention_mask is not None:
        raise InvalidInputError(f"{name} makes a mask of its own, which this engine does not apply")
    layer = module.layer_idx
    _check(name, layer, options, run)
    run.layers_seen.add(layer)
    if run.trace and run.fault is None:
        finite = key[0].isfinite().all(-1).all(0)
        if not bool(finite.all()):
            run.fault = (layer, run.token(int((~finite).nonzero()[0])))
    window = sliding_window if sliding_window is not None and run.longest > sliding_window else None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    softmax = Softmax(scale, window, softcap, s_aux)
    if run.plan.values == "rollout" and layer in run.plan.weights:
        run.kept[layer] = (query[0], key[0], softmax)
    if not run.tail_rows:
        run.computed[layer] = (run.whole(key[0]), run.whole(value[0]))
        if layer == run.last:
            raise ReadingDone
        output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
        _shared_rows(run, query, key, value, softmax, output)
        return output, None
    keys, values = run.whole(key[0]), run.whole(value[0])
    if run.held is not None:
        keys = run.held.keys(layer, keys)
        if layer != run.last:
            values = run.held.values(layer, values)
    if run.turn is not None:
        keys = torch.cat([moved(keys[:, : run.shared], *run.turn), keys[:, run.shared :]], dim=1)
    behind = slice(query.shape[2] - run.tail_rows, None)
    rows = query[0, :, behind]
    if run.fused is None:
        tails = _tail_rows(run, layer, rows, keys, values, softmax)
    else:
        tails, mass = run.fused.tail_rows(layer, rows, keys, values, softmax)
        if mass is not None:
            run.mass[layer] = mass
    if tails is None:
        raise ReadingDone
    if run.held is not None:
        return tails.transpose(0, 1)[None], None
    output = query.new_empty(1, query.shape[2], query.shape[1], value.shape[-1])
    _shared_rows(run, query, key, value, softmax, output[:, : behind.start])
    output[0, behind] = tails.transpose(0, 1)
    return output, None


def _shared_rows(
    run: AttentionRun,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax: Softmax,
    output: torch.Tensor,
) -> None:
    """Write the ``output`` [1, shared, heads, D] of the shared tokens among themselves."""
    if run.fused is not None and run.fused.documents is not None:
        output[0] = run.fused.shared_rows(query[0], key[0], value[0], softmax)
    elif run.buckets:
        positions = run.position_ids[0]
        block_attention(query, key, value, run.prefix, run.buckets, softmax, positions, output)
    else:
        output[:] = causal_attention(query, key, value, output.shape[1], softmax)


def _check(name: str, layer: int, options: dict[str, Any], run: AttentionRun) -> None:
    """Refuse attention that is more than a softmax over all keys behind a causal mask."""
    # Sparse attention passes indices, others a bias; without them it would be another model.
    unknown = [n for n, v in options.items() if isinstance(v, torch.Tensor) and n not in _IGNORED]
    if unknown:
        raise InvalidInputError(
            f"{name} attends by {unknown[0]!r}, which this engine does not know"
        )
    if layer in run.layers_seen:
        raise InvalidInputError(
            f"{name} attends more than once in layer {layer} (as differential attention does), "
            "so that its attention is not one softmax"
        )


def _tail_rows(
    run: AttentionRun,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    softmax: Softmax,
) -> torch.Tensor | None:
    """Record what the tail rows attend to and return their output [heads, rows, D].

    Shapes: query [heads, rows, D]; key, value [key heads, P, D]. None after the last layer read.
    """
    heads, rows, size = query.shape
    key_heads, length, _ = key.shape
    group = heads // key_heads
    # A rollout is made of whole layers, afterwards.
    chosen = {} if run.plan.values == "rollout" else run.plan.weights.get(layer, {})
    last = layer == run.last
    hidden = None if softmax.window is None else run.hidden_by(softmax.window)
    output = query.new_empty(heads, rows, value.shape[-1])
    step = max(1, _ROOM // (group * rows * length))
    for first in range(0, key_heads, step):
        keys = slice(first, min(first + step, key_heads))
        of_keys = slice(keys.start * group, keys.stop * group)
        read = any(head in chosen for head in range(of_keys.start, of_keys.stop))
        if last and not read:
            continue
        # Rows of the heads that share a key head are one matrix, so keys are never repeated.
        q = (wide(query[of_keys]) * softmax.scale).reshape(-1, group * rows, size)
        logits = softmax.cap(q @ wide(key[keys]).transpose(1, 2)).view(-1, rows, length)
        logits[:, :, run.shared :] += run.tail_bias
        if hidden is not None:
            logits.masked_fill_(hidden, -torch.inf)
        weights = softmax.normalise(logits, of_keys)
        if read:
            run.record(layer, of_keys, logits, weights)
        if not last:
            weights = weights.to(value.dtype).view(-1, group * rows, length)
            output[of_keys] = (weights @ value[keys]).view(-1, rows, value.shape[-1])
    return None if last else output
