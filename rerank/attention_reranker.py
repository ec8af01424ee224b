"""Reranking by attention: prompt, one forward pass, calibration, pooling."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ranklens.data.models import ResolvedModel, resolve
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, checked_request
from ranklens.rerank.engine import AttentionEngine, TokenSignal
from ranklens.rerank.frames import frame_of
from ranklens.rerank.pieces import PieceTokenizer
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptBuilder, PromptLayout, orders
from ranklens.rerank.scores import document_scores

_log = logging.getLogger(__name__)


class AttentionReranker:
    """Ranks documents by the attention that a decoder pays to them while it reads the query.

    >>> reranker = AttentionReranker.from_pretrained("smollm2-135m")
    >>> reranker.rank("capital of France", ["Berlin is in Germany.", "Paris is in France."]).ids
    ['1', '0']
    """

    def __init__(
        self, engine: AttentionEngine, profile: Profile, model: ResolvedModel | None = None
    ) -> None:
        self.engine = engine
        self.profile = profile
        self.model = model
        self.frame = profile.prompt.frame or frame_of(engine.tokenizer)
        self.plan = engine.plan(profile.signal)
        self._prompts = PromptBuilder(PieceTokenizer(engine.tokenizer), self.frame, profile)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        profile: str | Path | Profile = "icr",
        revision: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        download: bool = True,
    ) -> AttentionReranker:
        """Load a model by registry name, hub id or local folder.

        ``download=False`` never touches the network. ``device`` and ``dtype`` are chosen by
        ``choose_placement`` when None. Raises MissingResourceError for an unknown model or
        profile, MissingPrerequisiteError without the ``llm`` extra, InvalidInputError for a
        model whose attention cannot be read.
        """
        chosen = load_profile(profile)
        resolved = resolve(str(model), revision=revision, download=download)
        engine = AttentionEngine.from_pretrained(
            resolved.path, device=device, dtype=dtype, layers=chosen.signal.layers_needed
        )
        return cls(engine, chosen, resolved)

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Scores are the profile's: for ``icr`` the summed difference between the attention that
        the query's and a content-free query's tokens pay to the document, over all layers and
        heads. Raises InvalidInputError for an empty query, no documents, an id that occurs
        twice and documents that do not fit the context; NumericalError for NaN or Inf.
        """
        return self.rank_queries([query], documents)[0]

    def rank_queries(
        self, queries: Sequence[str | Query], documents: Sequence[str | Document]
    ) -> list[Ranking]:
        """Return one ranking per query over the same documents, all read in one forward pass.

        The documents are computed once; each query adds its own tokens. Raises as ``rank``.
        """
        texts = [checked_request(query, documents)[0] for query in queries]
        if not texts:
            return []
        _, records = checked_request(queries[0], documents)
        arrangements = orders(self.profile.prompt.order, len(records))
        totals = [[0.0] * len(records) for _ in texts]
        for order in arrangements:
            layout = self.layout(texts, records, order=order)
            found = document_scores(self.read(layout), layout, self.profile)
            totals = [
                [a + b / len(arrangements) for a, b in zip(total, scores, strict=True)]
                for total, scores in zip(totals, found, strict=True)
            ]
        cut = sum(1 for tokens in layout.tokens_cut if tokens)
        if cut:
            _log.info("%d of %d documents were shortened to fit", cut, len(records))
        return [Ranking.from_scores(records, scores, layout.tokens_cut) for scores in totals]

    def rank_many(
        self, requests: Iterable[tuple[str | Query, Sequence[str | Document]]]
    ) -> Iterator[Ranking]:
        """Yield one ranking per (query, documents), in order."""
        for query, documents in requests:
            yield self.rank(query, documents)

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
        return self.engine.read(layout, self.plan)
