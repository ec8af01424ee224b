"""How much attention a model pays to each slot of a prompt, whatever stands in it; as JSON."""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import read_text, write_json
from ranklens.data.typed_json import parse_record

# Ends count as above the middle from so many of their standard errors.
_ERRORS = 2.0


@dataclass(frozen=True, slots=True)
class PositionProfile:
    """A model's attention by slot, measured once over shuffled lists.

    ``values``: for each slot, first in the prompt first, the attention that the tokens read pay
    to all tokens of the document there: a share of all their attention in [0, 1], mean over
    layers, heads and lists. ``errors``: the standard errors over lists, None for a single list.
    ``documents`` is the number of slots, ``lists`` that of lists, each read in ``shuffles``
    orders drawn by ``seed``. ``profile`` names the prompt and the tokens that were read. Raises
    InvalidInputError for fewer than two slots and for values that are no shares.
    """

    model: str
    revision: str | None
    profile: str
    dtype: str
    lists: int
    documents: int
    shuffles: int
    seed: int
    values: tuple[float, ...]
    errors: tuple[float | None, ...]
    data: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.documents < 2:
            raise InvalidInputError(f"documents must be at least 2: {self.documents}")
        for name in ("lists", "shuffles"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} must be at least 1: {getattr(self, name)}")
        for name in ("values", "errors"):
            if len(getattr(self, name)) != self.documents:
                raise InvalidInputError(
                    f"{name} must have one number for each of {self.documents} slots, "
                    f"got {len(getattr(self, name))}"
                )
        for slot, value in enumerate(self.values):
            if not 0 <= value <= 1:
                raise InvalidInputError(f"values[{slot}] is {value}, not a share in [0, 1]")
        for slot, error in enumerate(self.errors):
            if error is not None and not 0 <= error < math.inf:
                raise InvalidInputError(f"errors[{slot}] is {error}, not a standard error")

    @property
    def basin(self) -> bool | None:
        """Whether both ends stand out: the U shape. None where that cannot be told.

        The first and the last slot then have more than the mean of those between them, each by
        over two of its standard errors. It cannot be told from one list, or from two slots.
        """
        ends = [(self.values[slot], self.errors[slot]) for slot in (0, -1)]
        if self.documents < 3 or any(error is None for _, error in ends):
            return None
        middle = statistics.fmean(self.values[1:-1])
        return all(value - middle > _ERRORS * (error or 0.0) for value, error in ends)

    def over(self, documents: int) -> list[float]:
        """Return the values for a list of another length, interpolated linearly.

        First and last slot stay first and last, and those between are spread evenly: slot i
        of n stands where i / (n − 1) of the way through the measured slots is. A single
        document has the mean. Raises InvalidInputError for no documents.
        """
        if documents < 1:
            raise InvalidInputError(f"there is no slot for {documents} documents")
        if documents == 1:
            return [statistics.fmean(self.values)]
        last = self.documents - 1
        found = []
        for slot in range(documents):
            # In whole numbers, so that a list of the measured length has the measured values.
            before, rest = divmod(slot * last, documents - 1)
            value = self.values[before]
            if rest:
                value += (self.values[before + 1] - value) * rest / (documents - 1)
            found.append(value)
        return found


def load_position_profile(path: str | Path) -> PositionProfile:
    """Return a measured profile from its file.

    Raises MissingResourceError without the file, and InvalidInputError naming file and field for
    one that is not a position profile.
    """
    file = Path(path).expanduser()
    return parse_record(PositionProfile, read_text(file), str(file), "position profile")


def save_position_profile(profile: PositionProfile, path: str | Path) -> None:
    """Write a profile as JSON that ``load_position_profile`` reads back, whole or not at all."""
    write_json(Path(path), dataclasses.asdict(profile))
