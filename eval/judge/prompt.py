"""Judging prompts: TOML files with a place for query and passage, and the labels they ask for."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ranklens.data.chat import Role, Text, Turn
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import read_text, shown

SHIPPED = ("graded", "criteria")
_PLACE = re.compile(r"\{(query|passage)\}")
_TEXTS = {"name", "system", "user", "answer"}
_KEYS = _TEXTS | {"labels", "criteria"}
_MOST_GRADE = 1000


@dataclass(frozen=True, slots=True)
class JudgePrompt:
    """What a judge is asked.

    ``system`` (may be empty) and ``user`` are our words with ``{query}`` and ``{passage}``, and
    with ``{criterion}`` where there are criteria; other braces stand for themselves. ``answer`` is
    what an answer says before the label; empty where the label is the whole answer. ``labels``:
    label as it is written → grade. ``criteria``: name → definition; one call each, or one call in
    all where there are none.
    """

    name: str
    system: str
    user: str
    answer: str
    labels: Mapping[str, int]
    criteria: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The identity of the wording, as 12 hexadecimal digits; comments do not count."""
        said = [self.system, self.user, self.answer, dict(self.labels), dict(self.criteria)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]

    @property
    def calls(self) -> tuple[str, ...]:
        """The names of the calls that a pair takes."""
        return tuple(self.criteria) or (self.name,)

    def turns(self, call: str, query: str, passage: str) -> tuple[Turn, ...]:
        """Return a call's turns; only the passage may be cut, at its end."""
        texts = {"query": Text(query), "passage": Text(passage, cut="end")}
        said: tuple[tuple[Role, str], ...] = (("system", self.system), ("user", self.user))
        turns = []
        for role, words in said:
            told = words.replace("{criterion}", self.criteria.get(call, "{criterion}")).strip()
            if told:
                # Split by the places, every second part is the name of one.
                parts = enumerate(_PLACE.split(told))
                kept = tuple(texts[part] if number % 2 else part for number, part in parts)
                turns.append(Turn(role, kept))
        return tuple(turns)


def load_prompt(spec: str) -> JudgePrompt:
    """Return a shipped prompt by name, or a file's.

    Raises MissingResourceError where there is neither, InvalidInputError that names the file and
    the key for what cannot be used.
    """
    if spec in SHIPPED:
        file = resources.files("ranklens.eval.judge") / "prompts" / f"{spec}.toml"
        return _parsed(file.read_text("utf-8"), spec)
    path = Path(spec).expanduser()
    if not path.exists():
        raise MissingResourceError(
            f"no prompt {spec!r}: give {' or '.join(SHIPPED)}, or the path of a TOML file"
        )
    return _parsed(read_text(path), str(path))


def _parsed(text: str, place: str) -> JudgePrompt:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{place}: not TOML ({error})") from None
    unknown = sorted(found.keys() - _KEYS)
    if unknown:
        raise InvalidInputError(
            f"{place}: unknown key {unknown[0]!r}; a prompt has {', '.join(sorted(_KEYS))}"
        )
    for key in _TEXTS & found.keys():
        if not isinstance(found[key], str):
            raise InvalidInputError(f"{place}: {key} must be text, got {shown(found[key])}")
    prompt = JudgePrompt(
        name=found.get("name", Path(place).stem),
        system=found.get("system", ""),
        user=found.get("user", ""),
        answer=found.get("answer", "").strip(),
        labels=_labels(found.get("labels"), place),
        criteria=_criteria(found.get("criteria", {}), place),
    )
    for wanted in ("{query}", "{passage}"):
        if wanted not in prompt.user:
            raise InvalidInputError(f"{place}: user lacks {wanted}")
        if wanted in prompt.system:
            raise InvalidInputError(f"{place}: {wanted} belongs in user, not in system")
    told = "{criterion}" in prompt.system + prompt.user
    if told != bool(prompt.criteria):
        wrong = "a place {criterion} and no criteria" if told else "criteria and no {criterion}"
        raise InvalidInputError(f"{place}: there are {wrong}")
    return prompt


def _labels(found: Any, place: str) -> dict[str, int]:
    if not isinstance(found, dict) or len(found) < 2:
        raise InvalidInputError(
            f"{place}: needs a table [labels] of two labels or more, such as 0 = 0 and 1 = 1"
        )
    for label, grade in found.items():
        if type(grade) is not int or not 0 <= grade <= _MOST_GRADE:
            raise InvalidInputError(
                f"{place}: the grade of label {label!r} must be an integer from 0 to "
                f"{_MOST_GRADE}, got {shown(grade)}"
            )
        if not label.strip() or label != label.strip():
            raise InvalidInputError(f"{place}: the label {label!r} has blanks at its ends")
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _criteria(found: Any, place: str) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise InvalidInputError(f"{place}: [criteria] must be a table of name = definition")
    return found
