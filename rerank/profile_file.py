"""Profiles as JSON: shipped with the package by name, or a file of the user's."""

from __future__ import annotations

import difflib
import json
from importlib import resources
from pathlib import Path

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import write_json
from ranklens.data.models.adapter import PROFILE
from ranklens.data.models.folder import local_folder
from ranklens.data.models.resolve import adapter_folder
from ranklens.data.typed_json import parse_record
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
    """Return the profile a model is used with when none is named: its own, or ICR.

    That is the profile.json of a folder or a trained model, or the shipped one of a known name.
    """
    folder = adapter_folder(model) or local_folder(model)
    if folder is not None and (folder / PROFILE).is_file():
        return str(folder / PROFILE)
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
    return parse_record(Profile, text, where, "profile")
