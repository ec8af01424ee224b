"""The pointwise baseline: a decoder is asked of each document whether it answers the query."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ranklens.data.causal_lm import CausalLM
from ranklens.data.chat import Text, Turn
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.models.naming import name_of
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, Reranker, Shortened, check_scores, checked_request
from ranklens.rerank.shortening import shorten

INSTRUCTION = (
    "Judge whether the passage answers the query, or helps to. Answer with one word, yes or no."
)
"""What the model is asked where no other ``instruction`` is given."""
_FORMS = tuple(blank + form for blank in ("", " ") for form in ("{0}", "{1}", "{2}"))


class PointwiseReranker(Reranker):
    """Ranks documents by log p(yes) − log p(no) of the answer's first token.

    The tokens read are those of "yes", "Yes" and "YES" and of "no", "No" and "NO", each without
    and with a blank before it, as far as both words of a form are one token of the model's; the
    probabilities of a word's forms are added. The prompt is one turn of the user: instruction,
    query, passage; a passage is title, blank and text. Only passages are cut, at the end, to
    ``max_tokens`` (None: what the context holds). The instruction and the query, which all
    prompts begin with, are computed once.
    """

    def __init__(
        self,
        lm: CausalLM,
        *,
        instruction: str = INSTRUCTION,
        max_tokens: int | None = None,
        batch: int = 8,
    ) -> None:
        if not instruction.strip():
            raise UsageError("the instruction is empty; leave it out for the default")
        for name, value in (("max_tokens", max_tokens), ("batch", batch)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        self.lm = lm
        self.name = f"pointwise:{name_of(lm.name)}"
        self.placement = lm.placement
        self.revision = lm.revision
        self.instruction, self.max_tokens, self.batch = instruction, max_tokens, batch
        self.tokens = answer_tokens(lm)
        self._turn = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        instruction: str = INSTRUCTION,
        max_tokens: int | None = None,
        batch: int = 8,
        device: str | None = None,
        dtype: str | None = None,
    ) -> PointwiseReranker:
        """Load a decoder, pulled where it is not here; raises as ``CausalLM.load``.

        UsageError for settings out of range; InvalidInputError for a model without tokens for
        yes and no.
        """
        from ranklens.data.models import pull

        pull(model)
        lm = CausalLM.load(model, device, dtype)
        return cls(lm, instruction=instruction, max_tokens=max_tokens, batch=batch)

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Raises InvalidInputError for a query that leaves no room for passages, NumericalError for
        NaN.
        """
        import numpy as np

        text, records = checked_request(query, documents)
        prompts = [
            self.lm.encode([self._turn_of(text, record.full_text)], most=self.max_tokens)
            for record in records
        ]
        # Equal ones once: in batches of other lengths their scores would differ by rounding.
        distinct = {ids: row for row, ids in enumerate(dict.fromkeys(p.ids for p in prompts))}
        yes, no = self.tokens
        with self._turn:
            found = self.lm.next_log_probs(list(distinct), [*yes, *no], batch=self.batch)
        logs = found[[distinct[prompt.ids] for prompt in prompts]]
        said, denied = logs[:, : len(yes)], logs[:, len(yes) :]
        scores = np.logaddexp.reduce(said, axis=1) - np.logaddexp.reduce(denied, axis=1)
        check_scores(self, records, scores)
        return Ranking.from_scores(
            records, scores.tolist(), [sum(prompt.tokens_cut) for prompt in prompts]
        )

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` tokens; see ``Reranker.shortened``."""
        return shorten(text, most, self.lm.chat.offsets)

    def _turn_of(self, query: str, passage: str) -> Turn:
        return Turn(
            "user",
            (
                f"{self.instruction}\n\nQuery: ",
                Text(query),
                "\n\nPassage: ",
                Text(passage, cut="end"),
                "\n\nDoes the passage answer the query, yes or no?",
            ),
        )


def answer_tokens(lm: CausalLM) -> tuple[list[int], list[int]]:
    """Return the tokens of yes and of no, form by form; see ``PointwiseReranker``.

    Raises InvalidInputError where no form of both words is one token each.
    """
    yes: list[int] = []
    no: list[int] = []
    for form in _FORMS:
        said, denied = (
            lm.chat.answer(form.format(word, word.capitalize(), word.upper()))
            for word in ("yes", "no")
        )
        # Both or none: a word with more forms would have the larger probability for it.
        if len(said) == len(denied) == 1 and said != denied:
            yes += said
            no += denied
    yes, no = list(dict.fromkeys(yes)), list(dict.fromkeys(no))
    if not yes or not set(yes).isdisjoint(no):
        raise InvalidInputError(
            f"{lm.name} has no single tokens for both yes and no, so its answer cannot be read "
            "off one token; use listwise:MODEL, or another model"
        )
    return yes, no
