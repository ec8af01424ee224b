"""YAML files, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from ranklens.data.extras import require
from ranklens.data.files import atomic_writer


def write_yaml(path: Path, value: object) -> None:
    """Write plain values in their order; MissingPrerequisiteError without PyYAML."""
    require("export", "yaml")
    import yaml

    with atomic_writer(path) as stream:
        yaml.safe_dump(value, stream, sort_keys=False, allow_unicode=True)
