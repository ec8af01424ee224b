"""What transformers does not say of a model that it has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lacking(info: Mapping[str, Any]) -> list[str]:
    """Return the weights that a loaded model's files lack or have in another shape.

    ``info`` is what ``output_loading_info`` gives. transformers fills such weights with random
    numbers, which only a log line says.
    """
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
