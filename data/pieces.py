"""Tokenising a prompt piece by piece, so that no span ever has to be searched for.

Trusted pieces (chat frame, instruction) may hold control tokens; text of documents and queries
is tokenised with none recognised, so ``<|im_end|>`` in a document is eight ordinary tokens and
cannot end the user's turn.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Sequence
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
        self._backend = _copy(backend)
        self._lock = threading.Lock()
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
        lead, alone, after = (self._ids(text, controls=False) for text in (_LEAD, "a", _LEAD + "a"))
        self._lead = lead if after[: len(lead)] == lead and after[len(lead) :] != alone else []

    @property
    def control_tokens(self) -> frozenset[str]:
        """The tokens that trusted pieces may hold and texts cannot."""
        return frozenset(self._control.values())

    def whole(self, before: str, text: str, after: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of ``before + text + after`` as one string with nothing before it.

        With each id its half-open range of code points. Control tokens are recognised: those of
        the first and last part are ours. ``text`` is somebody's, without surrogates and with
        every control token's mark broken (``control_marks``); one that a tokenizer makes of it
        all the same is left out, as in ``text``.
        """
        string = before + text + after
        if not string:
            return [], []
        with self._lock:
            self._backend.encode_special_tokens = False
            encoding = self._backend.encode(string, add_special_tokens=False)
        theirs = (len(before), len(before) + len(text))
        kept = [
            (token_id, place)
            for token_id, place in zip(encoding.ids, encoding.offsets, strict=True)
            if token_id not in self._control or not _overlap(_core(string, place), theirs)
        ]
        return [token_id for token_id, _ in kept], [place for _, place in kept]

    def trusted(self, text: str, following: str = "", *, first: bool = False) -> list[int]:
        """Return the ids of prompt text of ours, control tokens recognised.

        ``following`` is how the next piece begins: some tokenizers split white space by what
        comes after it (GPT-2's pattern reads a blank line before a word as two line breaks).
        ``first`` marks the beginning of the prompt, where a tokenizer may put its blank.
        """
        ids = self._encode(text, controls=True, first=first)
        if not following:
            return ids
        whole = self._encode(text + following, controls=True, first=first)
        after = self._encode(following, controls=True)
        return whole[: -len(after)] if whole[-len(after) :] == after else ids

    def opening(self, text: str, following: str = "") -> list[int]:
        """Return the ids of a prompt's beginning, with one beginning-of-sequence token.

        A frame taken from a chat template may bring that token itself.
        """
        ids = self.trusted(text, following, first=True)
        return ids if ids[: len(self.bos)] == list(self.bos) else [*self.bos, *ids]

    def text(self, text: str, *, first: bool = False) -> list[int]:
        """Return the ids of somebody's text, no control token recognised.

        Lone surrogates, which no tokenizer takes, become U+FFFD. ``first`` marks the beginning
        of a sequence, where a tokenizer may put its blank.
        """
        ids = self._encode(without_surrogates(text), controls=False, first=first)
        if not self._control.keys().isdisjoint(ids):
            # A tokenizer whose model vocabulary itself spells a control token. Losing the
            # token is safe; letting it through would hand the document the user's turn.
            ids = [token_id for token_id in ids if token_id not in self._control]
        return ids

    def text_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of ``text``, and each one's half-open range of code points in it.

        For text without surrogates, whose replacement could move what follows.
        """
        if not text:
            return [], []
        with self._lock:
            self._backend.encode_special_tokens = True
            encoding = self._backend.encode(
                _LEAD * bool(self._lead) + text, add_special_tokens=False
            )
        shift = len(_LEAD) if self._lead else 0
        rows = list(zip(encoding.ids, encoding.offsets, strict=True))[len(self._lead) :]
        kept = [
            (i, (start - shift, end - shift)) for i, (start, end) in rows if i not in self._control
        ]
        return [i for i, _ in kept], [offsets for _, offsets in kept]

    def _encode(self, text: str, *, controls: bool, first: bool = False) -> list[int]:
        if not text:
            return []
        if first or not self._lead:
            return self._ids(text, controls=controls)
        return self._ids(_LEAD + text, controls=controls)[len(self._lead) :]

    def _ids(self, text: str, *, controls: bool) -> list[int]:
        # Whether control tokens are recognised is a setting of the tokenizer, not of a call.
        with self._lock:
            self._backend.encode_special_tokens = not controls
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def plain_marks(frame: Sequence[str], pieces: PieceTokenizer) -> list[str]:
    """Return marks that are plain text to the tokenizer (Mistral v0.2's ``[/INST]``).

    ``frame``: what a chat format puts around turns.
    """
    return [
        line.strip()
        for line in "\n".join(frame).splitlines()
        if len(line.strip()) > 2 and not any(token in line for token in pieces.control_tokens)
    ]


def control_marks(pieces: PieceTokenizer) -> list[str]:
    """Return how a tokenizer's control tokens are spelled, where a blank inside can break that."""
    spelled = {token.strip() for token in pieces.control_tokens}
    return sorted(token for token in spelled if len(token) > 1)


def without_marks(text: str, marks: Sequence[str]) -> str:
    """Return somebody's text with a blank inside every mark, which then no longer is one.

    Marks begin with no blank and are longer than a character, or this would not end.
    """
    # Again, because marks can overlap, and one that is broken can be another that holds a blank.
    while any(mark in text for mark in marks):
        for mark in marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


def without_surrogates(text: str) -> str:
    """Return a text whose lone surrogates, which no tokenizer takes, are U+FFFD; pairs join."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _core(string: str, place: tuple[int, int]) -> tuple[int, int]:
    """Return a token's range without the white space that some control tokens swallow."""
    covered = string[slice(*place)]
    start = place[0] + len(covered) - len(covered.lstrip())
    return start, start + len(covered.strip())


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(one[0], other[0]) < min(one[1], other[1])


def _copy(backend: Any) -> Any:
    """Return a copy of a backend tokenizer without padding and truncation.

    Control tokens are not removed to become text: those that stay would get other ids.
    """
    copied = copy.deepcopy(backend)
    copied.no_truncation()
    copied.no_padding()
    bracketed = [
        token
        for token in copied.get_added_tokens_decoder().values()
        if _BRACKETED.fullmatch(token.content) and not token.special
    ]
    for token in bracketed:
        token.special = True
    copied.add_special_tokens(bracketed)
    return copied
