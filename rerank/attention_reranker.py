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
from ranklens.rerank.profile import Profile, load_profile
from ranklens.rerank.prompt import PromptBuilder, PromptLayout
from ranklens.rerank.scores import calibrate, pool

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
        self.frame = frame_of(engine.tokenizer)
        self._prompts = PromptBuilder(PieceTokenizer(engine.tokenizer), self.frame, profile.prompt)

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
        engine = AttentionEngine.from_pretrained(resolved.path, device=device, dtype=dtype)
        return cls(engine, chosen, resolved)

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Scores are the profile's: for ``icr`` the summed difference between the attention that
        the query's and a content-free query's tokens pay to the document, over all layers and
        heads. Raises InvalidInputError for an empty query, no documents, an id that occurs
        twice and documents that do not fit the context; NumericalError for NaN or Inf.
        """
        text, records = checked_request(query, documents)
        layout = self.layout(text, records)
        cut = sum(1 for tokens in layout.tokens_cut if tokens)
        if cut:
            _log.info("%d of %d documents were shortened to fit", cut, len(records))
        totals = self.read(layout).total()
        scores = pool(
            calibrate(totals, self.profile.calibration), layout.spans, self.profile.pooling
        )
        return Ranking.from_scores(records, scores, layout.tokens_cut)

    def rank_many(
        self, requests: Iterable[tuple[str | Query, Sequence[str | Document]]]
    ) -> Iterator[Ranking]:
        """Yield one ranking per (query, documents), in order."""
        for query, documents in requests:
            yield self.rank(query, documents)

    def layout(self, query: str, documents: Sequence[Document]) -> PromptLayout:
        """Return the prompt of a call: the query's tail first, then the content-free one's."""
        tails = [query]
        if self.profile.calibration.method == "null-query":
            tails.append(self.profile.calibration.null)
        return self._prompts.build(tails, documents, self.engine.context)

    def read(self, layout: PromptLayout) -> TokenSignal:
        """Return the attention per token for a layout."""
        return self.engine.read(layout)
