"""Prompts as token pieces: what is shared, what branches, and where each document lies.

    {prefix} Here are some paragraphs:{sep}[1] {doc}{sep}…[N] {doc}{sep}     shared
    {instruction}{sep}Query: {query}{suffix}          a tail, one per query and content-free query

How the parts become tokens is the profile's wording: in pieces, or in whole blocks. Either way a
document's tokens do not depend on its neighbours.

Only documents are ever shortened: first to the profile's own limits, then, when the model's
context asks for it, all to one token budget. What was cut is counted per document.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document
from ranklens.data.token_budget import MIN_DOCUMENT_TOKENS, token_budget
from ranklens.rerank.block_wording import BlockWording
from ranklens.rerank.frames import Frame
from ranklens.rerank.packing import Piece, pack
from ranklens.rerank.piece_wording import PieceWording
from ranklens.rerank.profile import OrderChoice, Profile
from ranklens.rerank.wording import Trace, Wording, Written


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows the shared part in one branch.

    Token ids, and the half-open range of those whose attention is read.
    """

    ids: list[int]
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """Token ids of one ranking call, and the place of every document.

    ``shared``: ids of prefix and documents. ``tails``: one per branch; each follows the shared
    part directly and does not see the others: first the ``queries`` real ones, then the
    content-free ones with the instruction, then those without. ``spans``: for each document, in
    the order given by the caller, the half-open range of its tokens in ``shared``.
    ``tokens_cut``: for each document the tokens left out. ``blocks``: ranges that cover
    ``shared`` behind the prefix and see the prefix and themselves only; none where it is
    causal. ``positions``: of the shared tokens as they are computed, where these do not simply
    count; ``places``: where tails see them, if not there; ``tail_start``: the position of the
    first token of every tail then.
    """

    shared: list[int]
    tails: tuple[Tail, ...]
    queries: int
    spans: tuple[tuple[int, int], ...]
    tokens_cut: tuple[int, ...]
    blocks: tuple[tuple[int, int], ...] = ()
    positions: tuple[int, ...] | None = None
    places: tuple[int, ...] | None = None
    tail_start: int | None = None

    @property
    def length(self) -> int:
        """The positions of the longest branch: what has to fit the model's context."""
        start = len(self.shared) if self.tail_start is None else self.tail_start
        return start + max((len(tail.ids) for tail in self.tails), default=0)


