"""What a model that is trained on had learned from before: its manifest, kept in the new one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.models.adapter import CONFIG, MANIFEST, read_manifest
from ranklens.rerank.training.card import runs_of

# What a value of another kind than ``export`` writes leads to.
_NOT_OURS = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


def read_history(folder: Path) -> Mapping[str, Any] | None:
    """Return the manifest of the model in a folder: None for one that nobody trained with ranklens.

    {} is that of an adapter that has none. Raises InvalidInputError for a training.json that no
    model card could be made of.
    """
    place = folder / MANIFEST
    if not place.is_file():
        return {} if (folder / CONFIG).is_file() else None
    found = read_manifest(folder)
    try:
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        runs_of(found)
        found.get("base", {}).get("licence")
    except _NOT_OURS as error:
        raise InvalidInputError(
            f"{place}: no manifest of `ranklens train model` ({type(error).__name__}: {error}); "
            "without the file the new card says that nothing is recorded of the training before"
        ) from None
    return found
