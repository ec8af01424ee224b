"""The documents of a request: texts, or objects with a text in them.

    "a text"                                       Cohere, Jina, vLLM, TEI
    {"text": "a text", "id": "7", …}               Cohere v1 and Jina; other fields come back
    {"title": …, "body": …} and rank_fields        Cohere v1: these fields, a line each

An object's fields are texts, numbers, booleans or null: nothing is nested. Images, which Jina's
and vLLM's models may read, are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

from pydantic import Field, PlainValidator
from pydantic.types import FailFast
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from ranklens.rerank.serving.dialects.errors import RequestError, short, whole

_PICTURES = frozenset({"image", "image_url", "images", "content", "video", "audio", "url", "bytes"})


class Returned(TypedDict):
    """A document as it comes back: Cohere v1's and Jina's ``text``, vLLM's ``multi_modal``."""

    text: str
    multi_modal: NotRequired[None]


def _item(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str | dict):
        return value
    raise PydanticCustomError("document", "must be a text or an object with the field 'text'")


Item = Annotated[
    str | dict[str, Any],
    PlainValidator(_item, json_schema_input_type=str | dict[str, str | float | bool | None]),
]
Items = Annotated[list[Item], FailFast(), Field(min_length=1)]
"""At least one document; the first wrong one ends the reading of millions."""
Texts = Annotated[list[str], FailFast(), Field(min_length=1)]


def _one_or_more(value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise PydanticCustomError("texts", "must be a text or a list of at least one")
    for place, text in enumerate(value):
        if not isinstance(text, str):
            raise PydanticCustomError(
                "texts", "must be a text or a list of texts; item {place} is none", {"place": place}
            )
    return value


OneOrMore = Annotated[
    str | list[str], PlainValidator(_one_or_more, json_schema_input_type=str | list[str])
]
"""A text, or a list of texts that is not empty."""


def texts_of(
    items: Sequence[str | dict[str, Any]], rank_fields: Sequence[str] | None
) -> tuple[str, ...]:
    """Return each document's text; a RequestError names the document without one."""
    return tuple(
        whole(item) if isinstance(item, str) else _text_of(f"documents.{index}", item, rank_fields)
        for index, item in enumerate(items)
    )


def returned(item: str | dict[str, Any], text: str) -> dict[str, Any]:
    """Return a document as answers hold it, with every field that it came with."""
    fields = {} if isinstance(item, str) else item
    return {"multi_modal": None, **fields, "text": text}


def _text_of(place: str, item: dict[str, Any], rank_fields: Sequence[str] | None) -> str:
    for name, value in item.items():
        if isinstance(value, list | dict):
            why = (
                "only text can be ranked, no images or other media"
                if name in _PICTURES
                else "a document's fields must be texts, numbers, booleans or null"
            )
            raise RequestError.field(f"{place}.{short(name)}", why)
    names = [name for name in rank_fields if name in item] if rank_fields else ["text"]
    if not names:
        raise RequestError.field(place, f"has none of rank_fields {short(list(rank_fields or ()))}")
    if names == ["text"] and "text" not in item:
        if _PICTURES & item.keys():
            raise RequestError.field(place, "only text can be ranked, no images or other media")
        raise RequestError.field(f"{place}.text", "required in a document that is an object")
    for name in names:
        if not isinstance(item[name], str):
            raise RequestError.field(f"{place}.{short(name)}", "must be a text", item[name])
    return whole("\n".join(item[name] for name in names))
