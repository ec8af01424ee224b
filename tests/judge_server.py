"""For tests: a real HTTP server that speaks chat completions as a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def completion(text: str | None, **changes: Any) -> Reply:
    """Make a reply of 200 with an answer of 10 tokens in and 2 out."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": changes.pop("finish_reason", "stop"),
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
    body = {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
        "usage": usage,
    }  # fmt: skip
    return 200, {}, json.dumps(body | changes).encode()


def failure(status: int, message: str = "no", **headers: str) -> Reply:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, names, json.dumps({"error": {"message": message}}).encode()


class JudgeServer:
    """Replies to POST /v1/chat/completions with ``reply(body, n)``, n counted by the user's turn.

    ``seen``: the bodies; ``keys``: the Authorization headers; ``busiest``: the most requests at
    a time.
    """

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any], int], Reply] = lambda body, n: completion("Grade: 2")
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.busiest = self._busy = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    user = body["messages"][-1]["content"]
                    number = sum(one["messages"][-1]["content"] == user for one in outer.seen)
                    outer.seen.append(body)
                    outer.keys.append(self.headers["Authorization"])
                    outer._busy += 1
                    outer.busiest = max(outer.busiest, outer._busy)
                    assert self.path == "/v1/chat/completions"
                try:
                    status, headers, content = outer.reply(body, number)
                finally:
                    with outer._lock:
                        outer._busy -= 1
                # The client may have given up, or have been killed.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
