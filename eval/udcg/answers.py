"""Grading short answers without a judge: exact match and F1 over words, and abstention.

Answers are normalised as SQuAD's evaluation does (Rajpurkar et al. 2016): lower case, ASCII
punctuation and the articles a, an, the removed, white space collapsed. A question may have several
gold answers (aliases); each figure is the best over them.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ranklens.data.errors import InvalidInputError

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# As words, so that the reply is recognised in any case and with a full stop or quotes.
_ABSTAINED = re.compile(r"\bno[-_ ]response\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AnswerGrade:
    """Figures of one answer, in [0, 1]; one that abstains has 0 in both."""

    exact_match: float
    f1: float
    abstained: bool


def normalised(text: str) -> str:
    """Return an answer as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def grade(answer: str, golds: Sequence[str]) -> AnswerGrade:
    """Grade an answer against the gold answers; InvalidInputError without one.

    An answer abstains when it says NO-RESPONSE anywhere, or says nothing at all.
    """
    if not golds:
        raise InvalidInputError("there is no gold answer to grade against")
    if not answer.strip() or _ABSTAINED.search(answer):
        return AnswerGrade(0.0, 0.0, abstained=True)
    return AnswerGrade(
        exact_match=float(any(normalised(answer) == normalised(gold) for gold in golds)),
        f1=max(_f1(normalised(answer).split(), normalised(gold).split()) for gold in golds),
        abstained=False,
    )


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = sum((Counter(answer) & Counter(gold)).values())
    return 2 * common / (len(answer) + len(gold))
