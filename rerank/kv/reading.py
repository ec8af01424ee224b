"""Reading prompts whose documents are computed once.

In a block layout, behind a prefix that holds nothing of the query, the keys and values of a
document's tokens depend on the prefix and the document alone. They are computed in passes without
tails and kept; a prompt is then read by its tails only, over what is kept. Both kinds of pass are
steady, so what is read is the same to the last bit whatever was kept before.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.models import ResolvedModel, weights_of
from ranklens.rerank.engine import AttentionEngine, TokenSignal
from ranklens.rerank.kv.assembled import Assembled
from ranklens.rerank.kv.cache import DocumentCache, Space
from ranklens.rerank.kv.entry import Entry, entry
from ranklens.rerank.kv.parts import Parts, narrowed
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.profile import Profile
from ranklens.rerank.prompt import PromptLayout, Tail

if TYPE_CHECKING:
    import torch

_FORMAT = 2
"""To be raised when the same description no longer means the same bits."""
_BATCH = 4096
"""Tokens of documents computed in one pass."""


class CachedReading:
    """Reads layouts as an engine does, and keeps their documents.

    ``profile`` made the layouts, ``nulls`` are its content-free tails; ``model`` says which model
    the engine holds, whose weights must stay as they are. Raises InvalidInputError for a profile
    whose documents depend on more than themselves, and for an engine without a model's revision
    over a cache on disk.
    """

    def __init__(
        self,
        engine: AttentionEngine,
        cache: DocumentCache,
        profile: Profile,
        model: ResolvedModel | None,
        nulls: Sequence[Tail] = (),
    ) -> None:
        check_profile(profile, cache.keep_tokens)
        if cache.folder is not None and model is None:
            raise InvalidInputError(
                "documents are kept on disk by the model's revision; use "
                "AttentionReranker.from_pretrained"
            )
        self._engine = engine
        self._cache = cache
        self._nulls = tuple(nulls)
        # Without a revision nothing tells two models apart: only this reranker's documents are its.
        self._model = [uuid.uuid4().hex]
        if model is not None:
            self._model = [model.revision, *weights_of(model, whole=cache.folder is not None)]

    @property
    def rope_switch(self) -> int | None:
        """As of the engine."""
        return self._engine.rope_switch

    def read(self, layout: PromptLayout, plan: SignalPlan) -> TokenSignal:
        """Return the attention of every tail of the layout; see ``AttentionEngine.read``.

        Tokens that a cache with ``keep_tokens`` left out have no attention.
        """
        import torch

        self._engine.check(layout)
        switch = self._engine.rope_switch
        if switch is not None and layout.length > switch:
            raise InvalidInputError(
                f"beyond {switch} tokens this model has other rotations than its kept documents: "
                f"the prompt has {layout.length}; rank without a document cache"
            )
        entries = self.keep(layout, plan)
        held = Assembled(entries, plan.last_layer, self._last_heads(plan))
        if held.kept is None:
            return self._engine.read(layout, plan, held=held, steady=True)
        signal = self._engine.read(narrowed(layout, held.kept), plan, held=held, steady=True)
        mass = torch.zeros(*signal.mass.shape[:-1], len(layout.shared))
        mass[..., held.kept] = signal.mass
        return TokenSignal(mass, plan)

    def keep(self, layout: PromptLayout, plan: SignalPlan) -> list[Entry]:
        """Return the entries of the prefix and of each block, computed where none is kept."""
        parts = Parts.of(layout)
        space = self._space(parts, plan)
        device = self._engine.model.device
        # The prefix is an entry too, and no document.
        documents = set(parts.names[bool(parts.prefix) :])
        known: dict[str, Entry | None] = {}
        for name in dict.fromkeys(parts.names):
            known[name] = space.get(name, device, counted=name in documents)
        missing = [name for name, found in known.items() if found is None]
        for batch in _batches(parts, missing):
            for name, made in self._computed(parts, batch, layout, plan):
                # The prefix is computed with every batch.
                if known[name] is None:
                    known[name] = made
                    space.put(name, made, device, counted=name in documents)
        return [found for name in parts.names if (found := known[name]) is not None]

    def _computed(
        self, parts: Parts, batch: Sequence[str], layout: PromptLayout, plan: SignalPlan
    ) -> Iterator[tuple[str, Entry]]:
        """Yield the entries of the prefix and a batch of blocks, computed together."""
        import torch

        part = parts.side_by_side(batch, layout)
        computed = self._engine.compute(part, plan)
        *before, last = sorted(computed)
        self._check_shapes(computed)
        last_keys = computed[last][0][self._last_heads(plan)]
        none = computed[last][0].new_empty(0, *computed[last][0].shape)
        keys, values = (
            torch.stack([computed[layer][which] for layer in before]) if before else none
            for which in (0, 1)
        )
        start = 0
        for name in ([parts.names[0]] if parts.prefix else []) + list(batch):
            place = slice(start, start + len(parts.blocks[name]))
            start = place.stop
            made = entry(
                keys[:, :, place], values[:, :, place], last_keys[:, place], self._cache.storage
            )
            keep = self._cache.keep_tokens
            if keep is not None and name in batch and place.stop - place.start > keep:
                alone = parts.side_by_side([name], layout)
                made = self._pruned(made, keep, alone, len(parts.prefix), plan)
            yield name, made

    def _pruned(
        self, made: Entry, keep: int, alone: PromptLayout, prefix: int, plan: SignalPlan
    ) -> Entry:
        """Return an entry with the tokens to which the content-free tails pay most.

        ``alone`` is the document's own layout, behind ``prefix`` tokens.
        """
        alone = dataclasses.replace(alone, tails=self._nulls)
        # Weights of heads may be negative; what matters is how much a token has to say.
        mass = self._engine.read(alone, plan, steady=True).mass.double().abs()
        paid = mass.sum((0, 1))[prefix:]
        kept = paid.topk(keep).indices.sort().values
        share = float(paid[kept].sum() / paid.sum().clamp_min(1e-30))
        return made.only(kept.to(made.tokens.device), share)

    def _last_heads(self, plan: SignalPlan) -> list[int]:
        """Return the key heads of the plan's last layer that are read."""
        group = self._engine.config.num_attention_heads // self._key_heads()
        return sorted({head // group for head in plan.weights[plan.last_layer]})

    def _key_heads(self) -> int:
        config = self._engine.config
        found: int | None = getattr(config, "num_key_value_heads", None)
        return found or int(config.num_attention_heads)

    def _check_shapes(self, computed: Mapping[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Raise InvalidInputError for a model whose layers are not alike."""
        shapes = {(len(keys), keys.shape[2]) for keys, _ in computed.values()}
        if len(shapes) > 1 or next(iter(shapes))[0] != self._key_heads():
            said = " and ".join(f"{heads} of size {size}" for heads, size in sorted(shapes))
            raise InvalidInputError(
                f"documents are kept for models with the same key heads in every layer; this "
                f"{self._engine.config.model_type!r} model has {said}: rank without a cache"
            )

    def _space(self, parts: Parts, plan: SignalPlan) -> Space:
        """Return the entries that were made with what documents depend on beside themselves."""
        import torch

        device = self._engine.model.device
        description: dict[str, Any] = {
            "format": _FORMAT,
            "model": self._model[0],
            "weights": self._model[1:],
            "dtype": str(self._engine.model.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "backend": self._engine.backend_of(plan),
            "prefix": list(parts.prefix),
            "layers": plan.last_layer + 1,
            "key heads of the last layer": self._last_heads(plan),
            "versions": _versions(),
        }
        if self._cache.keep_tokens is not None:
            description["pruned by"] = {
                "tails": [[list(tail.ids), list(tail.rows)] for tail in self._nulls],
                "signal": [plan.values, plan.over, plan.per_head],
                "heads": {
                    f"{layer}-{head}": plan.weights[layer][head] for layer, head in plan.heads
                },
            }
        return self._cache.space(description)


@functools.cache
def _versions() -> dict[str, str]:
    """Return the versions of what computes; looking them up takes a tenth of a cached pass."""
    return {name: version(name) for name in ("torch", "transformers")}


def _batches(parts: Parts, missing: Sequence[str]) -> Iterator[list[str]]:
    """Yield names of blocks that are computed together; of none, where only the prefix is missing.

    Between two batches everything before is kept, so an interruption loses one of them.
    """
    blocks = [name for name in missing if not parts.prefix or name != parts.names[0]]
    if missing and not blocks:
        yield []
    batch: list[str] = []
    tokens = 0
    for name in blocks:
        if batch and tokens + len(parts.blocks[name]) > _BATCH:
            yield batch
            batch, tokens = [], 0
        batch.append(name)
        tokens += len(parts.blocks[name])
    if batch:
        yield batch


def check_profile(profile: Profile, keep_tokens: int | None = None) -> None:
    """Raise InvalidInputError for a profile whose documents cannot be kept."""
    layout, blocks = profile.layout, profile.prompt.blocks
    reason = None
    if layout.attend != "block":
        reason = "its documents see those before them (layout.attend 'causal')"
    elif layout.positions == "sequential":
        reason = (
            "its documents are computed where they stand (layout.positions 'sequential'; "
            "'shared' and 'moved' compute them behind the prefix)"
        )
    elif profile.prompt.query_in_opening:
        reason = "they see the query, which stands before them (prompt.introduction)"
    elif "{number}" in profile.prompt.marker + (blocks.ending if blocks else ""):
        reason = "they hold their number in the prompt (prompt.marker)"
    elif profile.signal.values == "rollout":
        reason = "a rollout goes through whole layers"
    if reason is not None:
        raise InvalidInputError(
            f"profile {profile.name!r} has no documents to keep: {reason}; use a profile in "
            "blocks, such as icr-block"
        )
    if keep_tokens is not None and not profile.calibration.nulls:
        raise InvalidInputError(
            f"keep_tokens keeps what a content-free query attends to, and profile "
            f"{profile.name!r} has none (calibration.nulls)"
        )
