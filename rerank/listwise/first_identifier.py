"""Listwise reranking as FIRST does it: nothing is written, the first identifier is weighed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ranklens.data.causal_lm import CausalLM
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.rerank.listwise.prompt import LETTERS, Identifiers, identifiers, listwise_turns
from ranklens.rerank.listwise.windowed import Ordered, WindowedReranker
from ranklens.rerank.listwise.windows import STEP, WINDOW


class FirstIdentifierReranker(WindowedReranker):
    """Ranks by log p(identifier) as the first of the order that the model would write.

    The answer's opening bracket is put into the model's mouth, then each identifier has to be
    one token, and another one than the rest. So passages are lettered, A to Z, as in FIRST: in
    most vocabularies 1 and 12 begin with the same token. ``numbers`` are for models that were
    trained on them and have a token for each.

    Scores are log-probabilities where one window holds the whole list; with several, document i
    on rank r of n has the score n − r, since those of two prompts cannot be compared.
    """

    kind = "listwise-logits"

    def __init__(
        self,
        lm: CausalLM,
        *,
        window: int = WINDOW,
        step: int = STEP,
        max_tokens: int | None = None,
        labels: Identifiers = "letters",
    ) -> None:
        super().__init__(lm, window=window, step=step, max_tokens=max_tokens)
        if labels not in ("letters", "numbers"):
            raise UsageError(f"labels are {labels!r}; choose letters or numbers")
        if labels == "letters" and window > len(LETTERS):
            raise UsageError(
                f"a window of {window} passages has more than {len(LETTERS)} letters; use a "
                "smaller window, or labels='numbers' where the model has a token for each"
            )
        self.labels = labels
        self._begun, self._tokens = answer_openings(lm, identifiers(window, labels))

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        window: int = WINDOW,
        step: int = STEP,
        max_tokens: int | None = None,
        labels: Literal["letters", "numbers"] = "letters",
        device: str | None = None,
        dtype: str | None = None,
    ) -> FirstIdentifierReranker:
        """Load a decoder, pulled where it is not here; raises as ``CausalLM.load``.

        UsageError for settings out of range, InvalidInputError for a model whose tokens do not
        tell the identifiers apart.
        """
        from ranklens.data.models import pull

        pull(model)
        lm = CausalLM.load(model, device, dtype)
        return cls(lm, window=window, step=step, max_tokens=max_tokens, labels=labels)

    def _order(self, query: str, passages: Sequence[str]) -> Ordered:
        turns = listwise_turns(query, passages, self.labels)
        prompt = self.lm.encode(turns, most=self.max_tokens, reserve=len(self._begun) + 1)
        ids = [*prompt.ids, *self._begun]
        logs = self.lm.next_log_probs([ids], self._tokens[: len(passages)])
        scores: list[float] = logs[0].tolist()
        order = sorted(range(len(passages)), key=lambda place: (-scores[place], place))
        return Ordered(order, prompt.tokens_cut, scores)


def answer_openings(lm: CausalLM, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the tokens that all answers begin with, and those of each identifier behind them.

    Raises InvalidInputError where two identifiers go on with the same token.
    """
    answers = [lm.chat.answer(f"[{name}]") for name in names]
    columns = enumerate(zip(*answers, strict=False))
    shared = next((number for number, column in columns if len(set(column)) > 1), 0)
    tokens = [answer[shared] for answer in answers]
    first: dict[int, str] = {}
    for token, name in zip(tokens, names, strict=True):
        known = first.setdefault(token, name)
        if known != name:
            raise InvalidInputError(
                f"{lm.name} begins the identifiers {known} and {name} with the same token, so "
                f"that one token does not tell {len(names)} passages apart; use a smaller window, "
                "labels='letters', or listwise:MODEL, which writes the whole order"
            )
    return answers[0][:shared], tokens
