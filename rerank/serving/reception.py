"""What every request passes: its number, the token, the size of its body, the log.

A plain ASGI wrapper. The body is read here, counted as it comes (``Content-Length`` is only what
a client says), and handed on whole; while the application works the client is watched, and when
it goes the work is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ranklens.rerank.serving.failures import answer_to
from ranklens.rerank.serving.jobs import OverloadedError, TooLargeError, UnavailableError
from ranklens.rerank.serving.service import REQUEST_ID, Service

_log = logging.getLogger(__name__)

OPEN = frozenset({"/health"})
"""Paths that need no token, and answer while the server loads and stops."""
_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_DISCARDED = 2**20
_PATIENCE = 5.0
_LOOK = 1.0
_REASONS = {401: "unauthorised", 413: "too_large", 429: "overload", 503: "unavailable"}
GONE = 499
"""The status in log and metrics of a request whose client left; nobody is sent it."""


class _GoneError(Exception):
    """The client has left."""


@dataclass(slots=True)
class _Exchange:
    """A request under way, and what is known of its answer."""

    scope: Scope
    receive: Receive
    send: Send
    id: str
    end: Callable[[_Exchange], None]
    status: int = 0
    held: int = 0
    more: bool = True
    ended: bool = False
    began: float = field(default_factory=time.perf_counter)

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    @property
    def asks_first(self) -> bool:
        """Whether the client sends its body only when it is told to go on."""
        return Headers(scope=self.scope).get("expect", "").lower() == "100-continue"

    async def reply(self, message: Message) -> None:
        """Send on, with the request's number in the head."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-Id"] = self.id
        elif not message.get("more_body", False):
            # Before the client has the answer: whoever asks for metrics then finds it counted.
            self.end(self)
        await self.send(message)


class Reception:
    """Wraps the application of a service; ``paths`` are those that metrics name."""

    def __init__(self, app: ASGIApp, service: Service, paths: Collection[str]) -> None:
        self._app = app
        self._service = service
        self._paths = frozenset(paths)
        self._held = 0
        service.metrics.held_bytes.set_function(lambda: self._held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        number = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        exchange = _Exchange(scope, receive, send, number, self._end)
        REQUEST_ID.set(exchange.id)
        scope.setdefault("state", {})["request_id"] = exchange.id
        try:
            await self._handle(exchange)
        except _GoneError:
            exchange.status = GONE
            self._service.metrics.gone.inc()
        except asyncio.CancelledError:
            # The server's time of grace is over; there still is time to say so.
            self._service.answered_all = False
            await self._fail(exchange, UnavailableError("the server has stopped"))
        except Exception as error:
            await self._fail(exchange, error)
        finally:
            self._end(exchange)

    async def _handle(self, exchange: _Exchange) -> None:
        if exchange.path not in OPEN:
            self._check_token(exchange)
            if self._service.stopping:
                raise UnavailableError("the server is stopping")
        encoding = Headers(scope=exchange.scope).get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise HTTPException(415, "bodies are read as they are: send no Content-Encoding")
        body = await self._body(exchange)
        gone = asyncio.create_task(_until_gone(exchange.receive))
        work = asyncio.create_task(self._work(exchange, body, gone))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not exchange.status:
                raise _GoneError
            await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _work(self, exchange: _Exchange, body: bytes, gone: asyncio.Task[None]) -> None:
        handed_on = False

        async def receive() -> Message:
            nonlocal handed_on
            if handed_on:
                await asyncio.wait({gone})
                return {"type": "http.disconnect"}
            handed_on = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(exchange.scope, receive, exchange.reply)

    def _check_token(self, exchange: _Exchange) -> None:
        token = self._service.settings.token
        if token is None:
            return
        given = Headers(scope=exchange.scope).get("authorization", "")
        scheme, _, credentials = given.partition(" ")
        right = hmac.compare_digest(credentials.strip().encode(), token.encode())
        if scheme.lower() != "bearer" or not right:
            raise HTTPException(
                401,
                "this server wants Authorization: Bearer TOKEN, with its token",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, exchange: _Exchange) -> bytes:
        settings = self._service.settings
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(settings.timeout):
                while exchange.more:
                    part = await self._next_part(exchange)
                    exchange.held += len(part)
                    self._held += len(part)
                    if exchange.held > settings.max_body_bytes:
                        raise TooLargeError(
                            f"the body has more than {settings.max_body_bytes} bytes, "
                            "which is the most that this server takes"
                        )
                    if self._held > settings.max_held_bytes:
                        raise OverloadedError(
                            "requests under way fill the server's memory",
                            self._service.retry_after(),
                        )
                    parts.append(part)
        except TimeoutError:
            raise HTTPException(
                408, f"the body did not arrive within {settings.timeout:g} s"
            ) from None
        return b"".join(parts)

    async def _next_part(self, exchange: _Exchange) -> bytes:
        """Wait for a part of the body; not when the server stops: nothing is accepted yet."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    return await _part(exchange)
            if self._service.stopping:
                raise UnavailableError("the server is stopping")

    async def _fail(self, exchange: _Exchange, error: Exception) -> None:
        if exchange.status:
            # The head of another answer is out; all that is left is to break off.
            _log.error("a request failed in the middle of its answer", exc_info=error)
            raise error
        if exchange.held or not exchange.asks_first:
            # Whoever still sends would not read the answer: take a little more, then close.
            with contextlib.suppress(TimeoutError, _GoneError):
                async with asyncio.timeout(_PATIENCE):
                    await _discard(exchange)
        response = answer_to(error, exchange.path, exchange.id)
        if exchange.more:
            response.headers["Connection"] = "close"
        await response(exchange.scope, exchange.receive, exchange.reply)

    def _end(self, exchange: _Exchange) -> None:
        """Let go of a request's body, count it and log it; once."""
        if exchange.ended:
            return
        exchange.ended = True
        self._held -= exchange.held
        seconds = time.perf_counter() - exchange.began
        path = exchange.path if exchange.path in self._paths else "other"
        metrics = self._service.metrics
        reason = _REASONS.get(exchange.status)
        if reason is not None and path not in OPEN:
            metrics.rejected.labels(reason).inc()
        metrics.requests.labels(path, str(exchange.status)).inc()
        metrics.seconds.labels(path).observe(seconds)
        _log.info(
            "%s %s %d %.3f s %d bytes",
            ascii(exchange.scope["method"])[1:-1],
            ascii(exchange.path)[1:-1][:100],
            exchange.status,
            seconds,
            exchange.held,
        )


async def _part(exchange: _Exchange) -> bytes:
    message = await exchange.receive()
    if message["type"] == "http.disconnect":
        exchange.more = False
        raise _GoneError
    exchange.more = message.get("more_body", False)
    part: bytes = message.get("body", b"")
    return part


async def _discard(exchange: _Exchange) -> None:
    discarded = 0
    while exchange.more and discarded < _DISCARDED:
        discarded += len(await _part(exchange))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
