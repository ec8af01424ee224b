"""Adapters: folders with weights that change another model, in peft's format.

What an adapter is made for stands in its adapter_config.json; its weights are merged by whoever
loads the model (``ranklens.rerank.lora``). Those that come with the package lie in ``trained``,
one folder each, and go by the folder's name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import read_text, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PROFILE = "profile.json"
MANIFEST = "training.json"
SHIPPED = Path(__file__).parent / "trained"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: its folder, the model it changes, and the identity of the change.

    ``base`` is that model's name, hub id or folder and ``base_revision`` the revision it has to
    have, None where the adapter does not say. ``digest`` is ``sha256:`` and 12 digits, over
    configuration and weights.
    """

    folder: Path
    base: str
    base_revision: str | None
    digest: str


def shipped_adapters() -> dict[str, Path]:
    """Return the folders of the adapters that come with the package, by name."""
    if not SHIPPED.is_dir():
        return {}
    found = (path for path in SHIPPED.iterdir() if (path / CONFIG).is_file())
    return {path.name: path for path in sorted(found)}


def read_settings(folder: Path) -> dict[str, Any]:
    """Return what an adapter's configuration says; InvalidInputError for no JSON object."""
    return _read_object(folder / CONFIG)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what the training.json of a trained model says, {} where there is none."""
    path = folder / MANIFEST
    return _read_object(path) if path.is_file() else {}


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in a folder.

    Raises InvalidInputError for one without weights, or that does not name its base model.
    """
    settings = read_settings(folder)
    base, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(base, str) or not base.strip():
        raise InvalidInputError(
            f"{folder / CONFIG}: base_model_name_or_path is {shown(base)}; an adapter names the "
            "model that it changes"
        )
    if not isinstance(revision, str | None):
        raise InvalidInputError(f"{folder / CONFIG}: revision is {shown(revision)}, not a text")
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise InvalidInputError(f"the adapter {folder} has no {WEIGHTS}")
    digest = hashlib.sha256((folder / CONFIG).read_bytes() + b"\0" + weights.read_bytes())
    return Adapter(folder, base, revision or None, f"sha256:{digest.hexdigest()[:12]}")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"{path}: not JSON that can be read ({error})") from None
    if not isinstance(settings, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, got {shown(settings)}")
    return settings
