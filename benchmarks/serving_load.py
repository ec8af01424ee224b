"""Load for ``serving.py``: known requests sent over sockets of our own, or by wrk, and counted."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

PATH = "/v2/rerank"
TOLERANCE = 1e-4
RIGHT, REJECTED, WRONG = "right", "rejected", "WRONG"
# The kernel ends what is started so when the benchmark is gone, however that ended.
BOUND = ("setpriv", "--pdeathsig", "KILL", "--")
_PATIENCE = 120.0
_LUA = """
local bodies, threads, turn = {}, {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
rejected, failed = 0, 0
function setup(thread) threads[#threads + 1] = thread end
function request()
  turn = turn %% #bodies + 1
  return wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, bodies[turn])
end
function response(status)
  if status == 429 then rejected = rejected + 1 elseif status ~= 200 then failed = failed + 1 end
end
function done(summary, latency)
  local told, other, errors = 0, 0, summary.errors
  for _, thread in ipairs(threads) do
    told, other = told + thread:get("rejected"), other + thread:get("failed")
  end
  io.write(string.format(
    '{"answers": %%d, "rejected": %%d, "failed": %%d, "broken": %%d, "microseconds": %%d, ' ..
    '"p50": %%d, "p99": %%d}\\n', summary.requests, told, other,
    errors.connect + errors.read + errors.write + errors.timeout, summary.duration,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Known:
    """A request, and the score of each of its documents."""

    body: bytes
    scores: dict[int, float]

    def is_answered_by(self, results: list[dict[str, float]]) -> bool:
        found = {int(result["index"]): result["relevance_score"] for result in results}
        scores = list(found.values())
        return (
            len(results) == len(self.scores)
            and found.keys() == self.scores.keys()
            and scores == sorted(scores, reverse=True)
            and all(abs(found[i] - score) <= TOLERANCE for i, score in self.scores.items())
        )


@dataclass
class Tally:
    """What came of requests: counts by outcome, and the seconds of right answers."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    late: float = 0.0
    """The seconds that a request was sent after its time, at most."""

    @property
    def accepted(self) -> int:
        return self.outcomes.total() - self.outcomes[REJECTED]

    @property
    def lost(self) -> int:
        return self.accepted - self.outcomes[RIGHT]

    def line(self) -> str:
        others = {k: n for k, n in self.outcomes.items() if k not in (RIGHT, REJECTED)}
        return (
            f"{self.outcomes.total()} sent, {self.accepted} accepted, "
            f"{self.outcomes[REJECTED]} told 429, {self.lost} lost or wrong"
            + (f" ({others})" if others else "")
        )

    def latency(self) -> str:
        if len(self.seconds) < 2:
            return "too few answers"
        cuts = statistics.quantiles(self.seconds, n=100, method="inclusive")
        return (
            f"p50 {cuts[49]:.2f} s, p90 {cuts[89]:.2f} s, p99 {cuts[98]:.2f} s, "
            f"longest {max(self.seconds):.2f} s"
        )


class Client:
    """Sends requests, each under way over a connection of its own, and keeps these alive.

    Bare sockets: a request costs httpx 8 ms of a core when hundreds are under way, on the cores
    that the server needs, and the figures would be its own.
    """

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, known: Known, tally: Tally, due: float | None = None) -> str:
        """Send a request, count what comes of it, and return that; time runs from ``due`` on."""
        now = time.perf_counter()
        began = now if due is None else due
        tally.late = max(tally.late, now - began)
        outcome = await self._outcome(known)
        tally.outcomes[outcome] += 1
        if outcome == RIGHT:
            tally.seconds.append(time.perf_counter() - began)
        return outcome

    async def all_right(self, known: Sequence[Known], failures: list[str], when: str) -> str:
        """Send each request, one after another; what is not right is a failure."""
        tally = Tally()
        for one in known:
            await self.ask(one, tally)
        if tally.outcomes[RIGHT] != len(known):
            failures.append(f"{when}: {tally.line()}")
        return f"{tally.outcomes[RIGHT]} of {len(known)} known requests right"

    async def _outcome(self, known: Known) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                status, headers, body = await self._post(known.body)
        except (OSError, EOFError) as error:
            return type(error).__name__
        if status == 429 and int(headers["retry-after"]) >= 1:
            return REJECTED
        if status != 200:
            return f"status {status}"
        return RIGHT if known.is_answered_by(json.loads(body)["results"]) else WRONG

    async def _post(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        reader, writer = await self._connection()
        kept = False
        try:
            head = (
                f"POST {PATH} HTTP/1.1\r\nHost: {self._address.netloc}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            answer = await reader.readexactly(int(headers["content-length"]))
            kept = headers.get("connection") != "close"
        finally:
            if kept:
                self._idle.append((reader, writer))
            else:
                writer.close()
        return int(first.split()[1]), headers, answer

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._address.hostname, self._address.port)

    def close(self) -> None:
        """Close what is kept alive."""
        while self._idle:
            self._idle.pop()[1].close()


@dataclass
class OpenLoop:
    """Sends requests at fixed times, whatever came of those before; ``finish`` waits for all."""

    client: Client
    known: Sequence[Known]
    tally: Tally = field(default_factory=Tally)
    outcomes: dict[int, str] = field(default_factory=dict)
    under_way: set[int] = field(default_factory=set)
    sent: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self, rate: float, seconds: float) -> None:
        """Send ``rate`` requests a second for so many seconds, one at least."""
        began = time.perf_counter()
        for turn in range(max(1, int(rate * seconds))):
            due = began + turn / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.sent.append(asyncio.create_task(self._one(len(self.sent), due)))
        await asyncio.sleep(max(0.0, began + seconds - time.perf_counter()))

    async def finish(self) -> None:
        """Wait for what comes of all that was sent."""
        await asyncio.gather(*self.sent)

    async def _one(self, number: int, due: float) -> None:
        self.under_way.add(number)
        known = self.known[number % len(self.known)]
        outcome = await self.client.ask(known, self.tally, due)
        self.under_way.discard(number)
        self.outcomes[number] = outcome


async def until(over: asyncio.Event, client: Client, known: Sequence[Known], tally: Tally) -> None:
    """Send requests one after another; after a 429 wait a little, as clients do."""
    number = 0
    while not over.is_set():
        outcome = await client.ask(known[number % len(known)], tally)
        number += 1
        if outcome == REJECTED:
            await asyncio.sleep(0.05)


@dataclass(frozen=True)
class WrkFigures:
    """What wrk counted: all answers, those with 429, with another status than 200, and none."""

    answers: int
    rejected: int
    failed: int
    broken: int
    microseconds: int
    p50: int
    p99: int

    @property
    def rate(self) -> float:
        return (self.answers - self.rejected - self.failed) / (self.microseconds / 1e6)

    def line(self) -> str:
        return (
            f"{self.answers} answers, {self.rejected} of them 429, {self.failed} with another "
            f"error, {self.broken} broken"
        )


async def wrk(url: str, known: Sequence[Known], connections: int, seconds: int) -> WrkFigures:
    """Let wrk send the requests in a closed loop."""
    with tempfile.TemporaryDirectory() as name:
        bodies, script = Path(name, "bodies"), Path(name, "load.lua")
        bodies.write_bytes(b"\n".join(one.body for one in known))
        script.write_text(_LUA % (bodies, PATH), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *(*BOUND, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s"),
            *("-s", str(script), url),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"wrk failed ({process.returncode}): {out.decode(errors='replace')}")
    return WrkFigures(**json.loads(out.decode().strip().splitlines()[-1]))
