"""A request's body as a JSON object, refused with the place where it is not one.

Strict where guessing would hide a mistake, lenient where nothing is lost: UTF-8 only, a byte
order mark is skipped, of two equal keys the last counts (as in every client's own parser), NaN
and numbers that are not finite are refused, halves of surrogate pairs are read (texts carry them
on as U+FFFD, as everywhere in ranklens). A compressed body is refused, never unpacked.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from starlette.requests import Request

from ranklens.rerank.serving.dialects.errors import RequestError, short


def check_headers(request: Request) -> None:
    """Refuse what is not plain JSON by its headers: a 415 RequestError.

    A web page can make a browser post text/plain or a form to a server on the same machine
    without asking that server first, JSON it cannot.
    """
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and "+json" in kind)):
        raise RequestError(
            415, f"Content-Type: must be application/json, got {short(kind) if kind else 'none'}"
        )
    name, _, charset = parameters.strip().partition("=")
    if name.lower() == "charset" and charset.strip("\" '").lower() not in ("utf-8", "utf8"):
        raise RequestError(415, f"Content-Type: the charset must be utf-8, got {short(charset)}")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise RequestError(
            415, f"Content-Encoding: send the body uncompressed, got {short(coding)}"
        )


def parse(data: bytes) -> dict[str, Any]:
    """Return the body's object; a 400 RequestError where it is not JSON, 422 where no object."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(400, f"the body is not UTF-8: byte {error.start}") from None
    if not text.strip():
        raise RequestError(400, "the body is empty; it must be a JSON object")
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise RequestError(
            400, f"the body is not JSON: {error.msg}: line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise RequestError(400, "the body is nested too deeply") from None
    except ValueError as error:
        # A number of thousands of digits, one beyond a double's range, or NaN.
        raise RequestError(400, f"the body is not JSON: {_first_sentence(error)}") from None
    if not isinstance(value, dict):
        names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
        raise RequestError(
            422, f"the body must be a JSON object, got {names.get(type(value), 'a number')}"
        )
    return value


def names_texts(data: bytes) -> bool:
    """Return whether a body that could not be read looks like TEI's: it has the key `texts`."""
    return b'"texts"' in data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"{short(digits)} is beyond the range of a number")
    return value


def _first_sentence(error: ValueError) -> str:
    return str(error).partition(";")[0]
