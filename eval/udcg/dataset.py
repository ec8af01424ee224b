"""Files of questions with the passages a reader was given, in the format of UDCG's authors.

    [{"example_id", "question",
      "passages": [{"doc_id", "text", "is_relevant": true | false | null,
                    "models_info": {MODEL: {"no_res_prob": 0 … 1}}}],
      "udcg": {MODEL: 0 … 1},
      "answers": ["gold", "alias"],
      "generated": {MODEL: {"depth": 5, "exact_match": 0 … 1, …}}}]

Passages stand in the order the reader gets them. ``no_res_prob`` is p_abs. ``answers`` and
``generated`` are ranklens' own, for checks from end to end: the gold answers, and what a model
answered with the first ``depth`` passages, with its figures. Other keys are kept as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import atomic_writer, read_text, shown
from ranklens.eval.udcg.utility import PassageUtility

_PASSAGE_KEYS = ("doc_id", "text", "is_relevant", "models_info")
_EXAMPLE_KEYS = ("example_id", "question", "passages", "udcg", "answers", "generated")
P_ABS = "no_res_prob"


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage of a list; ``models_info`` holds p_abs and its origin by model."""

    doc_id: str
    text: str
    is_relevant: bool | None = None
    models_info: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def utility(self, model: str) -> PassageUtility:
        """Return what is known of the passage for a model."""
        return PassageUtility(self.models_info.get(model, {}).get(P_ABS), self.is_relevant)


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its passages in order, and what was computed of them."""

    example_id: str
    question: str
    passages: tuple[Passage, ...]
    udcg: Mapping[str, float] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    generated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def utilities(self, model: str) -> list[PassageUtility]:
        """Return what is known of each passage for a model, in order."""
        return [passage.utility(model) for passage in self.passages]


def read_examples(path: Path) -> list[Example]:
    """Read a file of examples, plain or gzip.

    Raises MissingResourceError without the file, and InvalidInputError that names example,
    passage and key for what has another form, for an id that occurs twice, and for a number
    that is no probability. Ids may be integers, and are held as text.
    """
    text = read_text(path)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})"
        ) from None
    except RecursionError:
        raise InvalidInputError(f"{path}: not JSON that can be read: nested too deep") from None
    except ValueError as error:
        raise InvalidInputError(f"{path}: not JSON that can be read ({error})") from None
    if not isinstance(value, list):
        raise InvalidInputError(f"{path}: expected a JSON list of examples, got {shown(value)}")
    if not value:
        raise InvalidInputError(f"{path}: the list of examples is empty")
    examples: dict[str, Example] = {}
    for number, record in enumerate(value, start=1):
        example = _example(f"{path}: example {number}", record)
        if not _encodable(record):
            raise InvalidInputError(
                f"{path}: example {number} ({shown(example.example_id)}): a \\ud800 to \\udfff "
                "escape without its other half is not text"
            )
        if example.example_id in examples:
            raise InvalidInputError(
                f"{path}: example {number}: 'example_id' {example.example_id!r} occurs twice"
            )
        examples[example.example_id] = example
    return list(examples.values())


def write_examples(examples: Iterable[Example], path: Path) -> None:
    """Write examples as ``read_examples`` reads them, whole or not at all."""
    records = [_record(example) for example in examples]
    with atomic_writer(path) as stream:
        json.dump(records, stream, indent=2, ensure_ascii=False, allow_nan=False)
        stream.write("\n")


def models(examples: Sequence[Example]) -> list[str]:
    """Return the models that have a p_abs for some passage, in the order they are met."""
    return list(
        dict.fromkeys(
            model
            for example in examples
            for passage in example.passages
            for model, known in passage.models_info.items()
            if known.get(P_ABS) is not None
        )
    )


def _example(where: str, record: object) -> Example:
    values = _object(where, record)
    example_id = _id(where, values, "example_id")
    where = f"{where} ({shown(example_id)})"
    rows = values.get("passages")
    if not isinstance(rows, list):
        raise InvalidInputError(f"{where}: 'passages' must be a list, got {shown(rows)}")
    passages: dict[str, Passage] = {}
    for number, row in enumerate(rows, start=1):
        passage = _passage(f"{where}, passage {number}", row)
        if passage.doc_id in passages:
            raise InvalidInputError(
                f"{where}, passage {number}: 'doc_id' {passage.doc_id!r} occurs twice"
            )
        passages[passage.doc_id] = passage
    udcg = _optional(where, values, "udcg")
    for model, value in udcg.items():
        _probability(f"{where}: 'udcg' of {model!r}", value)
    answers = values.get("answers") or []
    if not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
        raise InvalidInputError(f"{where}: 'answers' must be a list of texts, got {shown(answers)}")
    generated = _optional(where, values, "generated")
    return Example(
        example_id=example_id,
        question=_text(where, values, "question"),
        passages=tuple(passages.values()),
        udcg=udcg,
        answers=tuple(answers),
        generated={
            model: _generated(f"{where}: 'generated' of {model!r}", value)
            for model, value in generated.items()
        },
        extra={key: value for key, value in values.items() if key not in _EXAMPLE_KEYS},
    )


def _passage(where: str, record: object) -> Passage:
    values = _object(where, record)
    doc_id = _id(where, values, "doc_id")
    where = f"{where} ({shown(doc_id)})"
    relevant = values.get("is_relevant")
    if relevant is not None and not isinstance(relevant, bool):
        raise InvalidInputError(
            f"{where}: 'is_relevant' must be true, false or null, got {shown(relevant)}"
        )
    info = {}
    for model, known in _optional(where, values, "models_info").items():
        known = _object(f"{where}: 'models_info' of {model!r}", known)
        if known.get(P_ABS) is not None:
            _probability(f"{where}: {P_ABS!r} of {model!r}", known[P_ABS])
        info[model] = known
    return Passage(
        doc_id=doc_id,
        text=_text(where, values, "text"),
        is_relevant=relevant,
        models_info=info,
        extra={key: value for key, value in values.items() if key not in _PASSAGE_KEYS},
    )


def _generated(where: str, value: object) -> dict[str, Any]:
    known = _object(where, value)
    depth = known.get("depth")
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
        raise InvalidInputError(
            f"{where}: 'depth' must say how many passages the model was given, got {shown(depth)}"
        )
    return known


def _object(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInputError(f"{where}: expected a JSON object, got {shown(value)}")
    return value


def _optional(where: str, values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return {} if value is None else _object(f"{where}: {key!r}", value)


def _id(where: str, values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{where}: {key!r} must be an id, got {shown(value)}")
    return value


def _text(where: str, values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise InvalidInputError(f"{where}: {key!r} must be a text, got {shown(value)}")
    return value


def _probability(where: str, value: object) -> None:
    # NaN is in no range.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidInputError(f"{where} must be a number in [0, 1], got {shown(value)}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _encodable(record: object) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _record(example: Example) -> dict[str, Any]:
    record: dict[str, Any] = {
        "example_id": example.example_id,
        "question": example.question,
        "passages": [_passage_record(passage) for passage in example.passages],
    }
    if example.udcg:
        record["udcg"] = dict(example.udcg)
    if example.answers:
        record["answers"] = list(example.answers)
    if example.generated:
        record["generated"] = {model: dict(known) for model, known in example.generated.items()}
    return record | dict(example.extra)


def _passage_record(passage: Passage) -> dict[str, Any]:
    record: dict[str, Any] = {
        "doc_id": passage.doc_id,
        "text": passage.text,
        "is_relevant": passage.is_relevant,
    }
    if passage.models_info:
        record["models_info"] = {m: dict(known) for m, known in passage.models_info.items()}
    return record | dict(passage.extra)
