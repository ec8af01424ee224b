"""Errors that no dialect has caught, as the answer that clients of the path understand."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ranklens.data.errors import RanklensError
from ranklens.rerank.serving.dialects.errors import error_response, failure


def answer_to(
    error: Exception, path: str, request_id: str, body_is_tei: bool | None = None
) -> Response:
    """Return what a client is told of an error; of one that is ours to find only its number."""
    if isinstance(error, HTTPException):
        status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
    elif isinstance(error, RanklensError):
        status, message, headers = failure(error, bool(body_is_tei))
    else:
        status, headers = 500, {}
        message = f"the request failed; the server's log says more under {request_id}"
    return error_response(path, body_is_tei, status, message, headers)
