"""Errors that no dialect has answered itself, as an answer that clients of the path understand."""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.rerank.serving.dialects.errors import error_response
from ranklens.rerank.serving.jobs import OverloadedError, TooLargeError, UnavailableError

_log = logging.getLogger(__name__)


def answer_to(
    error: Exception, path: str, request_id: str, body_is_tei: bool | None = None
) -> Response:
    """Return what a client is told of an error.

    What the request brought about is said as it is. Of what went wrong inside it is told no more
    than the request's number, under which the log has the rest: a message may name files of this
    machine.
    """
    headers: dict[str, str] = {}
    message = str(error)
    match error:
        case HTTPException():
            status, message, headers = error.status_code, error.detail, dict(error.headers or {})
        case TooLargeError():
            status = 413
        case OverloadedError():
            status, headers = 429, {"Retry-After": str(error.retry_after)}
        case UnavailableError():
            status, headers = 503, {"Retry-After": str(error.retry_after)}
        case InvalidInputError() | UsageError():
            status = 422
        case _:
            _log.error("a request failed", exc_info=error)
            status = 500
            message = f"the request failed; the server's log says more under {request_id}"
    return error_response(path, body_is_tei, status, message, headers)
