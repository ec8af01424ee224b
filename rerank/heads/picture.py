"""A model's heads as a picture: layers downwards, heads across, darker is higher."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from xml.sax.saxutils import escape

_CELL = 14
_LEFT, _TOP = 40, 56


def head_map(
    scores: Mapping[tuple[int, int], float], chosen: Collection[tuple[int, int]], title: str
) -> str:
    """Return an SVG of scores by (layer, head); the chosen heads are framed.

    Positive values are blue, negative ones red, by their share of the largest; a cell's value
    shows when the pointer rests on it.
    """
    layers = 1 + max(layer for layer, _ in scores)
    heads = 1 + max(head for _, head in scores)
    largest = max(map(abs, scores.values())) or 1.0
    width, height = _LEFT + heads * _CELL + 12, _TOP + layers * _CELL + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 320)}" height="{height}" '
        'font-family="sans-serif" font-size="9">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="8" y="16" font-size="12">{escape(title)}</text>',
        f'<text x="8" y="32">layers downwards, heads across; framed: chosen; '
        f"largest {largest:.3g}</text>",
    ]
    parts += [
        _label(_LEFT + (head + 0.5) * _CELL, _TOP - 4, "middle", head) for head in range(heads)
    ]
    parts += [
        _label(_LEFT - 6, _TOP + (layer + 0.75) * _CELL, "end", layer) for layer in range(layers)
    ]
    for (layer, head), value in sorted(scores.items()):
        colour = "#1f5fbf" if value >= 0 else "#c0392b"
        frame = ' stroke="#000" stroke-width="1.5"' if (layer, head) in chosen else ""
        parts.append(
            f'<rect x="{_LEFT + head * _CELL + 1}" y="{_TOP + layer * _CELL + 1}" '
            f'width="{_CELL - 2}" height="{_CELL - 2}" fill="{colour}" '
            f'fill-opacity="{abs(value) / largest:.3f}"{frame}>'
            f"<title>{layer}-{head}: {value:.5g}</title></rect>"
        )
    return "\n".join([*parts, "</svg>", ""])


def _label(x: float, y: float, anchor: str, number: int) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{number}</text>'
