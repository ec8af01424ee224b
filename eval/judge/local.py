"""A local model as a judge: the probabilities of the labels as its next token, nothing parsed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ranklens.data.causal_lm import CausalLM
from ranklens.data.chat import Encoded
from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.eval.judge.prompt import JudgePrompt
from ranklens.eval.judge.verdict import Call, Failure, Pair, Verdict

_BATCH = {"cpu": 8, "cuda": 32}
# Batches whose pairs are sorted by length together: a batch takes as long as its longest.
_SORTED = 8


class LocalJudge:
    """Grades pairs by the label that the model finds most likely to come next.

    The answer's beginning, as far as all labels share it, is put into the model's mouth; each
    label then has to be one token. ``most``: tokens of a passage. Raises InvalidInputError for
    labels that are not, or that the model's vocabulary does not tell apart.
    """

    def __init__(self, lm: CausalLM, prompt: JudgePrompt, *, most: int | None = None) -> None:
        self.lm = lm
        self.prompt = prompt
        self.most = most
        answers = [lm.chat.answer(f"{prompt.answer} {label}".strip()) for label in prompt.labels]
        columns = enumerate(zip(*answers, strict=False))
        shared = next((number for number, column in columns if len(set(column)) > 1), 0)
        self._begun = answers[0][:shared]
        rests = [answer[shared:] for answer in answers]
        for label, rest in zip(prompt.labels, rests, strict=True):
            if len(rest) != 1:
                raise InvalidInputError(
                    f"the label {label!r} of prompt {prompt.name!r} is not one token of "
                    f"{lm.name} where the labels differ; use other labels, such as digits, or an "
                    "endpoint, whose answers are read as text"
                )
        self._tokens = [rest[0] for rest in rests]
        if len(set(self._tokens)) < len(self._tokens):
            raise InvalidInputError(
                f"{lm.name} writes several labels of prompt {prompt.name!r} with one token, as "
                "what its vocabulary lacks; use other labels, such as digits"
            )
        self._grades = list(prompt.labels.values())

    def judge(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Verdict | Failure]]:
        """Yield every pair with its verdict, a batch at a time, in about the order given.

        A pair whose query leaves the passage no room in the model's context, or on which the model
        gives NaN or Inf, is a Failure.
        """
        batch = _BATCH.get(self.lm.placement.device.partition(":")[0], 8)
        for start in range(0, len(pairs), _SORTED * batch):
            near = sorted(pairs[start : start + _SORTED * batch], key=_length)
            for first in range(0, len(near), batch):
                fitting: list[tuple[Pair, list[Encoded]]] = []
                for pair in near[first : first + batch]:
                    try:
                        fitting.append((pair, self._encoded(pair)))
                    except InvalidInputError as error:
                        yield pair, Failure(str(error))
                if fitting:
                    yield from self._judged(fitting)

    def _judged(
        self, fitting: Sequence[tuple[Pair, list[Encoded]]]
    ) -> Iterator[tuple[Pair, Verdict | Failure]]:
        try:
            verdicts = self._verdicts([prompts for _, prompts in fitting])
        except NumericalError as error:
            if len(fitting) == 1:
                yield fitting[0][0], Failure(str(error))
                return
            # One by one, to tell the pairs that fail from their neighbours.
            for one in fitting:
                yield from self._judged([one])
            return
        yield from zip((pair for pair, _ in fitting), verdicts, strict=True)

    def _encoded(self, pair: Pair) -> list[Encoded]:
        """Return the prompts of a pair, one a call."""
        return [
            self.lm.encode(
                self.prompt.turns(name, pair.query, pair.passage),
                most=self.most,
                reserve=len(self._begun) + 1,
            )
            for name in self.prompt.calls
        ]

    def _verdicts(self, pairs: Sequence[Sequence[Encoded]]) -> list[Verdict]:
        # Call by call, since the prompts of one call begin with the same words.
        columns = zip(self.prompt.calls, zip(*pairs, strict=True), strict=True)
        asked = [self._calls(name, encoded) for name, encoded in columns]
        return [
            Verdict(
                tuple(call for call, _, _ in answers),
                tokens_in=sum(tokens for _, tokens, _ in answers),
                tokens_out=len(answers),
                tokens_cut=max(cut for _, _, cut in answers),
            )
            for answers in zip(*asked, strict=True)
        ]

    def _calls(self, name: str, encoded: Sequence[Encoded]) -> list[tuple[Call, int, int]]:
        """Return the answer to one call on every pair, its tokens and those cut."""
        import numpy as np

        prompts = [[*one.ids, *self._begun] for one in encoded]
        logs = self.lm.next_log_probs(prompts, self._tokens, batch=len(encoded))
        found = np.exp(logs)
        shares = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
        return [
            (
                Call(
                    name,
                    self._grades[int(np.argmax(logs[row]))],
                    probabilities=tuple(map(float, shares[row])),
                    mass=float(found[row].sum()),
                ),
                len(prompts[row]),
                sum(one.tokens_cut),
            )
            for row, one in enumerate(encoded)
        ]


def _length(pair: Pair) -> int:
    return len(pair.query) + len(pair.passage)
