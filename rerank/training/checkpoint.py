"""The folder of a training run: it survives being killed at any moment, and resumes.

    settings.json            what the run depends on
    checkpoint.safetensors   all that training goes on from, as of one step
    curve.jsonl              a line for every step, and for every validation
    curve.svg                the same to look at
    model/                   what was trained, at the end

A checkpoint is one file, written beside the last one, brought to the disk and renamed: a kill
leaves the old one or the new one. It knows how many bytes of curve.jsonl belong to it; what a
killed run wrote behind them is cut off. Nothing in the folder depends on time, place or
interruptions.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.work_folder import begin_settings, open_work_folder

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.training.settings import Settings

_SETTINGS, _CHECKPOINT, _CURVE = "settings.json", "checkpoint.safetensors", "curve.jsonl"
_FILES = (_SETTINGS, _CHECKPOINT, _CURVE, "curve.svg", "model")
_STATE = "state"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and the rest as JSON; ``curve_bytes`` of the curve belong to it."""

    tensors: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]
    curve_bytes: int


class TrainingFolder:
    """An opened folder; use ``open_training_folder``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def curve_file(self) -> Path:
        """One JSON object a line: steps and validations as they came."""
        return self.path / _CURVE

    @property
    def model(self) -> Path:
        """Where the trained model is written."""
        return self.path / "model"

    def begin(self, settings: Settings) -> bool:
        """Write the settings, or check them against those of an earlier start.

        Returns whether there was one. Raises OtherSettingsError naming what differs.
        """
        return begin_settings(
            self.path / _SETTINGS, settings.to_dict(), "a training run", "Give another --out"
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint in the place of the last one; it is on the disk when this returns."""
        from safetensors.torch import save_file

        with self.curve_file.open("ab") as stream:
            os.fsync(stream.fileno())
        state = {**checkpoint.state, "curve_bytes": checkpoint.curve_bytes}
        path = self.path / _CHECKPOINT
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            save_file(
                {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()},
                temporary,
                metadata={_STATE: json.dumps(state, sort_keys=True, allow_nan=False)},
            )
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint, tensors on the CPU, and cut the curve to what is its own.

        None where there is none yet; the curve is then empty. Raises InvalidInputError for a
        checkpoint that cannot be read and for a curve that is shorter than it was.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / _CHECKPOINT
        if not path.is_file():
            self.curve_file.write_bytes(b"")
            return None
        try:
            with safe_open(path, framework="pt", device="cpu") as stored:
                state = json.loads((stored.metadata() or {})[_STATE])
                names = stored.keys()
                tensors = {name: stored.get_tensor(name) for name in names}
            length = int(state.pop("curve_bytes"))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInputError(
                f"{path} is no checkpoint that can be read ({error}); remove it to start again"
            ) from None
        found = self.curve_file.stat().st_size if self.curve_file.is_file() else 0
        if found < length:
            raise InvalidInputError(
                f"{self.curve_file} has {found} bytes and had {length} when {path.name} was "
                "written; bring it back, or remove the checkpoint to start again"
            )
        os.truncate(self.curve_file, length)
        return Checkpoint(tensors, state, length)

    def append(self, record: Mapping[str, Any]) -> int:
        """Add a line to the curve, and return the bytes that it has then."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.curve_file.open("ab") as stream:
            stream.write(line.encode())
            return stream.tell()


@contextlib.contextmanager
def open_training_folder(path: Path) -> Iterator[TrainingFolder]:
    """Open the folder of a training run for one process; raises as ``open_work_folder``."""
    with open_work_folder(path, _FILES, _is_training):
        yield TrainingFolder(path)


def _is_training(folder: Path) -> bool:
    try:
        value = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("job") == "ranklens train model"