class PromptBuilder:
    """Builds layouts for one tokenizer, chat frame and profile."""

    def __init__(self, pieces: PieceTokenizer, frame: Frame, profile: Profile) -> None:
        self._choice = choice = profile.prompt
        self._layout = profile.layout
        self._calibration = profile.calibration
        self._wording: Wording = (
            PieceWording(pieces, frame, profile)
            if choice.blocks is None
            else BlockWording(pieces, frame, profile, choice.blocks)
        )

    def build(
        self,
        queries: Sequence[str],
        documents: Sequence[Document],
        context: int,
        *,
        order: Sequence[int] | None = None,
    ) -> PromptLayout:
        """Lay out one tail per query over ``documents`` (best of the first stage first).

        ``context`` is the model's limit in tokens, ``order`` the documents' positions as they
        stand in the prompt (default: the profile's, see ``orders``). Raises InvalidInputError
        for an empty query, without documents, for several queries where the prompt begins with
        one, and when the documents cannot be shortened enough to fit.
        """
        if not documents:
            raise InvalidInputError("no documents to rank")
        if self._choice.query_in_opening and len(queries) > 1:
            raise InvalidInputError(
                "the profile's introduction holds the query, so that documents are read anew for "
                f"each; lay out one query at a time, not {len(queries)}"
            )
        tails = self._tails(queries)
        opening = self._wording.opening(queries[0])
        order = orders(self._choice.order, len(documents))[0] if order is None else order
        causal = self._layout.attend == "causal"
        written = {
            index: self._wording.document(
                documents[index], slot, last=causal and slot == len(documents) - 1
            )
            for slot, index in enumerate(order)
        }
        tail = max(len(tail.ids) for tail in tails)
        budget = self._budget(list(written.values()), len(opening), tail, context)
        pieces = {index: self._piece(one, budget) for index, one in written.items()}
        packed = pack(opening, list(pieces.values()), self._layout)
        spans = dict(zip(pieces, packed.spans, strict=True))
        given = range(len(documents))
        return PromptLayout(
            shared=packed.ids,
            tails=tails,
            queries=len(queries),
            spans=tuple(spans[index] for index in given),
            tokens_cut=tuple(
                written[index].cut + max(0, len(written[index].text) - budget) for index in given
            ),
            blocks=packed.blocks,
            positions=packed.positions,
            places=packed.places,
            tail_start=packed.tail_start,
        )

    def trace(self, document: Document, slot: int) -> Trace:
        """Return where in a document its tokens in a slot (from 0) come from.

        The tokens are those that ``build`` puts there, before the context's budget shortens
        them; ``first`` counts from the beginning of the document's span. Title and text have
        offsets of their own.
        """
        found = self._wording.trace(document, slot)
        return (
            found if self._choice.span in ("marker-and-text", "block") else Trace(0, found.places)
        )

    def _piece(self, written: Written, budget: int) -> Piece:
        """Return a document within the budget, with the range of tokens that are its span."""
        marker, text, ending = written.marker, written.text[:budget], written.ending
        first = 0 if self._choice.span in ("marker-and-text", "block") else len(marker)
        last = len(marker) + len(text)
        if self._choice.span == "text-and-next":
            # A frame without a separator has no next token of the document's own.
            last += min(1, len(ending))
        return Piece([*marker, *text, *ending], (first, last))

    def _budget(self, written: Sequence[Written], opening: int, tail: int, context: int) -> int:
        """Return how many tokens a document may have, so that every branch fits the context."""
        lengths = [len(one.text) for one in written]
        frames = [len(one.marker) + len(one.ending) for one in written]
        if self._layout.positions == "shared":
            # Documents stand side by side: each has what the prefix leaves.
            end = self._layout.tail_position or context - tail
            if end + tail > context:
                raise InvalidInputError(
                    f"the profile puts the query at position {end} (layout.tail_position), and "
                    f"its {tail} tokens exceed the model's context of {context} tokens; use a "
                    "model with a longer context"
                )
            fixed = opening + max(frames) + tail
            budget = min(end - opening - max(frames), max(lengths))
            fits = budget >= min(max(lengths), MIN_DOCUMENT_TOKENS)
        else:
            fixed = opening + sum(frames) + tail
            found = token_budget(lengths, context - fixed)
            budget, fits = found or 0, found is not None
        if not fits:
            raise InvalidInputError(
                f"{len(lengths)} documents do not fit the model's context of {context} tokens: "
                f"query, instruction and frames need {fixed}, which leaves less than "
                f"{MIN_DOCUMENT_TOKENS} tokens a document; rank fewer documents (--depth) "
                "or use a model with a longer context"
            )
        return budget

    @property
    def nulls(self) -> tuple[Tail, ...]:
        """The content-free tails of every layout."""
        return self._tails([])

    def _tails(self, queries: Sequence[str]) -> tuple[Tail, ...]:
        nulls, share = self._calibration.nulls, self._calibration.instruction_share
        told = [*queries, *(nulls if share > 0 else ())]
        bare = nulls if share < 1 else ()
        said = [self._wording.tail(query, instruction=True) for query in told]
        said += [self._wording.tail(null, instruction=False) for null in bare]
        return tuple(Tail(ids, rows) for ids, rows in said)


def orders(choice: OrderChoice, documents: int, request: int = 0) -> list[list[int]]:
    """Return the prompt orders of a profile, one per permutation, as positions in the input.

    ``request`` is the number of the request among others; see ``OrderChoice``.
    """
    given = list(range(documents))
    if choice.arrange == "shuffled-by-request":
        # As the release draws: one shuffle in place, after seeding with the sum.
        random.Random(choice.seed + request).shuffle(given)
        return [given]
    if choice.arrange == "shuffled":
        return [
            random.Random(choice.seed + k).sample(given, documents)
            for k in range(choice.permutations)
        ]
    return [given[::-1] if choice.arrange == "best-last" else given]
