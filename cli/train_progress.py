"""Training as it goes: a bar on a terminal, lines elsewhere, all on standard error."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ranklens.cli.output import note
from ranklens.rerank.training.validation import Validation

if TYPE_CHECKING:
    from ranklens.rerank.training.checkpoint import TrainingFolder
    from ranklens.rerank.training.settings import Settings
    from ranklens.rerank.training.trainer import Step

_LINE_EVERY_S = 10.0
_SMOOTH = 20


class Tally:
    """What there is to say of a run: mean loss of the last steps, the last validation, the rate."""

    def __init__(self, steps: int, start: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._start, self._clock = steps, start, clock
        self._began = clock()
        self._losses: deque[float] = deque(maxlen=_SMOOTH)
        self._queries = 0
        self.step = start
        self.validation: Validation | None = None
        self.best: Validation | None = None

    def add(self, event: Step | Validation) -> None:
        """Count a step or a validation."""
        self.step = event.step
        if isinstance(event, Validation):
            self.validation = event
            if self.best is None or event.ndcg > self.best.ndcg:
                self.best = event
            return
        self._losses.append(event.loss)
        self._queries += event.queries

    @property
    def said(self) -> str:
        """The line."""
        parts = []
        if self._losses:
            parts.append(f"loss {sum(self._losses) / len(self._losses):.4f}")
        if self.validation is not None:
            parts.append(f"nDCG@10 {self.validation.ndcg:.4f}")
        taken = self._clock() - self._began
        done = self.step - self._start
        if done and taken > 0:
            parts.append(f"{self._queries / taken:.1f} queries/s")
            parts.append(f"{(self._steps - self.step) * taken / done:.0f} s left")
        return ", ".join(parts)

    @property
    def validated(self) -> str:
        """What the last validation found."""
        found, best = self.validation, self.best
        assert found is not None
        assert best is not None
        loss = "" if found.loss is None else f", loss {found.loss:.4f}"
        return (
            f"validation at step {found.step}: nDCG@10 {found.ndcg:.4f}{loss} "
            f"(best {best.ndcg:.4f} at step {best.step})"
        )


@contextmanager
def training_progress(
    steps: int, start: int, best: Validation | None
) -> Iterator[Callable[[Step | Validation], None]]:
    """Yield what to tell of every step and validation of a run that goes on from ``start``."""
    tally = Tally(steps, start)
    tally.validation = tally.best = best
    if sys.stderr.isatty():
        with _bar(tally, steps, start) as tell:
            yield tell
        return
    last = time.monotonic()

    def tell_line(event: Step | Validation) -> None:
        nonlocal last
        tally.add(event)
        now = time.monotonic()
        if tally.validation is event:
            note(tally.validated)
        elif now - last >= _LINE_EVERY_S:
            last = now
            note(f"training: step {tally.step} of {steps}, {tally.said}")

    yield tell_line


@contextmanager
def _bar(tally: Tally, steps: int, start: int) -> Iterator[Callable[[Step | Validation], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=steps, completed=start, said=tally.said)

        def tell(event: Step | Validation) -> None:
            tally.add(event)
            if tally.validation is event:
                bar.console.print(tally.validated, highlight=False)
            bar.update(task, completed=tally.step, said=tally.said)

        yield tell


def watching(
    tell: Callable[[Step | Validation], None], folder: TrainingFolder, settings: Settings
) -> Callable[[Step | Validation], None]:
    """Return what tells of every event, and draws the curve anew at every validation."""

    def watch(event: Step | Validation) -> None:
        tell(event)
        if isinstance(event, Validation):
            draw(folder, settings)

    return watch


def draw(folder: TrainingFolder, settings: Settings) -> None:
    """Draw a run's losses and validations so far."""
    from ranklens.data.files import atomic_writer
    from ranklens.rerank.training.curve import curve_picture, read_curve

    title = f"{settings.model}: {settings.objective}"
    with atomic_writer(folder.path / "curve.svg") as stream:
        stream.write(curve_picture(read_curve(folder.curve_file), title))
