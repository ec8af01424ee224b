"""Explanations: which tokens and passages of a document carry its score.

A token's value is its calibrated attention c(j), heads summed by weight, before the profile's
filter. Its contribution is what is left of it after filter and pooling: contributions of a
document's tokens, with those of its marker, add up to its score wherever the score is a sum
(``adds_up``). It is not where the profile compares logarithms or takes a softmax over the list;
there contributions are of the differences, which say the direction only.

With ``pooling.scale`` log a score is Σ_h w_h log m_h(d), and a head with little attention counts
as much as one with a lot. A token's value and contribution are then Σ_h w_h · m_h(j) / m_h(d),
m_h(j) being what it has of the document's m_h(d): how fast the score grows with the logarithm of
the token's attention, all else alike. They add up to Σ_h w_h in every document, not to a score.

Contributions are read off, not caused: whether the text they mark matters is measured by
``faithfulness.erase``, which blanks it, ranks again and compares with blanking random text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranklens.data.errors import InvalidInputError
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document, Query
from ranklens.rerank.alignment import Field, Place
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import checked_request
from ranklens.rerank.engine import TokenSignal
from ranklens.rerank.profile import PoolingChoice, Profile
from ranklens.rerank.prompt import PromptBuilder, PromptLayout, orders
from ranklens.rerank.scores import baseline, document_scores, evenness, idf_weights, kept_tokens

if TYPE_CHECKING:
    import torch

SHARE = 0.5
"""Spans take the highest tokens until these carry this share of what speaks for a document."""


@dataclass(frozen=True, slots=True)
class TokenAttribution:
    """A token of a document: its place (half-open, code points), value and contribution.

    Both are shares of the document where the profile takes logarithms, see the module.
    Tokens that share a character all name the whole of it. A token without a place is white
    space or a separator that the prompt added. ``attention`` is the value before calibration,
    None in profiles that have none.
    """

    place: Place | None
    value: float
    contribution: float
    attention: float | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring tokens that carry much of a score; ``tokens`` is a half-open token range."""

    place: Place
    tokens: tuple[int, int]
    contribution: float


@dataclass(frozen=True, slots=True)
class DocumentExplanation:
    """Why a document scores as it does.

    ``rank`` counts from 1. ``tokens`` are those of title and text, as far as the model saw
    them: ``tokens_cut`` were left out. ``frame`` is the contribution of the marker before the
    text (and, in profiles that count them, of the separator's token or the block's ending).
    ``spans`` come highest first.
    """

    index: int
    document: Document
    rank: int
    score: float
    tokens: tuple[TokenAttribution, ...]
    frame: float
    spans: tuple[Span, ...]
    tokens_cut: int
    adds_up: bool

    def cut_out(self, place: Place) -> str:
        """Return the text at a place."""
        return field_of(self.document, place.field)[place.start : place.end]

    @property
    def seen(self) -> dict[Field, int]:
        """The end of what the model saw, by field."""
        ends: dict[Field, int] = {}
        for token in self.tokens:
            if token.place is not None:
                ends[token.place.field] = max(ends.get(token.place.field, 0), token.place.end)
        return ends


