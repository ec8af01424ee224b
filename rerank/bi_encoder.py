"""The bi-encoder baseline: query and documents become vectors, each alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from ranklens.data.encoder import Encoder, Pooling
from ranklens.data.models import resolve
from ranklens.data.models.naming import name_of
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, Reranker, Shortened, check_scores, checked_request
from ranklens.rerank.shortening import shorten

_log = logging.getLogger(__name__)


class BiEncoderReranker(Reranker):
    """Ranks documents by the cosine of their vectors with the query's, in [−1, 1].

    A document is its title, a blank and its text. Longer ones than the encoder reads are cut at
    the end, the query too, which is logged; ``tokens_cut`` is of documents. A blank text has the
    cosine 0. Control tokens that a text spells are read as such, which concerns its own vector
    only.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.name = f"bi-encoder:{name_of(encoder.model)}"
        self.placement = encoder.placement
        self.revision = resolve(encoder.model).revision
        self._turn = threading.RLock()
        self._pieces = PieceTokenizer(encoder.tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        pooling: Pooling | None = None,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        max_tokens: int | None = None,
        batch: int = 32,
        device: str | None = None,
        dtype: str | None = None,
    ) -> BiEncoderReranker:
        """Load an encoder, pulled where it is not here; settings and errors are ``Encoder``'s."""
        return cls(
            Encoder(
                model,
                pooling=pooling,
                query_prompt=query_prompt,
                passage_prompt=passage_prompt,
                max_tokens=max_tokens,
                device=device,
                dtype=dtype,
                batch=batch,
            )
        )

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Raises NumericalError for a vector with NaN or Inf.
        """
        import numpy as np

        text, records = checked_request(query, documents)
        texts = [record.full_text for record in records]
        # Equal ones once: in batches of other lengths their vectors would differ by rounding.
        distinct = {one: row for row, one in enumerate(dict.fromkeys(texts))}
        with self._turn:
            asked = self.encoder.encode_queries([text])[0].astype(np.float64)
            found = self.encoder.encode_passages(list(distinct)).astype(np.float64)
            cut = self.encoder.tokens_cut(texts)
            [lost] = self.encoder.tokens_cut([text], queries=True)
        if lost:
            _log.warning("%s does not read the last %d tokens of the query", self.name, lost)
        vectors = found[[distinct[one] for one in texts]]
        # Lengths of an encoder that does not normalise, or of bfloat16's ones, are not 1.
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked)
        cosines = vectors @ asked / np.where(lengths > 0, lengths, 1)
        check_scores(self, records, cosines)
        return Ranking.from_scores(records, cosines.tolist(), cut)

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` tokens; see ``Reranker.shortened``."""
        return shorten(text, most, self._pieces.text_with_offsets)
