"""A folder that transformers can load: what it must hold, and which weights it holds."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import sha256
from ranklens.data.models import adapter

CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TEXTS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_EDGE = 1 << 20


def local_folder(spec: str) -> Path | None:
    """Return the folder that `spec` means, or None if `spec` is a name or a hub id.

    A path is what is absolute, starts with `./`, `../` or `~`, or holds a config.json or an
    adapter_config.json.
    """
    path = Path(spec)
    # A ~ of nobody stays as it is, and is not found later.
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    marked = spec in {".", ".."} or spec.startswith(("./", "../", ".\\", "..\\", "~"))
    holds = spec and any((path / name).is_file() for name in (CONFIG, adapter.CONFIG))
    if marked or path.is_absolute() or holds:
        return path.absolute()
    return None


def problem(path: Path) -> str | None:
    """Say what `path` lacks to be loaded as a model, or return None."""
    if not (path / CONFIG).is_file():
        return f"has no {CONFIG}"
    if (path / _INDEX).is_file():
        shards = set(json.loads((path / _INDEX).read_text("utf-8"))["weight_map"].values())
        lacking = sorted(name for name in shards if not (path / name).is_file())
        return f"lacks {', '.join(lacking)}, which {_INDEX} names" if lacking else None
    return None if weight_files(path) else f"has no weights ({' or '.join(_WEIGHTS)})"


def check(path: Path) -> None:
    """Check that the user's folder `path` holds a model.

    Raises `MissingResourceError` if there is no such folder, and `InvalidInputError` saying what
    it lacks.
    """
    if not path.is_dir():
        raise MissingResourceError(f"there is no model folder {path}")
    lacks = problem(path)
    if lacks:
        raise InvalidInputError(f"the model folder {path} {lacks}")


def weight_files(path: Path) -> list[Path]:
    """List the weight files of a model folder, by name: safetensors, else torch's own."""
    for pattern in _WEIGHTS:
        found = sorted(path.glob(pattern))
        if found:
            return found
    return []


def fingerprint(path: Path) -> str:
    """Return the identity of the model in a folder, as `sha256:` and 12 digits.

    It covers config.json, tokenizer and chat template, and the name, size, first and last MiB
    of every weight file: enough to notice another model, another step of training it whole or
    another prompt, at the same cost for any size. Models that differ in the middle of a file
    only (weights merged into some layers) have one fingerprint; see ``weights_digest``.
    """
    digest = hashlib.sha256((path / CONFIG).read_bytes())
    for name in _TEXTS:
        if (path / name).is_file():
            digest.update(f"\0{name}\0".encode() + (path / name).read_bytes())
    for file in weight_files(path):
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            digest.update(f"\0{file.name}\0{size}\0".encode())
            for start in (0, max(0, size - _EDGE)):
                stream.seek(start)
                digest.update(stream.read(_EDGE))
    return f"sha256:{digest.hexdigest()[:12]}"


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of all bytes of the weight files in a folder."""
    return _digest(tuple((file, *_facts(file)) for file in weight_files(path)))


def weights_facts(path: Path) -> list[str]:
    """Return name, size and time of change of the weight files in a folder."""
    facts = ((file, *_facts(file)) for file in weight_files(path))
    return [f"{file.absolute()} {size} {changed}" for file, size, changed in facts]


def _facts(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


@functools.cache
def _digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    return hashlib.sha256(" ".join(sha256(file) for file, _, _ in files).encode()).hexdigest()


def size(path: Path) -> int:
    """Return the bytes that the files below `path` take."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