class Explainer:
    """Explains the rankings of one reranker: lists that fit one prompt, documents unsplit."""

    def __init__(self, reranker: AttentionReranker) -> None:
        if reranker.passages is not None:
            raise InvalidInputError(
                "explanations are of whole documents; use a reranker without passages"
            )
        self.reranker = reranker
        self._builder = PromptBuilder(
            PieceTokenizer(reranker.engine.tokenizer), reranker.frame, reranker.profile
        )

    def explain(
        self,
        query: str | Query,
        documents: Sequence[str | Document],
        *,
        share: float = SHARE,
        request: int = 0,
    ) -> list[DocumentExplanation]:
        """Return an explanation for every document, best first.

        One forward pass, or one per permutation of the profile, whose values are averaged.
        ``request`` and errors are those of ``AttentionReranker.rank``.
        """
        if not 0 < share <= 1:
            raise InvalidInputError(f"share must lie in (0, 1], got {share}")
        text, records = checked_request(query, documents)
        profile = self.reranker.profile
        arrangements = orders(profile.prompt.order, len(records), request)
        scores = [0.0] * len(records)
        places: list[list[Place | None]] = [[] for _ in records]
        values: list[list[float]] = [[] for _ in records]
        contributions: list[list[float]] = [[] for _ in records]
        attention: list[list[float]] = [[] for _ in records]
        frames = [0.0] * len(records)
        for order in arrangements:
            layout = self.reranker.layout(text, records, order=order)
            signal = self.reranker.read(layout)
            found = document_scores(signal, layout, profile)[0]
            tokens = _token_values(signal, layout, profile)
            for slot, index in enumerate(order):
                value, contribution, bare = tokens[index]
                marker, own = self._own_tokens(records[index], slot, len(value))
                end = marker + len(own)
                # In a slot with a shorter number a block has room for more tokens.
                places[index] += own[len(places[index]) :]
                for sums in (values[index], contributions[index], attention[index]):
                    sums += [0.0] * (len(own) - len(sums))
                scores[index] += found[index] / len(arrangements)
                frames[index] += sum(contribution[:marker] + contribution[end:]) / len(arrangements)
                for position in range(len(own)):
                    values[index][position] += value[marker + position] / len(arrangements)
                    part = contribution[marker + position] / len(arrangements)
                    contributions[index][position] += part
                    attention[index][position] += bare[marker + position] / len(arrangements)
        ranked = sorted(range(len(records)), key=lambda i: (-scores[i], i))
        exact = (
            profile.calibration.compare == "difference"
            and profile.pooling.scale == "plain"
            and not profile.calibration.temperature
        )
        explained = []
        for rank, index in enumerate(ranked, start=1):
            before: Sequence[float | None] = attention[index]
            if not profile.calibration.nulls:
                before = [None] * len(before)
            rows = zip(places[index], values[index], contributions[index], before, strict=True)
            attributions = tuple(TokenAttribution(*row) for row in rows)
            explained.append(
                DocumentExplanation(
                    index=index,
                    document=records[index],
                    rank=rank,
                    score=scores[index],
                    tokens=attributions,
                    frame=frames[index],
                    spans=top_spans(records[index], attributions, share),
                    tokens_cut=layout.tokens_cut[index],
                    adds_up=exact,
                )
            )
        return explained

    def shortened(
        self, query: str, records: Sequence[Document], request: int = 0
    ) -> list[Document]:
        """Return the documents without what the model does not see of their titles and texts."""
        order = orders(self.reranker.profile.prompt.order, len(records), request)[0]
        layout = self.reranker.layout(query, records, order=order)
        found = list(records)
        for slot, index in enumerate(order):
            if layout.tokens_cut[index]:
                first, end = layout.spans[index]
                _, own = self._own_tokens(records[index], slot, end - first)
                found[index] = _up_to(records[index], own)
        return found

    def _own_tokens(
        self, document: Document, slot: int, span: int
    ) -> tuple[int, list[Place | None]]:
        """Return where in a span of that length a document's own tokens begin, and their places."""
        # Such a span ends with a token of the separator, where the frame has one.
        wording = self.reranker.profile.prompt
        behind = wording.span == "text-and-next" and self.reranker.frame.separator
        trace = self._builder.trace(document, slot)
        first = min(trace.first, span)
        return first, trace.places[: span - (1 if behind else 0) - first]


