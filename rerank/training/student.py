"""A decoder that is being trained: an engine's forward pass, with gradients.

The pass is the one that ranks: the same attention function, prompts and pooling, so that what is
trained is what is served. Weights that are trained keep a copy in fp32 where the model computes in
another dtype; optimisers step on that copy, see ``Weights``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError
from ranklens.data.pieces import PieceTokenizer
from ranklens.rerank.frames import frame_of
from ranklens.rerank.prompt import PromptBuilder
from ranklens.rerank.scores import per_head_scores

if TYPE_CHECKING:
    import torch

    from ranklens.data.records import Document
    from ranklens.rerank.engine import AttentionEngine
    from ranklens.rerank.profile import Profile
    from ranklens.rerank.prompt import PromptLayout
    from ranklens.rerank.training.lists import TrainingList
    from ranklens.rerank.training.objectives import Objective


class Student:
    """An engine's model under training, read as ``profile`` says.

    ``head_weights`` [heads read], fp32, in the order of the plan, start at the profile's. The
    profile must keep heads apart (signal.combine 'documents'), or no weight of one could be told.
    """

    def __init__(
        self, engine: AttentionEngine, profile: Profile, *, checkpointing: bool = False
    ) -> None:
        import torch

        if profile.signal.combine != "documents" or profile.signal.values == "rollout":
            raise InvalidInputError(
                f"profile {profile.name!r} adds heads up before documents are pooled, so that "
                "their weights have no gradient; set signal.combine to 'documents'"
            )
        self.engine = engine
        self.profile = profile
        self.checkpointing = checkpointing
        self.plan = engine.plan(profile.signal)
        frame = profile.prompt.frame or frame_of(engine.tokenizer)
        self._prompts = PromptBuilder(PieceTokenizer(engine.tokenizer), frame, profile)
        weights = [self.plan.weights[layer][head] for layer, head in self.plan.heads]
        self.head_weights = torch.nn.Parameter(
            torch.tensor(weights, dtype=torch.float32, device=engine.model.device)
        )

    def scores(self, queries: Sequence[str], documents: Sequence[Document]) -> torch.Tensor:
        """Return the scores [queries, documents], fp32, with a graph where gradients are on."""
        layout = self._prompts.build(queries, documents, self.engine.context)
        return self.scores_of(layout)

    def losses(self, training: TrainingList, objective: Objective) -> torch.Tensor | None:
        """Return the mean of the objective over a list's queries, None where it says nothing.

        Every query that the objective has a say about counts alike.
        """
        import torch

        scores = self.scores([query.text for query in training.queries], training.documents)
        found = [
            loss
            for row, query in zip(scores, training.queries, strict=True)
            if (loss := objective.loss(row, query)) is not None
        ]
        return torch.stack(found).mean() if found else None

    def scores_of(self, layout: PromptLayout) -> torch.Tensor:
        """Return the scores of a layout, one row for each of its queries."""
        import torch

        mass = self.mass(layout)
        by_query = [
            self.head_weights @ per_head_scores(mass, layout, self.profile, query).float()
            for query in range(layout.queries)
        ]
        return torch.stack(by_query)

    def mass(self, layout: PromptLayout) -> torch.Tensor:
        """Return what every tail pays to every shared token, [heads read, tails, shared]."""
        import torch

        from ranklens.rerank.attention import AttentionRun, ReadingDone

        device = self.engine.model.device
        run = AttentionRun(layout, self.plan, device, backend=self.engine.backend_of(self.plan))
        with contextlib.suppress(ReadingDone):
            self.engine.model(
                input_ids=torch.tensor([run.ids], device=device),
                position_ids=run.position_ids,
                use_cache=False,
                attention_run=run,
            )
        return torch.cat([run.mass[layer] for layer in sorted(run.mass)])

    def trained_profile(self, name: str) -> Profile:
        """Return the profile with the head weights as they are now."""
        found = self.head_weights.detach().cpu().tolist()
        heads = {
            f"{layer}-{head}": float(f"{weight:.6g}")
            for (layer, head), weight in zip(self.plan.heads, found, strict=True)
        }
        signal = dataclasses.replace(self.profile.signal, heads=heads, layers=None, reduce="sum")
        return dataclasses.replace(self.profile, name=name, signal=signal)


class Weights:
    """Trained parameters, and the fp32 copies that an optimiser steps on.

    A parameter in fp32 is its own copy. Otherwise gradients are added up in fp32 by ``collect``,
    once for each backward pass, and ``publish`` rounds what was stepped to.
    """

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        import torch

        self.named = dict(named)
        self.copies = {
            name: own if own.dtype == torch.float32 else torch.nn.Parameter(own.detach().float())
            for name, own in self.named.items()
        }

    def collect(self) -> None:
        """Move the gradients of the last backward pass to the copies, adding them up."""
        for name, own in self.named.items():
            copy = self.copies[name]
            if own is copy or own.grad is None:
                continue
            found = own.grad.float()
            copy.grad = found if copy.grad is None else copy.grad + found
            own.grad = None

    def publish(self) -> None:
        """Round the copies into the model."""
        import torch

        with torch.no_grad():
            for name, own in self.named.items():
                if own is not self.copies[name]:
                    own.copy_(self.copies[name])
