"""Listwise reranking as RankGPT does it: the model writes the order."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ranklens.data.causal_lm import CausalLM
from ranklens.rerank.listwise.permutation import Permutation, read_permutation
from ranklens.rerank.listwise.prompt import identifiers, listwise_turns
from ranklens.rerank.listwise.windowed import Ordered, WindowedReranker
from ranklens.rerank.listwise.windows import STEP, WINDOW

_log = logging.getLogger(__name__)
# Tokens of an answer beyond those of a clean one: a word before it, an item's number.
_SPARE = 16


class ListwiseReranker(WindowedReranker):
    """Ranks by the order that a decoder writes, ``[3] > [1] > [2]``, generated greedily.

    A written order has no scores: document i on rank r of n has the score n − r, ranks counted
    from 1. What an answer leaves out keeps the order it came in, behind what it names; how many
    answers of a call were not clean is logged as a warning. ``answers`` counts those of all
    calls, ``faulty`` the ones among them that were not clean.
    """

    kind = "listwise"
    answers = 0
    faulty = 0

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        window: int = WINDOW,
        step: int = STEP,
        max_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> ListwiseReranker:
        """Load a decoder, pulled where it is not here; raises as ``CausalLM.load``.

        UsageError for settings out of range.
        """
        from ranklens.data.models import pull

        pull(model)
        lm = CausalLM.load(model, device, dtype)
        return cls(lm, window=window, step=step, max_tokens=max_tokens)

    def _order(self, query: str, passages: Sequence[str]) -> Ordered:
        clean = " > ".join(f"[{name}]" for name in identifiers(len(passages), "numbers"))
        most = len(self.lm.chat.answer(clean)) + _SPARE
        turns = listwise_turns(query, passages, "numbers")
        prompt = self.lm.encode(turns, most=self.max_tokens, reserve=most)
        [written] = self.lm.generate([prompt.ids], most)
        answer = read_permutation(written, len(passages))
        if not answer.clean:
            _log.debug("read as %s: %r", answer, written)
        return Ordered(answer.order, prompt.tokens_cut, answer=answer)

    def _tell(self, answers: Sequence[Permutation]) -> None:
        faulty = [answer for answer in answers if not answer.clean]
        with self._turn:
            self.answers += len(answers)
            self.faulty += len(faulty)
        if faulty:
            _log.warning(
                "%s: %d of %d answers were no clean order (%d left out passages, which keep their "
                "order; %d repeated some; %d named others; %d had another form)",
                self.name,
                len(faulty),
                len(answers),
                sum(bool(answer.missing) for answer in faulty),
                sum(bool(answer.repeated) for answer in faulty),
                sum(bool(answer.out_of_range) for answer in faulty),
                sum(answer.malformed for answer in faulty),
            )
