"""Reference rows: published figures, how their runs are made, and how far off ours may be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.extras import require
from ranklens.data.files import read_text, shown

KINDS = ("retrieval", "candidates")
# The tolerance is a decimal number, differences are binary ones.
_ROUNDING = 1e-9
_TYPES = {str: "text", int: "an integer", float: "a number", bool: "true or false", dict: "a table"}


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """Where a test set is found: its ir_datasets id, the name of its folder, or both.

    ``queries`` and ``documents`` are how many judged queries and documents it has, where known.
    """

    name: str
    irds: str | None = None
    folder: str | None = None
    queries: int | None = None
    documents: int | None = None


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """One published result: measure → value, within ``tolerance``, and how to come by it.

    Of the kind ``retrieval`` it is a search with ``retriever`` and its ``options``; of the kind
    ``candidates`` it is a run that the collection brings along under the name ``candidates``.
    """

    name: str
    kind: str
    collection: ReferenceSet
    expected: Mapping[str, float]
    tolerance: float
    source: str
    retriever: str = ""
    candidates: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    remove_query: bool = False


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A measured value beside the published one."""

    measure: str
    measured: float
    expected: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Measured minus expected."""
        return self.measured - self.expected

    @property
    def ok(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= self.tolerance + _ROUNDING


def reproduced(row: ReferenceRow, measured: Mapping[str, float]) -> list[Reproduced]:
    """Return a row's measures beside what was measured, which must have each of them."""
    return [
        Reproduced(measure, measured[measure], value, row.tolerance)
        for measure, value in row.expected.items()
    ]


def read_reference(path: Path) -> list[ReferenceRow]:
    """Read reference rows from YAML with the tables ``sets`` and ``conditions``.

    A row is a set of a condition and is named ``condition/set``. Raises
    MissingPrerequisiteError without PyYAML, MissingResourceError without the file, and
    InvalidInputError that names file, row and key for what cannot be used.
    """
    require("irds", "yaml")
    import yaml

    if not path.is_file():
        raise MissingResourceError(
            f"no reference rows at {path}: benchmarks/reference.yaml of a checkout of ranklens "
            "has them; go there, or give --rows FILE"
        )
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except (ValueError, RecursionError) as error:
        # A date that no calendar has, brackets in thousands of brackets.
        raise InvalidInputError(f"{path}: not YAML that can be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise InvalidInputError(f"{path}{line}: not YAML ({what})") from None
    top = _Table(str(path), content, {"sets", "conditions"})
    sets = {
        name: _set(name, _Table(f"{path}: set {name!r}", value, _SET_KEYS))
        for name, value in top.get("sets", dict).items()
    }
    rows: dict[str, ReferenceRow] = {}
    for number, value in enumerate(top.get("conditions", list), start=1):
        condition = _Table(f"{path}: condition {number}", value, _CONDITION_KEYS)
        for row in _rows(path, condition, sets):
            if row.name in rows:
                raise InvalidInputError(f"{path}: there are two rows {row.name!r}")
            rows[row.name] = row
    if not rows:
        raise InvalidInputError(f"{path}: there are no rows")
    return list(rows.values())


_SET_KEYS = {"irds", "folder", "queries", "documents"}
_CONDITION_KEYS = {
    "name", "kind", "retriever", "candidates", "options", "remove_query", "tolerance", "source",
    "rows",
}  # fmt: skip


class _Table:
    """A mapping of a YAML file, and where it stands for errors; without ``keys`` any are right."""

    def __init__(self, where: str, content: object, keys: set[str] | None) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise InvalidInputError(f"{where}: expected a table, got {shown(content)}")
        self._content = content
        unknown = [] if keys is None else [key for key in content if key not in keys]
        if unknown:
            known = ", ".join(sorted(keys or ()))
            raise InvalidInputError(f"{where}: unknown key {unknown[0]!r}; the keys are {known}")

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def get(self, key: str, kind: type, default: Any = None) -> Any:
        """Return a value of this kind; without a default it must be there."""
        value = self._content.get(key, default)
        if value is None and key not in self._content:
            raise InvalidInputError(f"{self.where}: the key {key!r} is missing")
        # A bool is an int to Python; an integer is a number to everyone.
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            what = _TYPES.get(kind, "a list")
            raise InvalidInputError(f"{self.where}: {key!r} must be {what}, got {shown(value)}")
        return value

    def may(self, key: str, kind: type) -> Any:
        """Return a value of this kind, or None where there is none."""
        return self.get(key, kind) if key in self._content else None


def _set(name: str, table: _Table) -> ReferenceSet:
    found = ReferenceSet(
        name,
        table.may("irds", str),
        table.may("folder", str),
        table.may("queries", int),
        table.may("documents", int),
    )
    if found.irds is None and found.folder is None:
        raise InvalidInputError(f"{table.where}: it needs the key 'irds' or 'folder'")
    return found


def _rows(
    path: Path, condition: _Table, sets: Mapping[str, ReferenceSet]
) -> Iterator[ReferenceRow]:
    name = condition.get("name", str)
    condition.where = f"{path}: condition {name!r}"
    kind = condition.get("kind", str)
    if kind not in KINDS:
        raise InvalidInputError(
            f"{condition.where}: 'kind' is {kind!r}; choose {' or '.join(KINDS)}"
        )
    searched = kind == "retrieval"
    for key in ("candidates",) if searched else ("retriever", "options", "remove_query"):
        if key in condition:
            raise InvalidInputError(f"{condition.where}: {key!r} says nothing to the kind {kind!r}")
    tolerance = condition.get("tolerance", float)
    if not 0 <= tolerance < math.inf:
        raise InvalidInputError(f"{condition.where}: 'tolerance' must be at least 0 and finite")
    options = condition.get("options", dict, default={})
    for option, value in options.items():
        # What else YAML knows, such as dates, no option takes and no JSON shows.
        number = isinstance(value, float) and math.isfinite(value)
        if not isinstance(option, str) or not (number or isinstance(value, str | int | None)):
            raise InvalidInputError(
                f"{condition.where}: an option is a name with text, a finite number, true or "
                f"false, got {shown({option: value})}"
            )
    for set_name, values in condition.get("rows", dict).items():
        row_name = f"{name}/{set_name}"
        if set_name not in sets:
            raise InvalidInputError(f"{path}: row {row_name!r}: there is no set {set_name!r}")
        table = _Table(f"{path}: row {row_name!r}", values, None)
        if not values:
            raise InvalidInputError(f"{table.where}: no measure is expected")
        for measure in values:
            if not isinstance(measure, str) or not math.isfinite(table.get(measure, float)):
                raise InvalidInputError(
                    f"{table.where}: expected a measure and its finite value, got "
                    f"{shown({measure: values[measure]})}"
                )
        yield ReferenceRow(
            name=row_name,
            kind=kind,
            collection=sets[set_name],
            expected={measure: float(table.get(measure, float)) for measure in values},
            tolerance=float(tolerance),
            source=condition.get("source", str),
            retriever=condition.get("retriever", str) if searched else "",
            candidates="" if searched else condition.get("candidates", str),
            options=options,
            remove_query=condition.get("remove_query", bool, default=False),
        )