def top_spans(
    document: Document, tokens: Sequence[TokenAttribution], share: float = SHARE
) -> tuple[Span, ...]:
    """Return the highest tokens as spans, neighbours merged, white space at the ends left out.

    Tokens are taken from the highest down, of those that speak for the document, until they
    carry ``share`` of what all of these do.
    """
    places = [token.place for token in tokens]
    placed = [i for i, token in enumerate(tokens) if token.place and token.contribution > 0]
    placed.sort(key=lambda i: (-tokens[i].contribution, i))
    wanted = share * sum(tokens[i].contribution for i in placed)
    taken: set[int] = set()
    carried = 0.0
    for i in placed:
        if carried >= wanted:
            break
        taken.add(i)
        carried += tokens[i].contribution
    runs: list[tuple[int, int]] = []
    for i in sorted(taken):
        place, last = places[i], places[runs[-1][1] - 1] if runs else None
        if runs and runs[-1][1] == i and place and last and place.field == last.field:
            runs[-1] = (runs[-1][0], i + 1)
        else:
            runs.append((i, i + 1))
    spans = []
    for first, end in runs:
        inside = [place for place in places[first:end] if place is not None]
        trimmed = _trimmed(document, inside)
        if trimmed is not None:
            total = sum(token.contribution for token in tokens[first:end])
            spans.append(Span(trimmed, (first, end), total))
    return tuple(sorted(spans, key=lambda span: (-span.contribution, span.tokens)))


def _token_values(
    signal: TokenSignal, layout: PromptLayout, profile: Profile
) -> list[tuple[list[float], list[float], list[float]]]:
    """Return for each document its span's values, contributions, and values not calibrated."""
    import torch

    if profile.signal.combine == "documents":
        mass = signal.mass.double()
        weights = [signal.plan.weights[layer][head] for layer, head in signal.plan.heads]
    else:
        mass, weights = signal.total()[None], [1.0]
    weight = torch.tensor(weights, dtype=torch.float64)
    bare = mass[:, 0]
    null = baseline(mass, layout, profile.calibration)
    calibrated = bare if null is None else bare - null
    if profile.pooling.idf:
        rarity = idf_weights(layout)
        bare, calibrated = bare * rarity, calibrated * rarity
    found = []
    for first, end in layout.spans:
        tokens = calibrated[:, first:end]
        parts = contributions(tokens, profile.pooling)
        if profile.pooling.scale == "log":
            of_document = parts.sum(1, keepdim=True)
            # A head without attention for the document has nothing to share out.
            parts = torch.where(of_document > 0, parts / of_document, 0.0)
            tokens = parts
        shares = weight @ parts
        attended = weight @ bare[:, first:end]
        found.append(((weight @ tokens).tolist(), shares.tolist(), attended.tolist()))
    return found


def contributions(tokens: torch.Tensor, choice: PoolingChoice) -> torch.Tensor:
    """Return what each token adds to its document's pooled value, [heads, tokens]; see ``pool``."""
    import torch

    keep = kept_tokens(tokens, choice)
    kept = torch.where(keep, tokens, 0.0)
    count = keep.sum(1, keepdim=True).clamp_min(1)
    if choice.reduce == "top-k-mean":
        assert choice.top_k is not None
        places = (
            torch.where(keep, tokens, -torch.inf).sort(stable=True, dim=1, descending=True).indices
        )
        highest = torch.zeros_like(keep).scatter(1, places[:, : choice.top_k], True)
        shares = torch.where(highest, kept, 0.0) / count.clamp_max(choice.top_k)
    else:
        exponent = 1.0 if choice.reduce == "mean" else choice.length_exponent
        shares = kept / count.double() ** exponent
    if choice.entropy:
        shares = shares * evenness(kept.abs(), count[:, 0])[:, None] ** choice.entropy
    return shares


def _up_to(document: Document, places: Sequence[Place | None]) -> Document:
    """Return the document up to the last of these places, title and text each."""
    ends = {"title": 0, "text": 0}
    for place in places:
        if place is not None:
            ends[place.field] = max(ends[place.field], place.end)
    return dataclasses.replace(
        document, title=document.title[: ends["title"]], text=document.text[: ends["text"]]
    )


def _trimmed(document: Document, places: Sequence[Place]) -> Place | None:
    start, end = min(p.start for p in places), max(p.end for p in places)
    text = field_of(document, places[0].field)[start:end]
    start += len(text) - len(text.lstrip())
    end -= len(text) - len(text.rstrip())
    return Place(places[0].field, start, end) if start < end else None


def field_of(document: Document, field: Field) -> str:
    """Return a document's title or text."""
    return document.title if field == "title" else document.text
