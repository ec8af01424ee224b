"""From what a user calls a model to the folder that holds it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ranklens.data.errors import InvalidInputError, MissingResourceError, RanklensError
from ranklens.data.models import adapter, folder, hub, store
from ranklens.data.models.registry import REGISTRY


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model on this disk: what it was called, its folder, and the identity of its weights.

    `revision` is the commit hash of a hub model, else `sha256:` and 12 digits. A trained model
    is its `base` with the `adapter` of a folder merged into it: `path` is the base's then, and
    `revision` the base's, a plus, and the adapter's `sha256:` and 12 digits.
    """

    spec: str
    path: Path
    revision: str
    adapter: Path | None = None
    base: ResolvedModel | None = None

    @property
    def adapters(self) -> tuple[Path, ...]:
        """The folders of the adapters to merge into what `path` holds, in this order."""
        below = () if self.base is None else self.base.adapters
        return below if self.adapter is None else (*below, self.adapter)


def pull(
    spec: str, *, revision: str | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """Bring the model `spec` to this disk, unless it is here, and return its folder.

    `spec` is a local folder, a name in the registry or a hub id; `revision` a branch, tag or
    commit hash of the hub, or the revision that another kind of model has to have. `progress`
    is called with one line of text at every step. Of a trained model the base is brought, and
    the adapter's folder returned.

    Raises `MissingResourceError` if the model is unknown or cannot be had,
    `MissingPrerequisiteError` if a package is missing, and `InvalidInputError` if what came or
    what is there is not a usable model.
    """
    if place := adapter_folder(spec):
        *_, lowest = _chain(place)
        with _naming(lowest):
            pull(lowest.base, revision=lowest.base_revision, progress=progress)
        resolve(spec, revision=revision)
        return place
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
    if place := adapter_folder(spec):
        return _adapted(spec, place, revision, download)
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
    which hold on this machine only. Empty for other models, whose revision says it all. Of a
    trained model it is the base's: its revision covers all of the adapter.
    """
    if model.base is not None:
        return weights_of(model.base, whole=whole)
    path = folder.local_folder(model.spec)
    if path is None:
        return []
    return [folder.weights_digest(path)] if whole else folder.weights_facts(path)


def adapter_folder(spec: str) -> Path | None:
    """Return the folder of the adapter that `spec` means, None where it is a whole model."""
    path = folder.local_folder(spec)
    if path is not None:
        return path if (path / adapter.CONFIG).is_file() else None
    return None if spec in REGISTRY else adapter.shipped_adapters().get(spec)


def check_whole(spec: str) -> None:
    """Raise `InvalidInputError` for a trained model, where only attention is read of one.

    An adapter changes the layers up to the one whose attention is read; what the others make of
    it means nothing.
    """
    if place := adapter_folder(spec):
        raise InvalidInputError(
            f"{spec} is {adapter.read_adapter(place).base} trained for its attention to be read: "
            f"use it as attention:{spec}, or another model here"
        )


def _adapted(spec: str, place: Path, revision: str | None, download: bool) -> ResolvedModel:
    chain = _chain(place)
    *_, lowest = chain
    with _naming(lowest):
        model = resolve(lowest.base, revision=lowest.base_revision, download=download)
    asked = [(spec, revision), *((change.base, change.base_revision) for change in chain)]
    for change, (called, wanted) in reversed(list(zip(chain, asked, strict=False))):
        found = f"{model.revision}+{change.digest}"
        _check_revision(called, found, wanted)
        model = ResolvedModel(called, model.path, found, change.folder, model)
    return model


def _chain(place: Path) -> list[adapter.Adapter]:
    """Return the adapter of a folder, the one it changes if it is one, and so on."""
    chain: list[adapter.Adapter] = []
    below: Path | None = place
    while below is not None:
        if any(below.samefile(change.folder) for change in chain):
            raise InvalidInputError(f"the adapter {place} changes a model that is made of itself")
        chain.append(adapter.read_adapter(below))
        below = adapter_folder(chain[-1].base)
    return chain


@contextmanager
def _naming(change: adapter.Adapter) -> Iterator[None]:
    """Say of an error in finding the base which adapter asked for it."""
    try:
        yield
    except RanklensError as error:
        raise type(error)(f"{error} (the base model of the adapter {change.folder})") from error


def _check_revision(spec: str, found: str, wanted: str | None) -> None:
    if wanted is not None and wanted != found:
        raise MissingResourceError(f"the model {spec} is here as {found}, not as {wanted}")


def _unknown(spec: str) -> MissingResourceError:
    names = [*REGISTRY, *adapter.shipped_adapters()]
    close = difflib.get_close_matches(spec, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return MissingResourceError(
        f"unknown model {spec!r}{hint}: give one of {', '.join(names)}, a hub id (org/name), "
        "or the path of a folder with a config.json or adapter_config.json"
    )
