"""What all documents begin with, computed once.

Blocks at the same positions that begin with the same tokens (a marker such as "Paragraph:") have
the same states there: a token sees the prefix and its block before it. These rows move behind the
prefix for the computing; whoever reads keys has them in every block again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.rerank.prompt import PromptLayout

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Computed:
    """The shared tokens of a layout as they are computed, as in ``PromptLayout``.

    ``source``: for each shared token of the layout the row that stands for it; None where every
    token has its own.
    """

    ids: Sequence[int]
    positions: Sequence[int]
    blocks: Sequence[Range]
    source: Sequence[int] | None = None

    @classmethod
    def of(cls, layout: PromptLayout, *, apart: bool = False) -> Computed:
        """Take a layout's shared tokens; ``apart`` leaves every token its own row."""
        positions = layout.positions or range(len(layout.shared))
        common = 0 if apart else _common(layout, positions)
        if not common:
            return cls(layout.shared, positions, layout.blocks)
        prefix = layout.blocks[0][0]
        taken = [*range(prefix + common)]
        blocks = []
        source = [*range(prefix)]
        for start, end in layout.blocks:
            blocks.append((len(taken), len(taken) + end - start - common))
            taken += range(start + common, end)
            source += [*range(prefix, prefix + common), *range(*blocks[-1])]
        return cls(
            [layout.shared[token] for token in taken],
            [positions[token] for token in taken],
            blocks,
            source,
        )


def common_opening(rows: Sequence[Sequence[object]]) -> int:
    """Return with how many equal elements all ``rows`` begin."""
    for number, column in enumerate(zip(*rows, strict=False)):
        if any(element != column[0] for element in column):
            return number
    return min(map(len, rows), default=0)


def _common(layout: PromptLayout, positions: Sequence[int]) -> int:
    """Return how many rows all blocks have in common; every block keeps one at least."""
    if len(layout.blocks) < 2:
        return 0
    starts = [range(start, end - 1) for start, end in layout.blocks]
    return common_opening(
        [[(layout.shared[token], positions[token]) for token in tokens] for tokens in starts]
    )
