"""Progress of long work: a bar on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ranklens.cli.output import note

_LINE_EVERY_S = 10.0


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes how many more units are done.

    ``total`` counts the units of the whole job (``docs``, say), so the rate and the time left
    are in that unit. Everything goes to standard error.
    """
    if sys.stderr.isatty():
        with _bar(title, total, unit) as advance:
            yield advance
        return
    start = last = time.monotonic()
    done = 0

    def advance_line(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            note(f"{title}: {done} of {total} {unit}, {rate:.1f} {unit}/s{left}")

    yield advance_line
    note(f"{title}: {done} {unit} in {time.monotonic() - start:.1f} s")


@contextmanager
def _bar(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} {unit}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
