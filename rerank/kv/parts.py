"""A layout in blocks taken apart, so that documents can be computed by themselves."""

from __future__ import annotations

import dataclasses
import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ranklens.rerank.prompt import PromptLayout

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Parts:
    """The prefix and the blocks of a layout.

    ``names``: the hash of the prefix, unless it is empty, and of each block as they stand in the
    prompt. ``blocks``: the token ids by name, the prefix's too.
    """

    prefix: tuple[int, ...]
    names: tuple[str, ...]
    blocks: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, layout: PromptLayout) -> Parts:
        """Take a layout in blocks apart."""
        start = layout.blocks[0][0] if layout.blocks else len(layout.shared)
        prefix = tuple(layout.shared[:start])
        named = [(prefix_name(prefix), prefix)] if prefix else []
        for first, end in layout.blocks:
            ids = tuple(layout.shared[first:end])
            named.append((_name(ids, "document"), ids))
        return cls(prefix, tuple(name for name, _ in named), dict(named))

    def side_by_side(self, names: Sequence[str], layout: PromptLayout) -> PromptLayout:
        """Return a layout of the prefix and some blocks, at shared positions.

        Its spans are those of the whole layout's documents, empty for those that are not in it.
        """
        shared, positions = list(self.prefix), list(range(len(self.prefix)))
        starts, blocks = {}, []
        for name in names:
            ids = self.blocks[name]
            starts[name] = len(shared)
            blocks.append((len(shared), len(shared) + len(ids)))
            shared += ids
            positions += range(len(self.prefix), len(self.prefix) + len(ids))
        return dataclasses.replace(
            layout,
            shared=shared,
            spans=tuple(self._moved(span, layout, starts) for span in layout.spans),
            blocks=tuple(blocks),
            positions=tuple(positions),
            places=None,
            tail_start=max(positions, default=-1) + 1,
        )

    def _moved(self, span: Range, layout: PromptLayout, starts: Mapping[str, int]) -> Range:
        """Return where a document's span lies when its block stands at one of ``starts``."""
        inside = bisect_right(layout.blocks, span[0], key=lambda block: block[0]) - 1
        if inside < 0:
            return (0, 0)
        start = starts.get(self.names[inside + bool(self.prefix)])
        if start is None:
            return (0, 0)
        by = start - layout.blocks[inside][0]
        return (span[0] + by, span[1] + by)


def narrowed(layout: PromptLayout, kept: Sequence[int]) -> PromptLayout:
    """Return a layout with some of its shared tokens, which keep their positions."""

    def within(ranges: Sequence[Range]) -> tuple[Range, ...]:
        return tuple((bisect_left(kept, start), bisect_left(kept, end)) for start, end in ranges)

    def some(of: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if of is None else tuple(of[place] for place in kept)

    return dataclasses.replace(
        layout,
        shared=[layout.shared[place] for place in kept],
        spans=within(layout.spans),
        blocks=within(layout.blocks),
        positions=some(layout.positions),
        places=some(layout.places),
    )


def prefix_name(ids: Sequence[int]) -> str:
    """Return the name of the entry of a prefix."""
    return _name(ids, "prefix")


def _name(ids: Sequence[int], kind: str) -> str:
    return hashlib.sha256(f"{kind} {' '.join(map(str, ids))}".encode()).hexdigest()[:40]
