"""Running the application: the socket, signals, and the exit."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from ranklens.data.errors import PartialError, RanklensError, UsageError
from ranklens.rerank.serving.app import create_app
from ranklens.rerank.serving.service import Service

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches a host's address; UsageError where it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host!r} is no address of a machine: {error}") from None
    return all(
        ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found
    )


def bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to host and port (0: a free one); RanklensError where it cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            # Listening at once: of two servers that start together one must fail here.
            made.listen(2048)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise RanklensError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --port"
        ) from None
    return made


def url_of(listening: socket.socket) -> str:
    """Return the address of a bound socket as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, listening: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until a signal comes; then answer what was accepted, and return.

    ``on_ready`` is called when the model is warm. The second signal ends the process at once.
    Raises what loading the model raised, and PartialError when accepted requests were not
    answered within the time of grace.
    """
    server = Server(service)
    asyncio.run(_serve(server, service, listening, on_ready))
    if service.failed is not None:
        raise service.failed
    if not service.answered_all:
        raise PartialError(
            f"requests were not answered within {service.settings.shutdown_grace:g} s of the "
            "signal; all others were"
        )


class Server(uvicorn.Server):
    """uvicorn, with the service told of a signal first, and an exit of our own."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                log_config=None,
                access_log=False,
                server_header=False,
                # Longer than clients keep theirs (5 s for httpx, 60 s for proxies): whoever closes
                # first, the other must not be sending just then.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, round(service.settings.shutdown_grace)),
                lifespan="on",
            )
        )
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at the first signal, leave at the second."""
        if self.should_exit:
            os._exit(PartialError.exit_code)
        self._service.stop()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; the service knows it first, whatever the reason, and waits for no bodies."""
        self._service.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, and do not raise them again after the exit: it is a good one."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in _SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


async def _serve(
    server: Server, service: Service, listening: socket.socket, on_ready: Callable[[], None]
) -> None:
    async def watch() -> None:
        # Asked again and again: a thread that waits would keep the process until it is loaded.
        while not service.loaded:
            await asyncio.sleep(0.05)
        if service.failed is not None:
            server.should_exit = True
        elif not service.stopping:
            on_ready()

    watching = asyncio.create_task(watch())
    await server.serve(sockets=[listening])
    watching.cancel()
