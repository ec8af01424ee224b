"""What listwise rerankers share: a decoder, windows over the list, and how scores are given."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.causal_lm import CausalLM
from ranklens.data.errors import UsageError
from ranklens.data.models.naming import name_of
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, Reranker, Shortened, check_scores, checked_request
from ranklens.rerank.listwise.permutation import Permutation
from ranklens.rerank.listwise.windows import check_windows, sliding
from ranklens.rerank.shortening import shorten


@dataclass(frozen=True, slots=True)
class Ordered:
    """A window in order: positions best first, and for each passage the tokens that were cut.

    ``scores``: of each passage as it was shown, where the model gives any; ``answer``: what was
    wrong with an order that it wrote.
    """

    order: Sequence[int]
    tokens_cut: Sequence[int]
    scores: Sequence[float] | None = None
    answer: Permutation | None = None


class WindowedReranker(Reranker):
    """Ranks by a decoder that sees ``window`` documents at a time, and moves on by ``step``.

    A document is its title, a blank and its text. Only documents are cut, at the end: to
    ``max_tokens`` each (None: no limit), then all to one length that the context holds. Where a
    document stood in several windows ``tokens_cut`` is the largest.
    """

    kind: str

    def __init__(
        self, lm: CausalLM, *, window: int, step: int, max_tokens: int | None = None
    ) -> None:
        check_windows(window, step)
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, got {max_tokens}")
        self.lm = lm
        self.name = f"{self.kind}:{name_of(lm.name)}"
        self.placement = lm.placement
        self.revision = lm.revision
        self.window, self.step, self.max_tokens = window, step, max_tokens
        self._turn = threading.RLock()

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Raises InvalidInputError where a window leaves its documents less than 16 tokens of the
        context, NumericalError for NaN.
        """
        text, records = checked_request(query, documents)
        texts = [record.full_text for record in records]
        cut = [0] * len(records)
        asked: list[Ordered] = []

        def ask(shown: Sequence[int]) -> Sequence[int]:
            with self._turn:
                found = self._order(text, [texts[index] for index in shown])
            for index, tokens in zip(shown, found.tokens_cut, strict=True):
                cut[index] = max(cut[index], tokens)
            asked.append(found)
            return found.order

        order = sliding(len(records), self.window, self.step, ask)
        self._tell([one.answer for one in asked if one.answer is not None])
        if len(asked) == 1 and asked[0].scores is not None:
            # One window holds the list as it was given; scores of two could not be compared.
            check_scores(self, records, asked[0].scores)
            return Ranking.from_scores(records, asked[0].scores, cut)
        scores = [0.0] * len(records)
        for rank, index in enumerate(order, start=1):
            scores[index] = float(len(records) - rank)
        return Ranking.from_scores(records, scores, cut)

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` tokens; see ``Reranker.shortened``."""
        return shorten(text, most, self.lm.chat.offsets)

    @abstractmethod
    def _order(self, query: str, passages: Sequence[str]) -> Ordered:
        """Order the passages of one window."""

    def _tell(self, answers: Sequence[Permutation]) -> None:
        """Say what was wrong with the answers of one call."""
