"""What results call a model."""

from __future__ import annotations

from pathlib import Path


def name_of(model: str) -> str:
    """Return a model's name; of a folder its own: where it lies is that machine's business."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model
