"""The two operations, computed by Triton on CUDA and in plain torch elsewhere."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from typing import Literal

import torch

from ranklens.data.errors import UsageError
from ranklens.rerank.kernels import reference
from ranklens.rerank.kernels.layout import Blocks, Sweep
from ranklens.rerank.kernels.reference import Attended, Mass

Backend = Literal["triton", "torch"]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which side computes, and why."""

    name: Backend
    reason: str


def choose(device: torch.device | str) -> Choice:
    """Return Triton for a CUDA device where it can be imported, else torch.

    Each choice is logged once, at INFO, with its reason.
    """
    kind = torch.device(device).type
    if kind != "cuda":
        choice = Choice("torch", f"the kernels are for CUDA, and the device is {kind}")
    else:
        try:
            import triton
        except ImportError as error:
            choice = Choice("torch", f"Triton cannot be imported ({error})")
        else:
            choice = Choice("triton", f"a CUDA device and Triton {triton.__version__}")
    _say_once(choice)
    return choice


@functools.cache
def _say_once(choice: Choice) -> None:
    _log.info("attention is computed by %s: %s", choice.name, choice.reason)


def block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: Blocks,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
    positions: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    backend: Backend | None = None,
) -> Attended:
    """Return the output [heads, rows, Dv] and the LSE [heads, rows] of packed blocks.

    Token i of a block sees keys [0, prefix) and [start, i] of its block. ``query``
    [heads, rows, D], a row for each token from ``blocks.base`` on, ``key`` [key heads, P, D] and
    ``value`` [key heads, P, Dv] have one dtype, float32, bfloat16 or float16, and heads are a
    multiple of key heads. ``softcap`` c bounds logits as c · tanh(logit / c); ``window`` hides
    keys whose position is that much or more before the row's, by ``positions`` int [P];
    ``sinks`` [heads] is a logit per head in the denominator, which carries no value. Both results
    have gradients to query, key, value and sinks. Computed by ``backend``, or as ``choose`` says;
    bit for bit the same on every call.

    The pattern is BlockRank's (arXiv 2510.05396), blocks of any length without padding. Raises
    UsageError for shapes that do not fit.
    """
    heads, rows, length = _check(query, key)
    if value.shape[:2] != key.shape[:2] or (blocks.base + rows, blocks.length) != (length,) * 2:
        raise UsageError(
            f"query {_shape(query)}, key {_shape(key)}, value {_shape(value)} and blocks of "
            f"tokens {blocks.base} to {blocks.length} are not one prompt"
        )
    _check_dtype(query, value)
    _check_options(heads, softcap, window, sinks, {"positions": (positions, length)})
    if _side(backend, query) == "torch":
        compute = reference.block_attention
    else:
        from ranklens.rerank.kernels import blocks as fused

        compute = fused.block_attention
    return compute(
        query, key, value, blocks, scale=scale, softcap=softcap, window=window,
        positions=positions, sinks=sinks,
    )  # fmt: skip


