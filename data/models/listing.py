"""What is on this disk, for people who wonder where their space went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.models import adapter, folder, hub, store
from ranklens.data.models.registry import REGISTRY
from ranklens.data.models.resolve import resolve


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model that can be pulled or takes space here.

    `state` is `present`, `not pulled` or `damaged` for a named model, `other` for any other
    folder in the store, and `hub cache` for a hub model, whole or not. `size` is in bytes; `path`
    is None for what is not pulled; `licence` is empty where it is not known. `base` names the
    model that a trained one is made of; such a one is `not pulled` while its base is not.
    """

    name: str
    state: Literal["present", "not pulled", "damaged", "other", "hub cache"]
    path: Path | None
    size: int
    licence: str
    description: str
    base: str = ""


def installed() -> list[InstalledModel]:
    """List the named models, the other folders in the store, and the models in the hub cache."""
    models = [_named(name) for name in REGISTRY]
    models += [_trained(name, place) for name, place in adapter.shipped_adapters().items()]
    if store.models_folder().is_dir():
        models += [
            InstalledModel(path.name, "other", path, folder.size(path), "", "")
            for path in sorted(store.models_folder().iterdir())
            if path.is_dir() and not path.name.startswith(".") and path.name not in REGISTRY
        ]
    models += [
        InstalledModel(hub_id, "hub cache", path, size, "", "")
        for hub_id, path, size in hub.cached_models()
    ]
    return models


def _named(name: str) -> InstalledModel:
    model = REGISTRY[name]
    path = store.models_folder() / name
    if not path.exists():
        return InstalledModel(name, "not pulled", None, 0, model.licence, model.description)
    state: Literal["present", "damaged"] = "damaged" if store.fault(model) else "present"
    return InstalledModel(name, state, path, folder.size(path), model.licence, model.description)


def _trained(name: str, place: Path) -> InstalledModel:
    """Describe an adapter that comes with the package: what its training.json says, or its base."""
    size = folder.size(place)
    try:
        base = adapter.read_adapter(place).base
        said = adapter.read_manifest(place)
    except RanklensError as error:
        return InstalledModel(name, "damaged", place, size, "", str(error))
    below = REGISTRY.get(base)
    of_base = said.get("base")
    licence = said.get("licence") or (of_base.get("licence") if isinstance(of_base, dict) else "")
    licence = licence or (below.licence if below else "")
    description = said.get("description") or f"{base}, trained for its attention to be read"
    state: Literal["present", "not pulled", "damaged"] = "present"
    try:
        resolve(name)
    except InvalidInputError:
        state = "damaged"
    except RanklensError:
        state = "not pulled"
    return InstalledModel(name, state, place, size, str(licence), str(description), base)
