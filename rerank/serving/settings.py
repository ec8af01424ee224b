"""What a server is told once, at its start."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ranklens.data.errors import UsageError

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and waiting times of a server; UsageError for a value out of range.

    max_documents       documents of one request; more are a TooLargeError
    max_body_bytes      bytes of one request's body; more are a TooLargeError, unread
    max_held_bytes      bytes of all bodies held at a time; more are an OverloadedError
    max_tokens_per_doc  a document's tokens where the request says nothing; None: the context
    max_query_tokens    a query's tokens; a longer one is refused, never cut unasked
    max_waiting         requests accepted and not begun; one more is an OverloadedError
    max_batch           requests that the model's thread takes at a time
    batch_wait_ms       how long it waits for them once it has one
    timeout             seconds from a request's acceptance to its answer
    shutdown_grace      seconds that accepted requests have left after the first signal
    token               what clients must bring as ``Authorization: Bearer …``; None: nothing
    strict_model        refuse a ``model`` field that names another model
    trace_documents     put texts of documents into tracing spans, not only their number
    """

    max_documents: int = 1000
    max_body_bytes: int = 8 * MIB
    max_held_bytes: int = 128 * MIB
    max_tokens_per_doc: int | None = None
    max_query_tokens: int = 1024
    max_waiting: int = 64
    max_batch: int = 8
    batch_wait_ms: float = 2.0
    timeout: float = 60.0
    shutdown_grace: float = 60.0
    token: str | None = field(default=None, repr=False)
    strict_model: bool = False
    trace_documents: bool = False

    def __post_init__(self) -> None:
        counts = (
            "max_documents",
            "max_body_bytes",
            "max_held_bytes",
            "max_tokens_per_doc",
            "max_query_tokens",
            "max_waiting",
            "max_batch",
        )
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1: {value}")
        for name in ("timeout", "shutdown_grace"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be more than 0 seconds: {getattr(self, name)}")
        if not 0 <= self.batch_wait_ms <= 1000:
            raise UsageError(f"batch_wait_ms must lie in 0..1000: {self.batch_wait_ms}")
        if self.max_held_bytes < self.max_body_bytes:
            raise UsageError(
                f"max_held_bytes ({self.max_held_bytes}) is less than one body may have "
                f"({self.max_body_bytes})"
            )
        # A header cannot carry anything else, and white space around a token is lost on the way.
        if self.token is not None and not (
            self.token
            and self.token.isascii()
            and self.token.isprintable()
            and " " not in self.token
        ):
            raise UsageError("the token must be printable ASCII without blanks, and not empty")
