"""Profiles: an attention reranking method as data.

Published methods differ in what is prompted, which attention is read, how it is calibrated
and how token scores become document scores. A profile states these choices; the engine has no
method classes. Profiles are JSON, shipped with the package or written by the user; loading
refuses fields it does not know.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from ranklens.data.errors import InvalidInputError, MissingResourceError


@dataclass(frozen=True, slots=True)
class PromptChoice:
    """The words around documents and query; the chat frame comes from the model family.

    ``marker`` holds ``{number}`` and stands, inside the document's span, before its text.
    ``document_words`` keeps that many words of a document's text, split on the single space
    (None keeps all). ``order`` says where the best candidate of the first stage goes.
    """

    introduction: str
    marker: str
    instruction: str
    query_label: str
    title_separator: str
    document_words: int | None
    order: Literal["best-last", "best-first"]

    def __post_init__(self) -> None:
        if self.marker.count("{number}") != 1:
            raise InvalidInputError(f"prompt.marker {self.marker!r} must hold {{number}} once")
        if self.document_words is not None and self.document_words < 1:
            raise InvalidInputError(
                f"prompt.document_words must be at least 1: {self.document_words}"
            )
        if not self.instruction.strip():
            raise InvalidInputError("prompt.instruction must not be empty: its tokens are read")


@dataclass(frozen=True, slots=True)
class SignalChoice:
    """Which attention is read: query rows, layers, heads (all with weight 1)."""

    rows: Literal["instruction-to-end"]
    layers: Literal["all"]
    heads: Literal["all"]


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """What is subtracted: nothing, or the attention of a content-free query."""

    method: Literal["none", "null-query"]
    null: str

    def __post_init__(self) -> None:
        if self.method == "null-query" and not self.null.strip():
            raise InvalidInputError("calibration.null must not be empty for method null-query")


@dataclass(frozen=True, slots=True)
class PoolingChoice:
    """How a document's calibrated tokens become its score.

    ``drop_below_stds`` leaves out tokens that are not above mean − that many standard
    deviations of their document (None leaves out none).
    """

    drop_below_stds: float | None
    reduce: Literal["sum"]


@dataclass(frozen=True, slots=True)
class Profile:
    """A complete method; see the module."""

    name: str
    source: str
    prompt: PromptChoice
    signal: SignalChoice
    calibration: CalibrationChoice
    pooling: PoolingChoice

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as what its JSON file holds."""
        return dataclasses.asdict(self)


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with the package."""
    return sorted(
        entry.name.removesuffix(".json")
        for entry in (resources.files("ranklens.rerank") / "profiles").iterdir()
        if entry.name.endswith(".json")
    )


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


def _parse(text: str, where: str) -> Profile:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where}:{error.lineno}: not JSON ({error.msg})") from None
    try:
        profile = _build(Profile, value, "")
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from None
    assert isinstance(profile, Profile)
    return profile


def _build(kind: Any, value: Any, at: str) -> Any:
    """Make a value of a field's type out of JSON, refusing everything that does not fit."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InvalidInputError(f"{at or 'the profile'} must be a JSON object, got {value!r}")
        hints = typing.get_type_hints(kind)
        for problem, names in (
            ("unknown field", sorted(set(value) - set(hints))),
            ("missing field", sorted(set(hints) - set(value))),
        ):
            if names:
                raise InvalidInputError(
                    f"{problem} {_join(at, names[0])!r}; the fields here are {', '.join(hints)}"
                )
        return kind(**{name: _build(hints[name], value[name], _join(at, name)) for name in hints})
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise InvalidInputError(
                f"{at} is {value!r}; it must be {' or '.join(map(repr, choices))}"
            )
        return value
    allowed = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) is int and float in allowed:
        value = float(value)
    if type(value) not in allowed:
        expected = " or ".join("null" if a is type(None) else a.__name__ for a in allowed)
        raise InvalidInputError(f"{at} must be {expected}, got {value!r}")
    return value


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
