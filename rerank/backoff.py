"""Out of memory: the same signal in smaller pieces.

The branches of a forward pass do not see each other, so they can be read a few at a time: each
pass computes the shared tokens again, and what comes out is the same up to the rounding of
matrix products of another shape. A pass with one branch is the smallest there is.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ranklens.data.errors import RanklensError

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.engine import TokenSignal
    from ranklens.rerank.plan import SignalPlan
    from ranklens.rerank.prompt import PromptLayout, Tail

_log = logging.getLogger(__name__)
_said = threading.Event()

# How allocators other than CUDA's, which has a class of its own, say it: the CPU's on Linux and
# elsewhere, MPS, cuBLAS.
_SAYINGS = ("not enough memory", "can't allocate memory", "out of memory", "ALLOC_FAILED")


class Reading(Protocol):
    """What reads a layout: an AttentionEngine, or a stand-in for one."""

    @property
    def rope_switch(self) -> int | None:
        """The length beyond which prompts have other rotations."""
        ...

    def read(self, layout: PromptLayout, plan: SignalPlan) -> TokenSignal:
        """Return the attention of every tail of the layout."""
        ...


def read_in_pieces(engine: Reading, layout: PromptLayout, plan: SignalPlan) -> TokenSignal:
    """Return ``engine.read(layout, plan)``, with fewer branches a pass when memory runs out.

    The first time in a process that this happens it is logged. Raises RanklensError when a
    single branch does not fit, or a part would have other rotations than the whole; and as
    ``engine.read``.
    """
    found = _attempt(engine, layout, plan)
    if found is not None:
        return found
    # Equal tails must stay one branch, or their difference would be rounding instead of 0.
    names = [(tuple(tail.ids), tail.rows) for tail in layout.tails]
    distinct = dict(zip(names, layout.tails, strict=True))
    mass = _halves(engine, layout, list(distinct.values()), plan)
    places = {name: place for place, name in enumerate(distinct)}
    from ranklens.rerank.engine import TokenSignal

    return TokenSignal(mass[:, [places[name] for name in names]], plan)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception is an allocator's, on whatever device."""
    if isinstance(error, MemoryError):
        return True
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def _attempt(engine: Reading, layout: PromptLayout, plan: SignalPlan) -> TokenSignal | None:
    """Return the signal, or None when memory ran out.

    The error ends here: its traceback holds the tensors of the failed pass, and as long as it
    lives their memory is not free for the next one.
    """
    try:
        return engine.read(layout, plan)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    _release()
    return None


def _halves(
    engine: Reading, layout: PromptLayout, tails: Sequence[Tail], plan: SignalPlan
) -> torch.Tensor:
    """Return the mass [layers or heads, tails, shared] of tails that did not fit together."""
    import torch

    if len(tails) == 1:
        raise RanklensError(
            f"out of memory with one query over {len(layout.spans)} documents in a prompt of "
            f"{layout.length} tokens; rank fewer documents (--depth), shorten them, split the "
            "list with long_lists=LongLists('anchors', most=…), or use a smaller model or "
            "dtype='bfloat16'"
        )
    half = (len(tails) + 1) // 2
    parts = (tails[:half], tails[half:])
    if engine.rope_switch is not None:
        longest = (max(len(tail.ids) for tail in some) for some in (tails, *parts))
        beyond = {len(layout.shared) + length > engine.rope_switch for length in longest}
        if len(beyond) > 1:
            raise RanklensError(
                f"out of memory with {len(tails)} queries over a prompt of {layout.length} tokens, "
                f"which cannot be read apart: beyond {engine.rope_switch} tokens this model has "
                "other rotations; rank fewer documents (--depth) or shorten them"
            )
    _say_once(len(tails))
    masses = []
    for some in parts:
        found = _attempt(engine, dataclasses.replace(layout, tails=tuple(some)), plan)
        masses.append(_halves(engine, layout, some, plan) if found is None else found.mass)
    return torch.cat(masses, dim=1)


def _say_once(branches: int) -> None:
    if not _said.is_set():
        _said.set()
        _log.warning(
            "out of memory with %d branches in one forward pass: reading fewer at a time, with "
            "the same scores but slower",
            branches,
        )


def _release() -> None:
    """Hand the failed pass's memory back to the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
