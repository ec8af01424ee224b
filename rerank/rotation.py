"""Keys at other positions than they were computed at.

A rotary embedding turns each pair of a key's channels by an angle that grows with the position.
Turning it further by the angle of δ positions is the key at a position δ later: the re-rotation
of Block-Attention (arXiv 2409.15355), which moves documents computed side by side to places one
behind the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

_KINDS = ("default", "linear", "llama3")
"""Rotations whose angle is proportional to the position, with one factor per pair of channels."""


def frequencies(model: Any) -> torch.Tensor:
    """Return the angle per position of each pair of channels, float32 [D / 2].

    Raises InvalidInputError for a model whose rotations cannot be continued.
    """
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    embedding = getattr(model, "rotary_emb", None)
    kind = parameters.get("rope_type")
    found: torch.Tensor | None = getattr(embedding, "inv_freq", None)
    if kind not in _KINDS or found is None:
        raise InvalidInputError(
            f"layout.positions 'moved' turns keys to other positions, which is known for one "
            f"rotary embedding of the kinds {', '.join(_KINDS)}; a {config.model_type!r} model "
            f"has {kind or 'several or none'}: use positions 'shared'"
        )
    return found.float()


def moved(keys: torch.Tensor, by: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """Return keys [key heads, tokens, D] turned ``by`` positions [tokens] further, in fp32.

    ``inverse`` [R / 2] are the model's frequencies; R of the D channels are rotated, the i-th
    with the (i + R / 2)-th, as in transformers' Llama.
    """
    import torch

    half = len(inverse)
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    angle = by.to(inverse)[:, None] * inverse
    cos, sin = torch.cos(angle), torch.sin(angle)
    first, second, rest = wide.tensor_split([half, 2 * half], dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin, rest)
    return torch.cat(turned, dim=-1).to(keys.dtype)
