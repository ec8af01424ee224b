"""Reranking by attention: prompts, a forward pass for each, calibration, pooling."""

from __future__ import annotations

import dataclasses
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.models import ResolvedModel, resolve
from ranklens.data.models.naming import name_of
from ranklens.data.parts import Parts, Passages, combine, split
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document, Query
from ranklens.rerank.backoff import Reading, read_in_pieces
from ranklens.rerank.base import Ranking, Reranker, Shortened, checked_request
from ranklens.rerank.engine import AttentionEngine, TokenSignal
from ranklens.rerank.frames import frame_of
from ranklens.rerank.long_lists import Dealt, LongLists, lay_out, merge
from ranklens.rerank.many import Throughput, ranked_in_windows
from ranklens.rerank.origin import doubts
from ranklens.rerank.passages import unlimited
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import default_profile, load_profile
from ranklens.rerank.prompt import PromptBuilder, PromptLayout, orders
from ranklens.rerank.scales import shares
from ranklens.rerank.scores import document_scores
from ranklens.rerank.shortening import shorten

if TYPE_CHECKING:
    from ranklens.rerank.kv.cache import DocumentCache

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request, tokenised: for each prompt a layout for each order of its documents."""

    records: Sequence[Document]
    parts: Parts
    dealt: Dealt
    layouts: Sequence[Sequence[PromptLayout]]

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.records)

    @property
    def tokens(self) -> int:
        """The tokens that go through the model, tails included."""
        each = (layout for of_prompt in self.layouts for layout in of_prompt)
        return sum(len(a.shared) + sum(len(tail.ids) for tail in a.tails) for a in each)


class AttentionReranker(Reranker):
    """Ranks documents by the attention that a decoder pays to them while it reads the query.

    ``long_lists`` says what happens to a list that one prompt cannot hold, see ``LongLists``;
    ``passages`` splits long documents instead of shortening them, see ``Passages``. With
    ``documents`` they are computed once, see ``DocumentCache``; the profile must be in blocks.

    >>> reranker = AttentionReranker.from_pretrained("smollm2-135m")
    >>> reranker.rank("how do I sort a list", ["Paris is in France.", "sorted() sorts."]).ids
    ['1', '0']
    """

    def __init__(
        self,
        engine: AttentionEngine,
        profile: Profile,
        model: ResolvedModel | None = None,
        *,
        long_lists: Literal["refuse", "anchors"] | LongLists = "refuse",
        passages: Passages | None = None,
        documents: DocumentCache | None = None,
    ) -> None:
        self.engine = engine
        self.profile = profile
        self.model = model
        called = engine.config.model_type if model is None else name_of(model.spec)
        self.name = f"attention:{called}"
        self.placement = engine.placement
        self.revision = None if model is None else model.revision
        self.long_lists = LongLists(long_lists) if isinstance(long_lists, str) else long_lists
        if not isinstance(passages, Passages | None):
            raise UsageError(f"passages must be Passages(...) or None, got {passages!r}")
        self.passages = passages
        self.documents = documents
        self.frame = profile.prompt.frame or frame_of(engine.tokenizer)
        self.plan = engine.plan(profile.signal)
        self._pieces = PieceTokenizer(engine.tokenizer)
        whole = profile if passages is None else unlimited(profile)
        self._prompts = PromptBuilder(self._pieces, self.frame, whole)
        self._reading: Reading = engine
        # Held while the model reads: a cache of documents is filled by one call at a time.
        self._turn = threading.RLock()
        if documents is not None:
            from ranklens.rerank.kv.reading import CachedReading

            nulls = self._prompts.nulls
            self._reading = CachedReading(engine, documents, profile, model, nulls)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        profile: str | Path | Profile | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        download: bool = True,
        long_lists: Literal["refuse", "anchors"] | LongLists = "refuse",
        passages: Passages | None = None,
        documents: DocumentCache | None = None,
    ) -> AttentionReranker:
        """Load a model by registry name, hub id or local folder; a trained one by its adapter's.

        Without a ``profile`` it is the model's own where there is one, else ``icr``. A profile
        made with another model or prompt is used, and warned of. ``download=False`` never
        touches the network. ``device`` and ``dtype`` are chosen by ``choose_placement`` when
        None. Raises MissingResourceError for an unknown model or profile,
        MissingPrerequisiteError without the ``llm`` extra, InvalidInputError for a model whose
        attention cannot be read.
        """
        chosen = load_profile(default_profile(str(model)) if profile is None else profile)
        if documents is not None:
            from ranklens.rerank.kv.reading import check_profile

            check_profile(chosen, documents.keep_tokens)
        resolved = resolve(str(model), revision=revision, download=download)
        engine = AttentionEngine.from_pretrained(
            resolved.path,
            device=device,
            dtype=dtype,
            layers=chosen.signal.layers_needed,
            adapters=resolved.adapters,
        )
        for doubt in doubts(chosen, resolved):
            _log.warning("%s", doubt)
        return cls(
            engine,
            chosen,
            resolved,
            long_lists=long_lists,
            passages=passages,
            documents=documents,
        )

    def rank(
        self, query: str | Query, documents: Sequence[str | Document], *, request: int = 0
    ) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Scores are the profile's: for ``icr`` the summed difference between the attention that
        the query's and a content-free query's tokens pay to the document, over all layers and
        heads. ``request`` is the call's number among others, which only a profile that
        shuffles by it asks for, see ``OrderChoice``. Raises InvalidInputError for an empty
        query, no documents, an id that occurs twice and documents that do not fit the context;
        NumericalError for NaN or Inf; RanklensError when memory does not suffice for one query.
        """
        return self._rankings(self._prepare([query], documents, request))[0]

    def rank_queries(
        self, queries: Sequence[str | Query], documents: Sequence[str | Document]
    ) -> list[Ranking]:
        """Return one ranking per query over the same documents, all read in one forward pass.

        The documents are computed once; each query adds its own tokens. With rotations that
        depend on length (longrope) all have those of the longest. Where the profile's prompt
        begins with the query each has a pass of its own. A call is one request, number 0.
        Raises as ``rank``.
        """
        if self.profile.prompt.query_in_opening:
            return [self.rank(query, documents) for query in queries]
        return self._rankings(self._prepare(queries, documents, 0)) if queries else []

    def rank_many(
        self,
        requests: Iterable[tuple[str | Query, Sequence[str | Document]]],
        *,
        window: int = 64,
        on_progress: Callable[[Throughput], None] | None = None,
    ) -> Iterator[Ranking]:
        """Yield one ranking per (query, documents), in order; the same as ``rank`` of each.

        A request's number is its place, from 0. Reads ``window`` requests at a time and runs the
        longest of them first. ``on_progress`` is told the throughput after every request. An
        error names the request.
        """
        return ranked_in_windows(
            requests,
            lambda number, query, documents: self._prepare([query], documents, number),
            lambda prepared: self._rankings(prepared)[0],
            window=window,
            on_progress=on_progress,
        )

    def layout(
        self,
        queries: str | Sequence[str],
        documents: Sequence[Document],
        *,
        order: Sequence[int] | None = None,
    ) -> PromptLayout:
        """Return the prompt of a call: the queries' tails first, then the content-free ones."""
        queries = [queries] if isinstance(queries, str) else queries
        return self._prompts.build(queries, documents, self.engine.context, order=order)

    def read(self, layout: PromptLayout) -> TokenSignal:
        """Return the attention per token for a layout."""
        with self._turn:
            return read_in_pieces(self._reading, layout, self.plan)

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` tokens; see ``Reranker.shortened``."""
        return shorten(text, most, self._pieces.text_with_offsets)

    def keep(self, documents: Sequence[str | Document]) -> None:
        """Compute documents ahead of any query, and keep them in the cache of documents.

        Documents that the context cuts are kept as a short query leaves them. Raises
        InvalidInputError without a cache, and as ``rank``.
        """
        from ranklens.rerank.kv.reading import CachedReading

        if not isinstance(self._reading, CachedReading):
            raise InvalidInputError("there is nothing to keep documents in: give documents=…")
        # Any query will do: none of it is in what is kept.
        for layouts in self._prepare(["x"], documents, 0).layouts:
            with self._turn:
                self._reading.keep(layouts[0], self.plan)

    def _prepare(
        self, queries: Sequence[str | Query], documents: Sequence[str | Document], request: int
    ) -> Prepared:
        texts = [checked_request(query, documents)[0] for query in queries]
        _, records = checked_request(queries[0], documents)
        parts = split(records, self.passages, lambda text: len(self._pieces.text(text)))

        def arranged(number: int) -> list[list[int]]:
            return orders(self.profile.prompt.order, number, request)

        def build(chosen: Sequence[int], context: int | None) -> PromptLayout:
            return self._prompts.build(
                texts,
                [parts.passages[place] for place in chosen],
                context or sys.maxsize,
                order=arranged(len(chosen))[0],
            )

        try:
            dealt, firsts = lay_out(
                build, len(parts.passages), self.long_lists, self.engine.context
            )
        except InvalidInputError as error:
            if len(parts.passages) == len(records):
                raise
            raise InvalidInputError(f"{error} (passages of {len(records)} documents)") from error
        if len(dealt.prompts) > 1:
            _log.info(
                "%d %s in %d prompts that share %d of them",
                len(parts.passages),
                "documents" if len(parts.passages) == len(records) else "passages",
                len(dealt.prompts),
                len(dealt.anchors),
            )
        layouts = []
        for prompt, first in zip(dealt.prompts, firsts, strict=True):
            _, *others = arranged(len(prompt))
            of_prompt = [parts.passages[place] for place in prompt]
            layouts.append([first, *(self.layout(texts, of_prompt, order=o) for o in others)])
        return Prepared(records, parts, dealt, layouts)

    def _rankings(self, prepared: Prepared) -> list[Ranking]:
        """Read every prompt, and return one ranking per query."""
        parts, dealt = prepared.parts, prepared.dealt
        profile, temperature = self.profile, self.profile.calibration.temperature
        put_together = len(dealt.prompts) > 1 or len(parts.passages) > len(prepared.records)
        if put_together and temperature is not None:
            # A softmax is over all documents: it comes when they are together.
            plain = dataclasses.replace(profile.calibration, temperature=None)
            profile = dataclasses.replace(profile, calibration=plain)
        by_prompt = [self._mean_scores(layouts, profile) for layouts in prepared.layouts]
        cut = _tokens_cut(prepared)
        shortened = sum(1 for tokens in cut if tokens)
        if shortened:
            _log.info("%d of %d documents were shortened to fit", shortened, len(cut))
        rankings = []
        for of_query in zip(*by_prompt, strict=True):
            scores = merge(of_query, dealt)
            if self.passages is not None:
                scores = combine(scores, parts, self.passages.combine)
            if put_together and temperature is not None:
                scores = shares(scores, temperature)
            rankings.append(Ranking.from_scores(prepared.records, scores, cut))
        return rankings

    def _mean_scores(self, layouts: Sequence[PromptLayout], profile: Profile) -> list[list[float]]:
        """Return the scores of each query, [queries][documents], mean over a prompt's orders."""
        totals = [[0.0] * len(layouts[0].spans) for _ in range(layouts[0].queries)]
        for layout in layouts:
            found = document_scores(self.read(layout), layout, profile)
            totals = [
                [a + b / len(layouts) for a, b in zip(total, scores, strict=True)]
                for total, scores in zip(totals, found, strict=True)
            ]
        return totals


def _tokens_cut(prepared: Prepared) -> list[int]:
    """Return the tokens cut of each document, with those of passages that were not read.

    Those of a passage are counted in the prompt that cut most.
    """
    cut = [0] * len(prepared.parts.passages)
    for prompt, (layout, *_) in zip(prepared.dealt.prompts, prepared.layouts, strict=True):
        for place, tokens in zip(prompt, layout.tokens_cut, strict=True):
            cut[place] = max(cut[place], tokens)
    unread = prepared.parts.unread or [0] * len(prepared.records)
    totals = combine(cut, prepared.parts, "sum")
    return [int(total) + rest for total, rest in zip(totals, unread, strict=True)]
