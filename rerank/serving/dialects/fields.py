"""What request models of all dialects share: strict types, and which fields had no effect."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from ranklens.rerank.serving.dialects.errors import RequestError, whole
from ranklens.rerank.serving.jobs import Answer, TooLargeError

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_NAMED = 10


class Fields(BaseModel):
    """Fields of a request: ``"3"`` is no number, ``1`` no boolean; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ModelField(Fields):
    """Every dialect's ``model``."""

    model: str | None = Field(None, description="Any name, unless the server is strict about it.")

    def check_model(self, loaded: str, strict: bool) -> None:
        """Refuse another model's name where the server is strict: a 404 RequestError.

        It usually is not: clients of Cohere and Jina have to send one of these services' names.
        """
        if strict and self.model not in (None, loaded):
            raise RequestError(
                404,
                f"the model {whole(self.model or '')[:80]!r} is not here, {loaded!r} is",
                "model",
            )


class Usage(TypedDict):
    """Tokens that the model read, as vLLM and Jina count them."""

    prompt_tokens: int
    total_tokens: int


Shape = TypeVar("Shape", bound=Fields)


def usage(tokens: int) -> Usage:
    """Return the usage of an answer: all tokens are read, none are written."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def read(shape: type[Shape], body: Mapping[str, Any]) -> Shape:
    """Return the request in a body; a RequestError names the fields that are wrong."""
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise RequestError.of(error) from None


def ignored(shape: type[Fields], body: Mapping[str, Any]) -> list[str]:
    """Return the names of fields that a body has and nobody reads, at most ten, in its order.

    Only names that are plain words: the others cannot stand in a header.
    """
    known: set[str] = set()
    for name, field in shape.model_fields.items():
        choices = getattr(field.validation_alias, "choices", ())
        known.update(choices or (name,))
    unread = (name for name in body if name not in known and _NAME.fullmatch(name))
    return list(itertools.islice(unread, _NAMED))


def check_number(documents: object, most: int) -> None:
    """Raise TooLargeError for a list of too many, before each of them is looked at."""
    if isinstance(documents, list) and len(documents) > most:
        raise TooLargeError(f"{len(documents)} documents; at most {most} a request")


def headers(answers: Sequence[Answer], unread: Sequence[str]) -> dict[str, str]:
    """Return what every dialect says in headers: what was cut, and which fields were not read."""
    told = {
        "X-Ranklens-Tokens-Cut": str(sum(answer.tokens_cut for answer in answers)),
        "X-Ranklens-Documents-Cut": str(sum(answer.documents_cut for answer in answers)),
    }
    if unread:
        told["X-Ranklens-Ignored-Fields"] = ", ".join(unread)
    return told
