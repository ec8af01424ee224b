"""A training run to look at: loss by step above, held-out nDCG@10 below, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from ranklens.data.files import read_json_lines

Points = Sequence[tuple[float, float]]
_WIDTH, _LEFT, _RIGHT = 720, 56, 16
_TOP, _HEIGHT, _GAP = 44, 200, 40
_SMOOTH = 30
"""Into how many stretches a run is cut at most, for the mean line through its losses."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses by step; nDCG@10 and loss of validations by step."""

    losses: Points
    ndcg: Points
    held_out_losses: Points


def read_curve(path: Path) -> Curve:
    """Read a curve.jsonl; InvalidInputError names a line that is none of it."""
    losses, ndcg, held_out = [], [], []
    for place, record in read_json_lines(path):
        try:
            step = float(record["step"])
            found = record.get("validation")
            if found is None:
                losses.append((step, float(record["loss"])))
                continue
            ndcg.append((step, float(found["nDCG@10"])))
            if found["loss"] is not None:
                held_out.append((step, float(found["loss"])))
        except (KeyError, TypeError, ValueError):
            raise place.error("neither a step nor a validation of a training run") from None
    return Curve(losses, ndcg, held_out)


def means(points: Points) -> Points:
    """Return the means of up to ``_SMOOTH`` stretches of equal length, at their middle."""
    length = max(1, math.ceil(len(points) / _SMOOTH))
    parts = [points[start : start + length] for start in range(0, len(points), length)]
    return [
        (math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part))
        for part in parts
    ]


def curve_picture(curve: Curve, title: str) -> str:
    """Return the SVG; a point's value shows when the pointer rests on it."""
    last = max([step for step, _ in (*curve.losses, *curve.ndcg)], default=1.0) or 1.0
    panels = [_loss_panel(curve, last, _TOP)]
    height = _TOP + _HEIGHT + _GAP
    if curve.ndcg:
        panels.append(_ndcg_panel(curve.ndcg, last, height))
        height += _HEIGHT + _GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11" role="img">',
            f"<title>{escape(title)}</title>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text x="8" y="18" font-size="13">{escape(title)}</text>',
            *panels,
            "</svg>",
            "",
        ]
    )


def _loss_panel(curve: Curve, last: float, top: int) -> str:
    values = [value for _, value in (*curve.losses, *curve.held_out_losses)]
    low, high = _range(values)
    frame = _Frame(top, last, low, high)
    return "\n".join(
        [
            frame.axes("loss: each step, their mean (line), held-out lists (dots)"),
            frame.dots(curve.losses, "#9db8d9", 1.2),
            frame.line(means(curve.losses), "#1f5fbf"),
            frame.dots(curve.held_out_losses, "#c0392b", 3),
        ]
    )


def _ndcg_panel(points: Points, last: float, top: int) -> str:
    frame = _Frame(top, last, *_range([value for _, value in points]))
    best = max(points, key=lambda point: point[1])
    return "\n".join(
        [
            frame.axes(f"held-out nDCG@10: best {best[1]:.4f} at step {best[0]:.0f}"),
            frame.line(points, "#c0392b"),
            frame.dots(points, "#c0392b", 3),
            frame.dots([best], "#000", 4),
        ]
    )


@dataclass(frozen=True, slots=True)
class _Frame:
    """A panel that begins ``top`` from above, with steps 0 to ``last`` and values low to high."""

    top: int
    last: float
    low: float
    high: float

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        step, value = point
        x = _LEFT + step / self.last * (_WIDTH - _LEFT - _RIGHT)
        y = self.top + (self.high - value) / (self.high - self.low) * _HEIGHT
        return round(x, 2), round(y, 2)

    def axes(self, caption: str) -> str:
        parts = [f'<text x="{_LEFT}" y="{self.top - 6}">{escape(caption)}</text>']
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            value = self.low + share * (self.high - self.low)
            _, y = self.place((0, value))
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>'
                f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.3g}</text>'
            )
            x, _ = self.place((share * self.last, self.low))
            parts.append(
                f'<text x="{x}" y="{self.top + _HEIGHT + 14}" text-anchor="middle">'
                f"{share * self.last:.0f}</text>"
            )
        return "\n".join(parts)

    def line(self, points: Points, colour: str) -> str:
        joined = " ".join(f"{x},{y}" for x, y in map(self.place, points))
        return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def dots(self, points: Points, colour: str, radius: float) -> str:
        found = []
        for step, value in points:
            x, y = self.place((step, value))
            found.append(
                f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{colour}">'
                f"<title>step {step:.0f}: {value:.5g}</title></circle>"
            )
        return "\n".join(found)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return limits around values that are never the same."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
