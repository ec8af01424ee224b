"""What transformers does not say of a model that it has loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The families that count positions from behind the filler's, and so have fewer for texts.
_BEHIND_FILLER = (
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)


def readable_positions(config: Any) -> int | None:
    """Return how many tokens a model has positions for, control tokens included; None: no limit.

    ``config`` is the model's as transformers loads it.
    """
    positions: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not positions or positions < 1:
        return None
    if config.model_type in _BEHIND_FILLER:
        positions -= (config.pad_token_id or 0) + 1
    return positions


def lacking(info: Mapping[str, Any]) -> list[str]:
    """Return the weights that a loaded model's files lack or have in another shape.

    ``info`` is what ``output_loading_info`` gives. transformers fills such weights with random
    numbers, which only a log line says.
    """
    return sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
