"""Error answers, written so that each dialect's clients find what they look for.

    Cohere   {"message"}                                        every path but TEI's
    Jina     {"detail"}                                         the same
    vLLM     {"error": {"message", "type", "param", "code"}}    the same
    TEI      {"error", "error_type"}                            /rerank with `texts`, /info, /health

The first three are one object, since their keys do not meet. TEI's ``error`` is a text where
vLLM's is an object, so the body tells; before it was read (401, 413 of a body) an answer on
``/rerank`` is vLLM's with TEI's ``error_type`` added.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TEI_PATHS = frozenset({"/info", "/health"})
_VLLM_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    413: "RequestEntityTooLargeError",
    415: "UnsupportedMediaTypeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    503: "ServiceUnavailableError",
}
_TEI_TYPES = {429: "Overloaded", 503: "Unhealthy"}
_TOLD = {
    "missing": "required",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "too_short": "must have at least one",
}
_SHOWN = 5
_MESSAGE = 1000


class RequestError(Exception):
    """A request that cannot be answered: its status, what to say, the field that it is about."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param

    @classmethod
    def field(cls, name: str, message: str, value: Any = None) -> RequestError:
        """Return the 422 of one field, with the value shortened."""
        seen = "" if value is None else f", got {short(value)}"
        return cls(422, f"{name}: {message}{seen}", name)

    @classmethod
    def of(cls, error: ValidationError) -> RequestError:
        """Return the 422 of a body that has not the right shape, at most five fields named."""
        # Without the context: it may hold values of any length.
        found = error.errors(include_url=False, include_context=False)
        lines = [_line(each) for each in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"and {len(found) - _SHOWN} more")
        return cls(422, "; ".join(lines), ".".join(str(part) for part in found[0]["loc"]))


def error_response(
    path: str,
    body_is_tei: bool | None,
    status: int,
    message: str,
    headers: Mapping[str, str] | None = None,
    *,
    param: str | None = None,
) -> Response:
    """Return an error in the dialect of ``path``.

    ``body_is_tei`` says whether the body has TEI's ``texts``, None where it was not read; a
    ranking that failed (500) is a 424 in TEI. ``param`` is the field that the error is about.
    """
    if body_is_tei and status == 500:
        status = 424
    if len(message) > _MESSAGE:
        message = message[: _MESSAGE - 1] + "…"
    tei_type = _TEI_TYPES.get(status, "Validation" if status < 500 and status != 424 else "Backend")
    value: dict[str, Any]
    if body_is_tei or path in _TEI_PATHS:
        value = {"error": message, "error_type": tei_type}
    else:
        vllm_type = _VLLM_TYPES.get(
            status, "BadRequestError" if status < 500 else "InternalServerError"
        )
        error = {"message": message, "type": vllm_type, "param": param, "code": status}
        value = {"message": message, "detail": message, "error": error}
        if path == "/rerank" and body_is_tei is None:
            value["error_type"] = tei_type
    return json_response(value, status, headers)


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a value as JSON in UTF-8; halves of surrogate pairs, which it cannot hold, as U+FFFD.

    Raises ValueError for NaN and Inf, which are not JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(
        whole(text).encode(),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/json",
    )


def whole(text: str) -> str:
    """Return the text with halves of surrogate pairs as U+FFFD, code point for code point."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def short(value: Any) -> str:
    """Return a value as JSON's writers know it, some tens of characters at most."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return reprlib.repr(value)


def _line(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]) or "the body"
    told = _TOLD.get(error["type"], error["msg"].replace("Input should be", "must be"))
    # A missing field has no value, and lists and objects say little in thirty characters.
    seen = error["input"]
    return f"{place}: {told}" + ("" if isinstance(seen, list | dict) else f", got {short(seen)}")
