"""p_abs: the probability that a reader declines to answer from one passage alone.

    p_abs(q, p) = P( first token of "NO-RESPONSE" | prompt with p as the only document, q )

It is read off the next token's distribution, so one forward pass a pair and no sampling. It
depends on template and dtype: both are recorded with every value.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ranklens.data.causal_lm import CausalLM
from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.eval.udcg.kept import Kept, digest
from ranklens.eval.udcg.prompt import abstention_token, question_with


@dataclass(frozen=True, slots=True)
class Abstention:
    """p_abs of a pair and how many tokens of its passage the model did not see.

    ``p_abs`` is None where it could not be had; ``missing`` says why.
    """

    p_abs: float | None
    tokens_cut: int = 0
    missing: str | None = None


def abstention_probabilities(
    lm: CausalLM,
    pairs: Sequence[tuple[str, str]],
    kept: Kept,
    *,
    batch: int = 8,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Abstention]:
    """Return p_abs of (question, passage) pairs, in their order.

    What ``kept`` has is not computed again; what is computed goes there batch by batch. A pair
    whose prompt does not fit, or whose logits are not finite, comes back as missing and is not
    kept. ``advance`` is told how many more pairs are done.
    """
    found: dict[tuple[str, str], Abstention] = {}
    for pair in pairs:
        value = kept.get(digest(*pair))
        if value is not None:
            found[pair] = Abstention(value["p_abs"], value["tokens_cut"])
    times = Counter(pairs)
    advance(sum(times[pair] for pair in found))
    # The longest first: what memory there is shows at once, and batches have one length.
    left = sorted(times.keys() - found.keys(), key=lambda pair: (-len(pair[0] + pair[1]), pair))
    for start in range(0, len(left), batch):
        new = _asked(lm, left[start : start + batch], batch)
        kept.put(
            [
                (digest(*pair), {"p_abs": one.p_abs, "tokens_cut": one.tokens_cut})
                for pair, one in new.items()
                if one.p_abs is not None
            ]
        )
        found |= new
        advance(sum(times[pair] for pair in new))
    return [found[pair] for pair in pairs]


def _asked(
    lm: CausalLM, pairs: Sequence[tuple[str, str]], batch: int
) -> dict[tuple[str, str], Abstention]:
    found: dict[tuple[str, str], Abstention] = {}
    prompts = {}
    for pair in pairs:
        question, passage = pair
        try:
            prompts[pair] = lm.encode(question_with(question, [passage]))
        except InvalidInputError as error:
            found[pair] = Abstention(None, missing=str(error))
    tokens = [abstention_token(lm)]
    asked = list(prompts)
    try:
        values = lm.next_log_probs([prompts[p].ids for p in asked], tokens, batch=batch)[:, 0]
    except NumericalError as error:
        if len(asked) == 1:
            return found | {asked[0]: Abstention(None, missing=str(error))}
        # One by one, to tell the pairs that fail from their neighbours.
        for pair in asked:
            found |= _asked(lm, [pair], 1)
        return found
    for pair, value in zip(asked, values.tolist(), strict=True):
        # Rounding of the logarithm may carry a certainty over 1.
        p_abs = min(math.exp(value), 1.0)
        found[pair] = Abstention(p_abs, sum(prompts[pair].tokens_cut))
    return found
