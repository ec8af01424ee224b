"""JSON into frozen dataclasses: every field of the type it is declared with, nothing else.

A file that a user may have edited is refused with the field's name, never half understood.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar

from ranklens.data.errors import InvalidInputError

_Record = TypeVar("_Record")


def parse_record(kind: type[_Record], text: str, where: str, what: str) -> _Record:
    """Return the dataclass that a JSON object holds.

    Fields may be str, int, float, bool, None, Literal, tuples, dicts by name and dataclasses.
    ``where`` (a file, say) and ``what`` (a profile) are for messages. Raises InvalidInputError
    for text that is not JSON, a key that occurs twice, a field that is missing, unknown or of
    another type, and for what the dataclass itself refuses.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where}:{error.lineno}: not JSON ({error.msg})") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or lists thousands deep.
        raise InvalidInputError(f"{where}: no {what} ({error})") from None
    try:
        record = _record(kind, value, "", f"the {what}")
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    assert isinstance(record, kind)
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, refusing a key that occurs twice; json itself takes the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(f"key {twice!r} occurs twice in one JSON object")
    return value


def _build(kind: Any, value: Any, at: str) -> Any:
    """Make a value of a field's type out of JSON, refusing everything that does not fit."""
    if isinstance(kind, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        (kind,) = (option for option in options if option is not type(None))
        return _build(kind, value, at)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, at, at)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise InvalidInputError(
                f"{at} is {value!r}; it must be {' or '.join(map(repr, arguments))}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InvalidInputError(f"{at} must be a JSON list, got {value!r}")
        if arguments[-1] is not ... and len(value) != len(arguments):
            raise InvalidInputError(f"{at} must have {len(arguments)} values, got {value!r}")
        return tuple(_build(arguments[0], one, f"{at}[{i}]") for i, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidInputError(f"{at} must be a JSON object, got {value!r}")
        return {name: _build(arguments[1], one, _join(at, name)) for name, one in value.items()}
    if type(value) is int and kind is float:
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise InvalidInputError(f"{at} must be {kind.__name__}, got {value!r}")
    return value


def _record(kind: Any, value: Any, at: str, name: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{name} must be a JSON object, got {value!r}")
    hints = typing.get_type_hints(kind)
    needed = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for problem, names in (
        ("unknown field", sorted(set(value) - set(hints))),
        ("missing field", sorted(needed - set(value))),
    ):
        if names:
            raise InvalidInputError(
                f"{problem} {_join(at, names[0])!r}; the fields here are {', '.join(hints)}"
            )
    return kind(**{key: _build(hints[key], one, _join(at, key)) for key, one in value.items()})


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
