"""Which heads of a model a profile reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.profile import SignalChoice


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """A profile's signal, settled for one model.

    ``weights`` maps layer to head to weight, divided by the number of heads where the profile
    takes their mean. ``per_head`` keeps heads apart; otherwise a
    layer's heads are summed by weight as they are read. A rollout has weights of 1 throughout.
    """

    weights: Mapping[int, Mapping[int, float]]
    values: str
    over: str
    per_head: bool

    @property
    def last_layer(self) -> int:
        """The last layer that has to run."""
        return max(self.weights)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """Every head read, as (layer, head), in order."""
        return [(layer, head) for layer in sorted(self.weights) for head in self.weights[layer]]


def plan_signal(choice: SignalChoice, config: Any) -> SignalPlan:
    """Settle a choice for a model's (text) configuration.

    Raises InvalidInputError for layers and heads that the model does not have, or whose
    attention is not to all tokens.
    """
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    readable = full_layers(config)
    chosen = choice.weights
    if chosen is None:
        first, last = choice.layers or (0, layers - 1)
        if last >= layers:
            raise InvalidInputError(
                f"the profile reads layers {first} to {last}; the model has {layers} (from 0)"
            )
        # What a rollout follows passes through sliding layers too.
        through = range(layers) if choice.values == "rollout" else readable
        chosen = {
            layer: dict.fromkeys(range(heads), 1.0) for layer in through if first <= layer <= last
        }
        if not chosen:
            raise InvalidInputError(
                f"layers {first} to {last} all have sliding attention; the model's full layers "
                f"are {', '.join(map(str, readable))}"
            )
    for layer, of_layer in chosen.items():
        for head in of_layer:
            if layer >= layers or head >= heads:
                raise InvalidInputError(
                    f"the profile reads head {layer}-{head}; the model has {layers} layers of "
                    f"{heads} heads (from 0): it was made for another model"
                )
        if layer not in readable and choice.values != "rollout":
            raise InvalidInputError(
                f"the profile reads layer {layer}, whose attention slides and does not reach all "
                f"documents; the model's full layers are {', '.join(map(str, readable))}"
            )
    count = sum(len(of_layer) for of_layer in chosen.values()) if choice.reduce == "mean" else 1
    ordered = {
        layer: {head: weight / count for head, weight in sorted(chosen[layer].items())}
        for layer in sorted(chosen)
    }
    return SignalPlan(ordered, choice.values, choice.over, choice.combine == "documents")


def full_layers(config: Any) -> list[int]:
    """Return the layers that attend to every token.

    In a model all of whose layers slide (Mistral 7B v0.1) that is all of them, within the
    window, which then is the context. Raises InvalidInputError for a model that mixes tokens
    otherwise (linear attention, convolution): its branches would see each other.
    """
    types: Sequence[str] | None = getattr(config, "layer_types", None)
    if types is None:
        return list(range(config.num_hidden_layers))
    other = sorted(set(types) - {"full_attention", "sliding_attention", "chunked_attention"})
    if other:
        raise InvalidInputError(
            f"a {config.model_type!r} model has {other[0]} layers, whose state would run from one "
            "branch of the prompt into the next; use a decoder with attention in every layer"
        )
    full = [layer for layer, kind in enumerate(types) if kind == "full_attention"]
    return full or list(range(config.num_hidden_layers))


def rope_switch(config: Any) -> int | None:
    """Return the length beyond which a prompt has other rotations (Phi-3's longrope), or None."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    switch: int | None = rope.get("original_max_position_embeddings")
    return switch


def context_of(config: Any) -> int:
    """Return the longest prompt in tokens: positions, and the window where no layer is full."""
    limits: list[int] = [config.max_position_embeddings]
    types = getattr(config, "layer_types", None) or ["sliding_attention"]
    sliding: int | None = getattr(config, "sliding_window", None)
    if sliding is not None and "full_attention" not in types and "sliding_attention" in types:
        # Within the window a sliding layer is a full one; beyond it it would not be read.
        limits.append(sliding)
    chunk: int | None = getattr(config, "attention_chunk_size", None)
    if chunk is not None:
        limits.append(chunk)
    return min(limits)
