"""Chat prompts as token ids: our words with the model's control tokens, others' text without.

A turn is a sequence of parts: a str is ours, a Text is somebody's. The chat template is rendered
once for a sequence of roles, around marks; contents are put between its pieces as tokens. So no
text passes through the template, and none can end its turn, begin another or speak for another
role: its control tokens are tokenised as the characters they are written with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ranklens.data.errors import InvalidInputError
from ranklens.data.pieces import PieceTokenizer, plain_marks, without_marks
from ranklens.data.token_budget import MIN_DOCUMENT_TOKENS, token_budget

Role = Literal["system", "user", "assistant"]

# What templates that write a date get, so that a prompt does not change from day to day.
_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}"
    '{{ "2024-07-26" if format == "%Y-%m-%d" else "26 Jul 2024" }}'
    "{%- endmacro -%}"
)
_PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class Text:
    """Somebody's text in a prompt: a query, a passage.

    ``cut``: the end from which it may be shortened to fit; None for text that must stay whole.
    """

    text: str
    cut: Literal["start", "end"] | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role says. White space of ours at its ends is left out, as templates do."""

    role: Role
    parts: tuple[str | Text, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt; ``tokens_cut``: of each text that may be cut, in order."""

    ids: tuple[int, ...]
    tokens_cut: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    """What stands before, between and behind the contents of the turns."""

    pieces: tuple[str, ...]
    marks: tuple[str, ...]


class Chat:
    """Writes turns for one tokenizer, by its chat template.

    Where the template refuses a system role, or leaves it out, the system's words are put before
    the user's. Without a template turns are paragraphs of plain text, and the answer is the next;
    before them stands the beginning-of-sequence token of a tokenizer that adds one. With a
    template that token is the template's business.
    Templates that can think aloud are asked not to.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._pieces = PieceTokenizer(tokenizer)
        self._frames: dict[tuple[Role, ...], _Frame | None] = {}
        try:
            self._template = tokenizer.get_chat_template() if tokenizer.chat_template else None
        except ValueError as error:
            raise InvalidInputError(f"the model's chat template does not work: {error}") from None

    def encode(self, turns: Sequence[Turn], room: int, *, most: int | None = None) -> Encoded:
        """Return the ids of a prompt after which the assistant speaks.

        Only texts that may be cut are shortened: to ``most`` tokens each, then all to one length
        such that the prompt has at most ``room`` tokens. Raises InvalidInputError where that
        leaves the longest less than 16 tokens, and for a template that does not work.
        """
        frame, contents = self._framed(turns)
        if not any(contents):
            raise InvalidInputError("the prompt is empty")
        parts: list[str | Text] = [frame.pieces[0]]
        for content, piece in zip(contents, frame.pieces[1:], strict=True):
            parts += [*content, piece]
        written = self._written(_merged(parts), frame.marks)
        return _fitted(written, room, most)

    @property
    def pieces(self) -> PieceTokenizer:
        """The tokenizer of prompts that are no chats."""
        return self._pieces

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer's words, as they follow a prompt."""
        return self._pieces.trusted(text)

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return somebody's text as ids and ranges; see ``PieceTokenizer.text_with_offsets``."""
        return self._pieces.text_with_offsets(text)

    def _framed(self, turns: Sequence[Turn]) -> tuple[_Frame, list[list[str | Text]]]:
        contents = [_stripped(turn.parts) for turn in turns]
        roles = tuple(turn.role for turn in turns)
        frame = self._frame(roles)
        if frame is None and roles[:2] == ("system", "user"):
            joint: list[str | Text] = [_PARAGRAPH] if contents[0] and contents[1] else []
            contents = [[*contents[0], *joint, *contents[1]], *contents[2:]]
            frame = self._frame(roles[1:])
        if frame is None:
            raise InvalidInputError(
                f"the model's chat template does not take the turns {', '.join(roles)}, or does "
                "not reproduce what is said in them; use an instruction-tuned model with an "
                "ordinary template"
            )
        return frame, contents

    def _frame(self, roles: tuple[Role, ...]) -> _Frame | None:
        if roles not in self._frames:
            pieces = self._rendered(roles)
            self._frames[roles] = (
                None if pieces is None else _Frame(pieces, tuple(plain_marks(pieces, self._pieces)))
            )
        return self._frames[roles]

    def _rendered(self, roles: tuple[Role, ...]) -> tuple[str, ...] | None:
        """Return the pieces around the contents; None where the template fails or loses one."""
        if self._template is None:
            return ("", *[_PARAGRAPH] * len(roles))
        from jinja2 import TemplateError

        marks = [f"\x00ranklens{number}\x00" for number in range(len(roles))]
        try:
            rest = self._tokenizer.apply_chat_template(
                [{"role": r, "content": mark} for r, mark in zip(roles, marks, strict=True)],
                chat_template=_FIXED_DATE + self._template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except (TemplateError, TypeError, ValueError):
            return None
        pieces = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                return None
            pieces.append(before)
        return None if any(mark in rest for mark in marks) else (*pieces, rest)

    def _written(self, parts: Sequence[str | Text], marks: Sequence[str]) -> list[_Written]:
        written = []
        if self._template is None and isinstance(parts[0], Text):
            written.append(_Written(list(self._pieces.bos), None))
        for number, part in enumerate(parts):
            before = parts[number - 1] if number else ""
            if isinstance(part, Text):
                # A word and the blank before it are one token in most vocabularies.
                blank = " " if isinstance(before, str) and before.endswith(" ") else ""
                ids = self._pieces.text(blank + without_marks(part.text, marks))
                written.append(_Written(ids, part.cut))
            else:
                text = part if number + 1 == len(parts) else part.removesuffix(" ")
                written.append(_Written(self._ours(text, first=number == 0), None))
        return written

    def _ours(self, text: str, *, first: bool) -> list[int]:
        if first and self._template is None:
            return self._pieces.opening(text)
        return self._pieces.trusted(text, first=first)


@dataclass(frozen=True, slots=True)
class _Written:
    ids: list[int]
    cut: Literal["start", "end"] | None


def _merged(parts: Iterable[str | Text]) -> list[str | Text]:
    """Return the parts with neighbouring words of ours joined, and empty ones left out."""
    merged: list[str | Text] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part:
            merged.append(part)
    return merged


def _stripped(parts: Iterable[str | Text]) -> list[str | Text]:
    kept = _merged(parts)
    if kept and isinstance(kept[0], str):
        kept[0] = kept[0].lstrip()
    if kept and isinstance(kept[-1], str):
        kept[-1] = kept[-1].rstrip()
    return [part for part in kept if part]


def _fitted(written: Sequence[_Written], room: int, most: int | None) -> Encoded:
    lengths = [len(one.ids) for one in written if one.cut is not None]
    most = max(lengths, default=0) if most is None else most
    limited = [min(length, most) for length in lengths]
    fixed = sum(len(one.ids) for one in written if one.cut is None)
    budget = token_budget(limited, room - fixed) if limited else 0
    if budget is None or (not limited and fixed > room):
        raise InvalidInputError(
            f"the prompt does not fit the model: without what may be shortened it has {fixed} "
            f"tokens of {room}, which leaves a passage less than {MIN_DOCUMENT_TOKENS}; use a "
            "shorter prompt or a model with a longer context"
        )
    ids: list[int] = []
    for one in written:
        if one.cut is None or len(one.ids) <= budget:
            ids += one.ids
        else:
            ids += one.ids[:budget] if one.cut == "end" else one.ids[len(one.ids) - budget :]
    return Encoded(tuple(ids), tuple(max(0, length - budget) for length in lengths))
