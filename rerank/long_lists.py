"""Lists that one prompt cannot hold: several prompts that share anchor documents.

Attention is shared out among the documents of a prompt, so scores of two prompts are not
comparable as they are. A few anchor documents therefore stand in every prompt, and each
prompt's scores are moved onto the first one's scale by what the anchors get:

    score(d) = s_p(d) − mean_{a in anchors} s_p(a) + mean_{a in anchors} s_1(a)

A shift and no slope: prompts are dealt in turns, so all hold as many documents from all parts of
the first stage's list and their scales are alike from the start, while a slope fitted by least
squares to three anchors, whose scores may lie close together, is mostly noise: over 30 lists read
by a random model in three prompts it ran from −3.7 to 7.5. An anchor's own score is the mean over
all prompts. Of scores that are logarithms a shift is a factor common to a prompt's attention.

What depends on the other documents of a prompt stays approximate: the softmax they share, and
with ``pooling.idf`` the number of documents that hold a token.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.token_budget import MIN_DOCUMENT_TOKENS
from ranklens.rerank.prompt import PromptLayout


@dataclass(frozen=True, slots=True)
class LongLists:
    """What to do with a list that one prompt cannot hold.

    ``refuse``: documents are shortened as far as makes sense, beyond that it is an error.
    ``anchors``: several prompts that share ``anchors`` documents; a prompt holds at most ``most``
    (None: as many as fit), and as many that shortening leaves each ``document_tokens``.
    """

    how: str = "refuse"
    anchors: int = 3
    most: int | None = None
    document_tokens: int = 64

    def __post_init__(self) -> None:
        if self.how not in ("refuse", "anchors"):
            raise UsageError(f"long_lists must be 'refuse' or 'anchors', got {self.how!r}")
        if self.anchors < 1:
            raise UsageError(f"long_lists needs at least 1 anchor, got {self.anchors}")
        if self.most is not None and self.most <= self.anchors:
            raise UsageError(
                f"a prompt of at most {self.most} documents has no room for {self.anchors} anchors "
                "and another; raise LongLists.most or lower LongLists.anchors"
            )
        if self.document_tokens < MIN_DOCUMENT_TOKENS:
            raise UsageError(
                f"LongLists.document_tokens must be at least {MIN_DOCUMENT_TOKENS}, got "
                f"{self.document_tokens}"
            )


@dataclass(frozen=True, slots=True)
class Dealt:
    """Which documents, by position, stand in which prompt; ``anchors`` in all of them."""

    prompts: tuple[tuple[int, ...], ...]
    anchors: tuple[int, ...] = ()


def deal(documents: int, prompts: int, anchors: int) -> Dealt:
    """Deal documents, best of the first stage first, into prompts with common anchors.

    Anchors are drawn evenly from the list: the middles of that many equal parts. The others go
    to the prompts in turns, so sizes differ by one at most; each prompt keeps the list's order.
    """
    if prompts == 1:
        return Dealt((tuple(range(documents)),))
    shared = tuple(documents * (2 * k + 1) // (2 * anchors) for k in range(anchors))
    others = [d for d in range(documents) if d not in shared]
    hands = (others[k::prompts] for k in range(prompts))
    return Dealt(tuple(tuple(sorted([*shared, *hand])) for hand in hands), shared)


def prompts_needed(whole: PromptLayout, choice: LongLists, context: int) -> int:
    """Return the least number of prompts for the documents of a layout that is too long.

    ``whole`` is the layout without a limit. A document counts with its tokens, at most
    ``choice.document_tokens`` of them, and an equal part of what stands between documents.
    Raises InvalidInputError when not even one document fits a prompt beside the anchors.
    """
    number = len(whole.spans)
    lengths = [end - first for first, end in whole.spans]
    head = min(first for first, _ in whole.spans)
    tail = max(len(tail.ids) for tail in whole.tails)
    between = -(-(len(whole.shared) - head - sum(lengths)) // number)
    costs = [min(length, choice.document_tokens) + between for length in lengths]
    room = context - head - tail
    allowed = choice.most is None or number <= choice.most
    # At shared positions documents stand side by side: one that is too long is cut, no more.
    side_by_side = whole.positions is not None and whole.places is None
    if allowed and (side_by_side or whole.length <= context or sum(costs) <= room):
        return 1
    fewest = max(2, sum(costs) // room) if room > 0 else number
    # The last try has one document beside the anchors in each.
    for prompts in range(fewest, number - choice.anchors + 1):
        dealt = deal(number, prompts, choice.anchors)
        if choice.most is not None and len(dealt.prompts[0]) > choice.most:
            continue
        if all(sum(costs[d] for d in prompt) <= room for prompt in dealt.prompts):
            return prompts
    raise InvalidInputError(
        f"{number} documents do not fit the model's context of {context} tokens, not even in "
        f"prompts of one and {choice.anchors} anchors: query, instruction and frame need "
        f"{head + tail}, a document up to {max(costs)}; lower LongLists.anchors or "
        "LongLists.document_tokens, shorten the query, or use a model with a longer context"
    )


def lay_out(
    build: Callable[[Sequence[int], int | None], PromptLayout],
    documents: int,
    choice: LongLists,
    context: int,
) -> tuple[Dealt, list[PromptLayout]]:
    """Deal documents into as few prompts as hold them, and lay these out.

    ``build`` lays out the documents at some positions within a context (None: without limit).
    Raises InvalidInputError when they do not fit.
    """
    everything = range(documents)
    # As many anchors as documents would leave nothing to deal out.
    if choice.how == "refuse" or documents <= choice.anchors:
        return deal(documents, 1, 0), [build(everything, context)]
    whole = build(everything, None)
    prompts = prompts_needed(whole, choice, context)
    if prompts == 1:
        fits = whole.length <= context
        return deal(documents, 1, 0), [whole if fits else build(everything, context)]
    dealt = deal(documents, prompts, choice.anchors)
    return dealt, [build(prompt, context) for prompt in dealt.prompts]


def merge(scores: Sequence[Sequence[float]], dealt: Dealt) -> list[float]:
    """Return one score per document from those of each prompt, in the order of its documents."""
    found: dict[int, list[float]] = {}
    reference: float | None = None
    for prompt, values in zip(dealt.prompts, scores, strict=True):
        of = dict(zip(prompt, values, strict=True))
        shift = 0.0
        if dealt.anchors:
            level = statistics.fmean(of[anchor] for anchor in dealt.anchors)
            reference = level if reference is None else reference
            shift = reference - level
        for document, score in of.items():
            found.setdefault(document, []).append(score + shift)
    return [statistics.fmean(found[document]) for document in range(len(found))]
