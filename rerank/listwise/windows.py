"""A list that is ordered window by window, from the back to the front."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ranklens.data.errors import UsageError

WINDOW, STEP = 20, 10
"""How many passages a window holds, and by how many it moves: RankGPT's."""


def check_windows(window: int, step: int) -> None:
    """Raise UsageError for windows that order nothing, or that would leave passages out."""
    if window < 2:
        raise UsageError(f"window must be at least 2 passages, got {window}")
    if not 1 <= step <= window:
        raise UsageError(f"step must be 1 to the window's {window} passages, got {step}")


def window_places(length: int, window: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges of the windows over a list, the last passages' first.

    Both ends move by ``step``, so that the first passages' window may be a shorter one.
    """
    end = length
    while end > 0:
        start = max(0, end - window)
        yield start, end
        if start == 0:
            return
        end -= step


def sliding(
    length: int, window: int, step: int, ask: Callable[[Sequence[int]], Sequence[int]]
) -> list[int]:
    """Return the order, best first, of passages 0 … length − 1 after one pass of windows.

    ``ask`` is given the passages of a window as they stand by then, and returns their order as
    positions in what it was given. The best of a window move on with the next, so one pass
    finds about the first ``window − step`` of the list, and the rest less well. Windows of one
    passage are not asked about.
    """
    order = list(range(length))
    for start, end in window_places(length, window, step):
        shown = order[start:end]
        if len(shown) > 1:
            order[start:end] = [shown[place] for place in ask(shown)]
    return order
