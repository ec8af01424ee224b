"""Profiles as JSON: shipped with the package by name, or a file of the user's."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import write_json
from ranklens.rerank.profile import Profile

# Models that were trained for a method; their prompt and layers mean little to others.
_TRAINED = {"quicktensor/blockrank-msmarco-mistral-7b": "blockrank"}


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(
        entry.name.removesuffix(".json")
        for entry in (resources.files("ranklens.rerank") / "profiles").iterdir()
        if entry.name.endswith(".json")
    )


def default_profile(model: str) -> str:
    """Return the profile a model is used with when none is named: its own, or ICR."""
    own = _TRAINED.get(model, f"{model}-learned")
    return own if own in shipped_profiles() else "icr"


def load_profile(spec: str | Path | Profile) -> Profile:
    """Return a profile by shipped name or JSON file; a Profile is returned as it is.

    Raises MissingResourceError for an unknown name (with the known ones) or a missing file,
    InvalidInputError naming file and field for a file that is not a profile.
    """
    if isinstance(spec, Profile):
        return spec
    if isinstance(spec, str) and spec in shipped_profiles():
        entry = resources.files("ranklens.rerank") / "profiles" / f"{spec}.json"
        return _parse(entry.read_text(encoding="utf-8"), f"profile {spec}")
    path = Path(spec).expanduser()
    if not path.is_file():
        names = shipped_profiles()
        close = difflib.get_close_matches(str(spec), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise MissingResourceError(
            f"no profile {str(spec)!r}: neither a shipped one ({', '.join(names)}) nor a file{hint}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidInputError(f"{path}: not UTF-8") from None
    return _parse(text, str(path))


def profile_of(value: object, where: str) -> Profile:
    """Return the profile that ``Profile.to_dict`` gave; InvalidInputError begins with ``where``."""
    return _parse(json.dumps(value), where)


def save_profile(profile: Profile, path: str | Path) -> None:
    """Write a profile as JSON that ``load_profile`` reads back, atomically."""
    write_json(Path(path), profile.to_dict())


def _parse(text: str, where: str) -> Profile:
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where}:{error.lineno}: not JSON ({error.msg})") from None
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        # An integer of thousands of digits, or lists thousands deep.
        raise InvalidInputError(f"{where}: no profile ({error})") from None
    try:
        profile = _build(Profile, value, "")
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    assert isinstance(profile, Profile)
    return profile


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
        return _record(kind, value, at)
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


def _record(kind: Any, value: Any, at: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{at or 'the profile'} must be a JSON object, got {value!r}")
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
    return kind(**{name: _build(hints[name], one, _join(at, name)) for name, one in value.items()})


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
