"""Tokenising a prompt piece by piece, so that no span ever has to be searched for.

Trusted pieces (chat frame, instruction) may hold control tokens; text of documents and queries
is tokenised with none recognised, so ``<|im_end|>`` in a document is eight ordinary tokens and
cannot end the user's turn.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ranklens.data.errors import InvalidInputError

# Added tokens that families do not flag as special, yet act as control (<think>, [TOOL_CALLS]).
_BRACKETED = re.compile(r"[<\[].*[>\]]", re.DOTALL)
# A private-use character: no vocabulary merges it with what follows.
_LEAD = "\ue000"


class PieceTokenizer:
    """Token ids of prompt pieces, such that the pieces' bytes concatenate to the prompt's.

    Wraps a Hugging Face tokenizer with the ``tokenizers`` backend; raises InvalidInputError
    for one without.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InvalidInputError(
                f"{type(tokenizer).__name__} has no `tokenizers` backend (tokenizer.json); "
                "convert the model's tokenizer to the fast format"
            )
        self._trusted = _copy(backend, control_is_text=False)
        self._text = _copy(backend, control_is_text=True)
        # The unknown token is no control: it stands for what the vocabulary lacks.
        self._control = {
            token_id: token.content
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token_id != tokenizer.unk_token_id
            and (token.special or _BRACKETED.fullmatch(token.content))
        }
        bos = tokenizer.bos_token_id
        adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
        self.bos: tuple[int, ...] = (bos,) if adds_bos else ()
        # SentencePiece-style tokenizers put a blank before whatever they are given. A piece in
        # the middle of a prompt must not get one; a character before it absorbs the blank.
        lead = self._text.encode(_LEAD, add_special_tokens=False).ids
        alone = self._text.encode("a", add_special_tokens=False).ids
        after = self._text.encode(_LEAD + "a", add_special_tokens=False).ids
        self._lead = lead if after[: len(lead)] == lead and after[len(lead) :] != alone else []

    @property
    def control_tokens(self) -> frozenset[str]:
        """The tokens that trusted pieces may hold and texts cannot."""
        return frozenset(self._control.values())

    def trusted(self, text: str, following: str = "", *, first: bool = False) -> list[int]:
        """Return the ids of prompt text of ours, control tokens recognised.

        ``following`` is how the next piece begins: some tokenizers split white space by what
        comes after it (GPT-2's pattern reads a blank line before a word as two line breaks).
        ``first`` marks the beginning of the prompt, where a tokenizer may put its blank.
        """
        ids = self._encode(self._trusted, text, first)
        if not following:
            return ids
        whole = self._encode(self._trusted, text + following, first)
        after = self._encode(self._trusted, following)
        return whole[: -len(after)] if whole[-len(after) :] == after else ids

    def text(self, text: str) -> list[int]:
        """Return the ids of somebody's text, no control token recognised.

        Lone surrogates, which no tokenizer takes, become U+FFFD.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        ids = self._encode(self._text, text)
        if not self._control.keys().isdisjoint(ids):
            # A tokenizer whose model vocabulary itself spells a control token. Losing the
            # token is safe; letting it through would hand the document the user's turn.
            ids = [token_id for token_id in ids if token_id not in self._control]
        return ids

    def _encode(self, backend: Any, text: str, first: bool = False) -> list[int]:
        if not text:
            return []
        if first or not self._lead:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
            return ids
        ids = backend.encode(_LEAD + text, add_special_tokens=False).ids
        return ids[len(self._lead) :]


def _copy(backend: Any, *, control_is_text: bool) -> Any:
    """Return a copy of a backend tokenizer without padding, truncation and post-processing.

    Control tokens are not removed to become text: those that stay would get other ids.
    """
    from tokenizers import Tokenizer

    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = state["post_processor"] = None
    for token in state["added_tokens"]:
        token["special"] = token["special"] or bool(_BRACKETED.fullmatch(token["content"]))
    copy = Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = control_is_text
    return copy
