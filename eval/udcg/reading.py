"""Answers of a reader to questions with their first passages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ranklens.data.causal_lm import CausalLM
from ranklens.data.errors import InvalidInputError
from ranklens.data.files import shown
from ranklens.eval.udcg.kept import Kept, digest
from ranklens.eval.udcg.prompt import question_with


def answers_of(
    lm: CausalLM,
    asked: Sequence[tuple[str, tuple[str, ...]]],
    kept: Kept,
    most: int,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Return the first line of the greedy answers to (question, passages), in their order.

    At most ``most`` tokens each; passages that are too long together lose their beginnings.
    What ``kept`` has is not asked again. Raises InvalidInputError, with the question, for one
    that does not fit the model.
    """
    answers = []
    for question, passages in asked:
        key = digest(question, passages, most)
        answer = kept.get(key)
        if answer is None:
            try:
                prompt = lm.encode(question_with(question, passages), reserve=most).ids
            except InvalidInputError as error:
                raise InvalidInputError(
                    f"the question {shown(question)} with {len(passages)} passages and an answer "
                    f"of {most} tokens: {error}"
                ) from None
            [text] = lm.generate([prompt], most)
            # Models that do not stop go on with the next question.
            answer = text.strip().partition("\n")[0].rstrip()
            kept.put([(key, answer)])
        answers.append(answer)
        advance(1)
    return answers
