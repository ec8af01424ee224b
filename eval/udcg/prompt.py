"""The question a reader is asked: with one passage for p_abs, with several for an answer.

The words are those of UDCG's authors (``compute_abstention_probability.py``), with one line
``Document:`` for each passage, and for a passage that fits the tokens are those of their prompt as
one string. Texts are tokenised with no control token recognised, so that none can end its turn.
Three things differ from the authors' script, on purpose:

* A prompt that is too long loses the beginning of its passage, and nothing else. The script cuts
  the templated prompt itself from the left, so the instruction to abstain goes first.
* A chat template that refuses a system role gets the instruction before the user's words; the
  script fails.
* There is one beginning-of-sequence token; the script tokenises the templated text with special
  tokens again, which doubles it on many models.
"""

from __future__ import annotations

from collections.abc import Sequence

from ranklens.data.causal_lm import CausalLM
from ranklens.data.chat import Text, Turn
from ranklens.eval.udcg.kept import digest

ABSTAIN = "NO-RESPONSE"
SYSTEM = (
    "You are given a question and you must respond based on the provided documents. "
    "Respond directly without providing any premise or explanation. "
    "If none of the documents contain the answer, please respond with NO-RESPONSE. "
    "Do not try to respond based on your own knowledge."
)


def question_with(question: str, passages: Sequence[str]) -> tuple[Turn, Turn]:
    """Return the turns that ask a question of the passages, in their order."""
    # Line breaks go with the text before them: many vocabularies have them in one token with a
    # full stop.
    documents = [
        part for passage in passages for part in ("Document: ", Text(f"{passage}\n", cut="start"))
    ]
    return (
        Turn("system", (SYSTEM,)),
        Turn("user", (*documents, "Question: ", Text(f"{question}\nAnswer:"))),
    )


def abstention_token(lm: CausalLM) -> int:
    """Return the first token of NO-RESPONSE, as the tokenizer writes it on its own.

    In many vocabularies it is ``NO``: then an answer that begins with "NO" counts as abstention.
    """
    ids: list[int] = lm._tokenizer.encode(ABSTAIN, add_special_tokens=False)
    return ids[0]


def reader_settings(lm: CausalLM) -> dict[str, str]:
    """Return what a reader's replies depend on, besides question and passages.

    ``template`` is a hash of the tokens around them, so of tokenizer, chat template and words.
    """
    frame = lm.encode(question_with("", [""])).ids
    return {
        "model": lm.name,
        "revision": lm.revision,
        "template": f"sha256:{digest(frame, abstention_token(lm))[:16]}",
        "dtype": lm.placement.dtype,
    }
