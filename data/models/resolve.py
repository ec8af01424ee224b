"""From what a user calls a model to the folder that holds it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ranklens.data.errors import MissingResourceError
from ranklens.data.models import folder, hub, store
from ranklens.data.models.registry import REGISTRY


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model on this disk: what it was called, its folder, and the identity of its weights.

    `revision` is the commit hash of a hub model, else `sha256:` and 12 digits.
    """

    spec: str
    path: Path
    revision: str


def pull(
    spec: str, *, revision: str | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Bring the model `spec` to this disk, unless it is here, and return its folder.

    `spec` is a local folder, a name in the registry or a hub id; `revision` a branch, tag or
    commit hash of the hub, or the revision that another kind of model has to have. `progress`
    is called with one line of text at every step.

    Raises `MissingResourceError` if the model is unknown or cannot be had,
    `MissingPrerequisiteError` if a package is missing, and `InvalidInputError` if what came or
    what is there is not a usable model.
    """
    if folder.local_folder(spec):
        return resolve(spec, revision=revision).path
    if spec in REGISTRY:
        model = REGISTRY[spec]
        _check_revision(spec, model.revision, revision)
        return store.pull(model, progress)
    if hub.is_hub_id(spec):
        return hub.pull(spec, revision, progress)
    raise _unknown(spec)


def resolve(spec: str, *, revision: str | None = None, download: bool = False) -> ResolvedModel:
    """Find the model `spec`: a local folder, a name in the registry, or a hub id, in that order.

    Nothing is downloaded unless `download` is true and the model is not here yet. Raises what
    `pull` raises, and `MissingResourceError` if the model would have to be pulled.
    """
    path = folder.local_folder(spec)
    if path:
        folder.check(path)
        found = folder.fingerprint(path)
        _check_revision(spec, found, revision)
        return ResolvedModel(spec, path, found)
    if spec in REGISTRY:
        model = REGISTRY[spec]
        _check_revision(spec, model.revision, revision)
        fault = store.fault(model)
        if fault and not download:
            raise MissingResourceError(f"the model {spec} {fault}: ranklens models pull {spec}")
        return ResolvedModel(spec, store.pull(model, None), model.revision)
    if hub.is_hub_id(spec):
        snapshot = hub.cached(spec, revision)
        if snapshot is None and not download:
            option = f" --revision {revision}" if revision else ""
            raise MissingResourceError(
                f"the model {spec} is not on this machine: ranklens models pull {spec}{option}"
            )
        snapshot = snapshot or hub.pull(spec, revision, None)
        return ResolvedModel(spec, snapshot, snapshot.name)
    raise _unknown(spec)


def weights_of(model: ResolvedModel, *, whole: bool) -> list[str]:
    """Return what tells a local folder's weights apart where its revision, a sample, may not.

    ``whole``: the SHA-256 of all of them; otherwise name, size and time of change of the files,
    which hold on this machine only. Empty for other models, whose revision says it all.
    """
    path = folder.local_folder(model.spec)
    if path is None:
        return []
    return [folder.weights_digest(path)] if whole else folder.weights_facts(path)


def _check_revision(spec: str, found: str, wanted: str | None) -> None:
    if wanted is not None and wanted != found:
        raise MissingResourceError(f"the model {spec} is here as {found}, not as {wanted}")


def _unknown(spec: str) -> MissingResourceError:
    close = difflib.get_close_matches(spec, REGISTRY, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return MissingResourceError(
        f"unknown model {spec!r}{hint}: give one of {', '.join(REGISTRY)}, a hub id (org/name), "
        "or the path of a folder with a config.json"
    )