def column_mass(
    query: torch.Tensor,
    key: torch.Tensor,
    sweep: Sweep,
    *,
    scale: float,
    head_weights: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
    positions: torch.Tensor | None = None,
    row_positions: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    counted: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    tokens: bool = True,
    by_head: bool = False,
    documents: bool = False,
    backend: Backend | None = None,
) -> Mass:
    """Return what groups of rows pay to each shared key: the weighted mean of their softmax.

    ``query`` [heads, rows, D] and ``key`` [key heads, keys, D] have one dtype, float32, bfloat16
    or float16; which row sees which key says ``sweep``. ``head_weights`` [heads] (read on the
    host; None: 1 each) weigh the heads in ``tokens``, and heads of weight 0 are not read at all.
    ``softcap``, ``window`` and ``sinks`` as in ``block_attention``, the window by ``positions``
    int [keys] and ``row_positions`` int [rows]. ``counted`` bool [keys]: the softmax is over
    these keys only, the others have no mass (BlockRank's softmax over documents; it has no
    sinks). ``lse`` [heads, rows] is taken from the attention pass where it is over the same
    keys; sinks are then in it already. ``tokens``, ``by_head`` and ``documents`` say what is
    returned: see ``Mass``. A row that sees no key that counts has a mass of 0.

    All results have gradients to query, key, and sinks or a given ``lse``. Computed by
    ``backend``, or as ``choose`` says; bit for bit the same on every call. The maths is that of
    two phases, LSE and then column sums, without a rows × keys tensor. Raises UsageError for
    shapes that do not fit.
    """
    heads, rows, keys = _check(query, key)
    if sweep.rows != rows or sweep.shared > keys or max(sweep.last, default=-1) >= keys:
        raise UsageError(
            f"the sweep is of {sweep.rows} rows, {sweep.shared} shared keys and last key "
            f"{max(sweep.last, default=-1)}; query {_shape(query)}, key {_shape(key)}"
        )
    tensors = {
        "positions": (positions, keys), "row_positions": (row_positions, rows),
        "counted": (counted, keys), "head_weights": (head_weights, heads),
    }  # fmt: skip
    _check_options(heads, softcap, window, sinks, tensors)
    if lse is not None and lse.shape != (heads, rows):
        raise UsageError(f"lse {_shape(lse)} is not [{heads} heads, {rows} rows]")
    if _side(backend, query) == "torch":
        compute = reference.column_mass
    else:
        from ranklens.rerank.kernels import mass as fused

        compute = fused.column_mass
    return compute(
        query, key, sweep, scale=scale, head_weights=head_weights, softcap=softcap,
        window=window, positions=positions, row_positions=row_positions, sinks=sinks,
        counted=counted, lse=lse, tokens=tokens, by_head=by_head, documents=documents,
    )  # fmt: skip


def _side(backend: Backend | None, query: torch.Tensor) -> Backend:
    if backend is None:
        backend = choose(query.device).name
    if backend not in ("triton", "torch"):
        raise UsageError(f"unknown backend {backend!r}; choose triton or torch")
    if backend == "triton" and query.dtype not in _DTYPES:
        raise UsageError(
            f"the kernels do not compute in {query.dtype}; use {', '.join(map(str, _DTYPES))}, "
            "or backend='torch'"
        )
    return backend


def _check(query: torch.Tensor, key: torch.Tensor) -> tuple[int, int, int]:
    """Return heads, rows and keys."""
    if query.ndim != 3 or key.ndim != 3 or query.shape[-1] != key.shape[-1]:
        raise UsageError(
            f"query {_shape(query)} and key {_shape(key)} are not [heads, rows, D] and "
            "[key heads, keys, D]"
        )
    if key.shape[0] == 0 or query.shape[0] % key.shape[0]:
        raise UsageError(f"{query.shape[0]} heads cannot share {key.shape[0]} key heads")
    _check_dtype(query, key)
    return query.shape[0], query.shape[1], key.shape[1]


def _check_dtype(query: torch.Tensor, other: torch.Tensor) -> None:
    if query.dtype != other.dtype or query.device != other.device:
        raise UsageError(
            f"one call has {query.dtype} on {query.device} and {other.dtype} on {other.device}"
        )


def _check_options(
    heads: int,
    softcap: float | None,
    window: int | None,
    sinks: torch.Tensor | None,
    tensors: dict[str, tuple[torch.Tensor | None, int]],
) -> None:
    for name, (tensor, length) in {**tensors, "sinks": (sinks, heads)}.items():
        if tensor is not None and tensor.shape != (length,):
            raise UsageError(f"{name} {_shape(tensor)} should be [{length}]")
    if softcap is not None and not softcap > 0:
        raise UsageError(f"a soft cap must be positive: {softcap}")
    if window is not None:
        if window < 1:
            raise UsageError(f"a window must hold the row itself: {window}")
        missing = [
            n for n in ("positions", "row_positions") if n in tensors and tensors[n][0] is None
        ]
        if missing:
            raise UsageError(f"a window counts by {' and '.join(missing)}, which were not given")


def _shape(tensor: torch.Tensor) -> str:
    return str(list(tensor.shape))
