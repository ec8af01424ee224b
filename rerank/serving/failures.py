"""Errors as HTTP statuses, written as the dialect of the path writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.rerank.serving.jobs import OverloadedError, TooLargeError, UnavailableError


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told; ``reason`` is the label under which it is counted, if it is."""

    status: int
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


def failure_of(error: Exception, request_id: str) -> Failure:
    """Return what a client is told of an error; of one that is ours to find only its number."""
    if isinstance(error, TooLargeError):
        return Failure(413, str(error), reason="too_large")
    if isinstance(error, OverloadedError):
        return Failure(429, str(error), _later(error.retry_after), "overload")
    if isinstance(error, UnavailableError):
        return Failure(503, str(error), _later(error.retry_after), "unavailable")
    if isinstance(error, InvalidInputError | UsageError):
        return Failure(422, str(error))
    if isinstance(error, HTTPException):
        return Failure(error.status_code, str(error.detail), dict(error.headers or {}))
    return Failure(500, f"the request failed; the server's log says more under {request_id}")


def _later(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}
