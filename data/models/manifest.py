"""The manifest of a stored model: what it is, where it came from, and every file it has."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from ranklens import __version__
from ranklens.data.models.registry import RegistryModel

MANIFEST = "ranklens-model.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a later look needs of a manifest: the wheel's sha256, and each file's size."""

    sha256: str
    sizes: dict[str, int]


def write(folder: Path, model: RegistryModel) -> None:
    """Write the manifest of the complete `folder`, and see all its files safe on disk."""
    from importlib import metadata

    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        files[name] = {"sha256": sha256, "size": path.stat().st_size}
    converted_by = metadata.version("transformers") if model.kind == "gguf" else None
    content = {
        "name": model.name,
        "source": {
            "distribution": model.distribution,
            "version": model.version,
            "sha256": model.sha256,
        },
        "files": files,
        "ranklens": __version__,
        "transformers": converted_by,
    }
    with (folder / MANIFEST).open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    # Weights are saved readable by their owner only; a store may be shared.
    mode = (folder / MANIFEST).stat().st_mode
    for name in files:
        (folder / name).chmod(mode)


def read(folder: Path) -> Manifest | None:
    """Return the manifest in `folder`, or None where there is none that can be read."""
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
        sizes = {name: about["size"] for name, about in content["files"].items()}
        return Manifest(content["source"]["sha256"], sizes)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def damage(folder: Path, model: RegistryModel) -> str | None:
    """Say why `folder` is not the whole of `model`, or return None; sizes only, no checksums."""
    manifest = read(folder)
    if manifest is None:
        return f"it has no {MANIFEST}"
    if manifest.sha256 != model.sha256:
        return f"it was not made from {model.requirement}"
    for name, size in manifest.sizes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is gone"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return None
