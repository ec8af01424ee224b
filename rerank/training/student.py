"""A decoder that is being trained: an engine's forward pass, with gradients.

The pass is the one that ranks: the same attention function, prompts and pooling, so that what is
trained is what is served. Weights that are trained keep a copy in fp32 where the model computes in
another dtype; optimisers step on that copy, see ``Weights``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.data.pieces import PieceTokenizer
from ranklens.rerank.frames import frame_of
from ranklens.rerank.prompt import PromptBuilder, Tail, orders
from ranklens.rerank.scores import nothing_last
from ranklens.rerank.training.answers import Answer, Answers, OutputEmbeddings, output_embeddings
from ranklens.rerank.training.pooled import scores_by_head

if TYPE_CHECKING:
    import torch

    from ranklens.data.records import Document
    from ranklens.rerank.attention import AttentionRun
    from ranklens.rerank.engine import AttentionEngine
    from ranklens.rerank.profile import Profile
    from ranklens.rerank.prompt import PromptLayout
    from ranklens.rerank.training.lists import TrainingList, TrainingQuery
    from ranklens.rerank.training.objectives import Objective


class Student:
    """An engine's model under training, read as ``profile`` says.

    ``head_weights`` [heads read], fp32 (fp64 for a model in fp64), in the order of the plan, start
    at the profile's. To train them the profile must keep heads apart (signal.combine 'documents'),
    or no weight of one could be told. With ``train_heads`` False they stay as they are, and any
    profile will do but a rollout; one that adds heads up token by token has them in its masses,
    and ``head_weights`` is a single 1. ``checkpointing`` computes layers again for their gradients
    instead of keeping what is inside them: less memory, a third more work.
    """

    def __init__(
        self,
        engine: AttentionEngine,
        profile: Profile,
        *,
        checkpointing: bool = False,
        train_heads: bool = True,
    ) -> None:
        import torch

        if profile.signal.values == "rollout":
            raise InvalidInputError(
                f"profile {profile.name!r} reads a rollout, whose gradients are not computed; set "
                "signal.values to 'attention'"
            )
        if train_heads and profile.signal.combine != "documents":
            raise InvalidInputError(
                f"profile {profile.name!r} adds heads up before documents are pooled, so that "
                "their weights have no gradient; set signal.combine to 'documents', or leave the "
                "weights as they are (train_heads=False)"
            )
        self.engine = engine
        self.profile = profile
        self.checkpointing = checkpointing
        self.train_heads = train_heads
        self.plan = engine.plan(profile.signal)
        frame = profile.prompt.frame or frame_of(engine.tokenizer)
        self._pieces = PieceTokenizer(engine.tokenizer)
        self._prompts = PromptBuilder(self._pieces, frame, profile)
        weights = [self.plan.weights[layer][head] for layer, head in self.plan.heads]
        dtype = torch.promote_types(engine.model.dtype, torch.float32)
        self.head_weights = torch.nn.Parameter(
            torch.tensor(
                weights if self.plan.per_head else [1.0], dtype=dtype, device=engine.model.device
            ),
            requires_grad=train_heads,
        )

    def scores(self, queries: Sequence[str], documents: Sequence[Document]) -> torch.Tensor:
        """Return the scores [queries, documents], with a graph where gradients are on.

        In the dtype of the head weights; to rounding those of ``AttentionReranker.rank``. Queries
        share one pass over the documents, unless the profile's prompt begins with the query.
        Raises InvalidInputError for an empty query and documents that do not fit the context.
        """
        import torch

        if self.profile.prompt.query_in_opening and len(queries) > 1:
            return torch.cat([self.scores([query], documents) for query in queries])
        found = [
            self.scores_of(
                self._prompts.build(queries, documents, self.engine.context, order=order)
            )
            for order in self._orders(len(documents))
        ]
        return found[0] if len(found) == 1 else torch.stack(found).mean(0)

    def losses(self, training: TrainingList, objective: Objective) -> torch.Tensor | None:
        """Return the mean of the objective over a list's queries, None where it says nothing.

        Every query that the objective has a say about counts alike. Raises as ``scores``;
        NumericalError naming the query for a loss that is NaN or Inf.
        """
        import torch

        if objective.asks_for_answers:
            read = self._with_answers(training)
        else:
            texts = [query.text for query in training.queries]
            read = [(row, None) for row in self.scores(texts, training.documents)]
        found, queries = [], []
        for (row, answer), query in zip(read, training.queries, strict=True):
            loss = objective.loss(row, query, answer)
            if loss is not None:
                found.append(loss)
                queries.append(query)
        if not found:
            return None
        each = torch.stack(found)
        if not bool(each.isfinite().all()):
            wrong = int((~each.isfinite()).nonzero()[0])
            raise NumericalError(
                f"the loss of query {queries[wrong].id!r} is {each[wrong].item()}; scores or "
                "weights are out of any range: lower the learning rate, or go on from an earlier "
                "checkpoint"
            )
        return each.mean()

    def scores_of(self, layout: PromptLayout) -> torch.Tensor:
        """Return the scores of a layout, one row for each of its queries."""
        return self._scores(self.mass(layout), layout)

    def mass(self, layout: PromptLayout) -> torch.Tensor:
        """Return what every tail pays to every shared token, [heads read, tails, shared].

        Where the profile adds heads up token by token, [1, tails, shared].
        """
        return self._read(layout)[0]

    def trained_profile(self, name: str) -> Profile:
        """Return the profile with the head weights as they are now."""
        if not self.train_heads:
            return dataclasses.replace(self.profile, name=name)
        found = self.head_weights.detach().cpu().tolist()
        # Nine digits tell every number in fp32 from its neighbours.
        heads = {
            f"{layer}-{head}": float(f"{weight:.9g}")
            for (layer, head), weight in zip(self.plan.heads, found, strict=True)
        }
        signal = dataclasses.replace(self.profile.signal, heads=heads, layers=None, reduce="sum")
        return dataclasses.replace(self.profile, name=name, signal=signal)

    def _orders(self, documents: int) -> list[list[int]]:
        return orders(self.profile.prompt.order, documents)

    def _scores(self, mass: torch.Tensor, layout: PromptLayout) -> torch.Tensor:
        import torch

        by_head = scores_by_head(mass, layout, self.profile)
        total = torch.einsum("h,hqd->qd", self.head_weights, by_head)
        if self.profile.pooling.scale == "log":
            total = nothing_last(total, by_head)
        temperature = self.profile.calibration.temperature
        return total if temperature is None else torch.softmax(total / temperature, dim=1)

    def _read(
        self, layout: PromptLayout, answers: Sequence[Answer | None] = ()
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Return the mass of a layout, and the mean −log p of its queries' answers.

        With ``answers``, one for each query, the pass goes through the whole model.
        """
        import torch

        from ranklens.rerank.attention import ReadingDone
        from ranklens.rerank.training.recomputing import recomputed_layers

        continued = [
            tail if answer is None else Tail([*tail.ids, *answer.ids], tail.rows)
            for tail, answer in zip(
                layout.tails, [*answers, *[None] * (len(layout.tails) - len(answers))], strict=True
            )
        ]
        # Equal tails (a query that is the null query) are one branch, as they are in the engine.
        names = [(tuple(tail.ids), tail.rows) for tail in continued]
        branches = dict(zip(names, continued, strict=True))
        places = {name: place for place, name in enumerate(branches)}
        once = dataclasses.replace(layout, tails=tuple(branches.values()))
        self.engine.check(once)
        to_the_end = any(answer is not None for answer in answers)
        run = self._run(once, to_the_end=to_the_end)
        model = self.engine.model
        # The layer that ends the pass is never left, so there is no computing it again.
        again = self.engine.config.num_hidden_layers - 1 if to_the_end else self.plan.last_layer - 1
        checkpointing = self.checkpointing and torch.is_grad_enabled()
        recomputed = recomputed_layers(model, again) if checkpointing else contextlib.nullcontext()
        states = None
        with contextlib.suppress(ReadingDone), recomputed:
            states = model(
                input_ids=torch.tensor([run.ids], device=model.device),
                position_ids=run.position_ids,
                use_cache=False,
                attention_run=run,
            ).last_hidden_state[0]
        layers = [run.mass[layer] for layer in sorted(run.mass)]
        mass = torch.cat(layers) if self.plan.per_head else torch.stack(layers).sum(0)[None]
        if len(places) < len(names):
            mass = mass[:, [places[name] for name in names]]
        told = [
            None
            if answer is None or states is None
            else self._told(run, states, places[name], answer, tail)
            for name, tail, answer in zip(names, continued, answers, strict=False)
        ]
        return mass, told

    def _told(
        self, run: AttentionRun, states: torch.Tensor, branch: int, answer: Answer, tail: Tail
    ) -> torch.Tensor:
        """Return the mean −log p of an answer's tokens, from the states of a pass's rows."""
        first = len(tail.ids) - answer.told
        before = len(run.ids) - run.tail_rows
        rows = [before + run.branches.row(branch, at - 1) for at in range(first, len(tail.ids))]
        return self._output.losses(states[rows], tail.ids[first:]).mean()

    def _run(self, layout: PromptLayout, *, to_the_end: bool) -> AttentionRun:
        from ranklens.rerank.attention import AttentionRun

        engine = self.engine
        frequencies = None
        if layout.places is not None:
            # A copy: the engine may have found them in inference mode.
            frequencies = engine.frequencies().clone()
        return AttentionRun(
            layout,
            self.plan,
            engine.model.device,
            frequencies=frequencies,
            backend=engine.backend_of(self.plan),
            dtype=self.head_weights.dtype,
            to_the_end=to_the_end,
        )

    def _with_answers(
        self, training: TrainingList
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Return for each query its scores [documents] and the loss of its answer."""
        queries, documents = training.queries, training.documents
        alone = self.profile.prompt.query_in_opening
        groups = [[query] for query in queries] if alone else [list(queries)]
        order, *others = self._orders(len(documents))
        if others:
            raise InvalidInputError(
                f"next-token: profile {self.profile.name!r} reads {1 + len(others)} orders, in "
                "which documents have other numbers; set prompt.order.permutations to 1"
            )
        found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for group in groups:
            answers = [self._answer(query, order) for query in group]
            room = max((len(answer.ids) for answer in answers if answer is not None), default=0)
            layout = self._prompts.build(
                [query.text for query in group], documents, self.engine.context - room, order=order
            )
            mass, told = self._read(layout, answers)
            found += zip(self._scores(mass, layout), told, strict=True)
        return found

    def _answer(self, query: TrainingQuery, order: Sequence[int]) -> Answer | None:
        """Return the numbers of a query's relevant documents, None where there are none."""
        grades = query.grades or ()
        slots = [slot for slot, index in enumerate(order) if grades and (grades[index] or 0) > 0]
        return self._answers.of(slots) if slots else None

    @cached_property
    def _answers(self) -> Answers:
        return Answers(self.engine, self.profile, self._pieces)

    @cached_property
    def _output(self) -> OutputEmbeddings:
        return output_embeddings(self.engine)


class Weights:
    """Trained parameters, and the fp32 copies that an optimiser steps on.

    A parameter in fp32 (or fp64) is its own copy. Otherwise gradients are added up in fp32 by
    ``collect``, once for each backward pass, and ``publish`` rounds what was stepped to. A
    parameter that is named twice (tied embeddings) is there once, by its first name.
    """

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
        import torch

        first: dict[int, tuple[str, torch.nn.Parameter]] = {}
        for name, own in named:
            first.setdefault(id(own), (name, own))
        self.named = dict(first.values())
        self.copies = {
            name: own
            if own.dtype == torch.promote_types(own.dtype, torch.float32)
            else torch.nn.Parameter(own.detach().float())
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
