"""``ranklens serve`` under load, on loopback: what is accepted is answered, and rightly.

    python benchmarks/serving.py [--reranker SPEC] [--minutes M] [--seconds S] [--out FILE]

Requests are known: 20 queries of the sample collection with 5 of its texts each, whose rankings
are computed here beforehand by ``reranker.rank``. Every answer is compared with them.

1. capacity     wrk with 8 connections, closed loop, for S seconds: answers a second
2. saturation   wrk with four times as many connections as may wait, for S seconds, while a client
                sends known requests beside it
3. overload     an open loop of twice the capacity for M minutes, every answer compared: at a time
                of its own each request is sent, whatever came of those before it
4. kill         the same loop for a while, kill -9 in the middle of it, and a start anew

A request is accepted when it is not told 429 (with Retry-After). Lost is an accepted one without
the right answer. There are no figures, and the exit code is 1, when one is wrong or lost, when
overload brings no 429, or when a request that was not under way at the kill is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from ranklens import Reranker, load_collection
from ranklens.rerank.scales import unit_interval
from ranklens.rerank.serving.batching import score_map

PATH = "/v2/rerank"
CONNECTIONS = 8
WAITING = 16
TOLERANCE = 1e-4
RIGHT, REJECTED, WRONG = "right", "rejected", "WRONG"
LUA = """
local bodies = {}
for line in io.lines("%s") do bodies[#bodies + 1] = line end
local turn = 0
function request()
  turn = turn %% #bodies + 1
  return wrk.format("POST", "%s", {["Content-Type"] = "application/json"}, bodies[turn])
end
function done(summary, latency)
  io.write(string.format('{"requests": %%d, "microseconds": %%d, "refused": %%d, "broken": %%d, ' ..
    '"p50": %%d, "p99": %%d}\\n', summary.requests, summary.duration, summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Known:
    """A request, and the score of each of its documents."""

    body: bytes
    scores: dict[int, float]


@dataclass
class Tally:
    """What came of requests: counts by outcome, and the seconds of right answers."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

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


@dataclass
class Memory:
    """The resident memory of a process, a sample a second, in MB."""

    samples: list[float] = field(default_factory=list)

    def line(self) -> str:
        middle = self.samples[len(self.samples) // 2]
        return (
            f"start {self.samples[0]:.0f} MB, half way {middle:.0f} MB, "
            f"end {self.samples[-1]:.0f} MB, most {max(self.samples):.0f} MB"
        )


class _Shown:
    """Lines of the result, shown as they come: what is known when it goes no further."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, *lines: str) -> None:
        for line in lines:
            self.lines.append(line)
            print(line, flush=True)


def main() -> None:
    arguments = _arguments()
    known = _known_requests(arguments.reranker)
    lines, failures = asyncio.run(_measured(arguments, known))
    text = "\n".join(lines) + "\n"
    if failures:
        raise SystemExit("no figures: " + "; ".join(failures))
    if arguments.out:
        Path(arguments.out).write_text(text, encoding="utf-8")


async def _measured(
    arguments: argparse.Namespace, known: Sequence[Known]
) -> tuple[list[str], list[str]]:
    lines = _Shown()
    lines.add(
        f"command: python benchmarks/serving.py --reranker {arguments.reranker} "
        f"--minutes {arguments.minutes:g} --seconds {arguments.seconds}",
        f"server: ranklens serve --max-waiting {WAITING}; 5 documents a request",
        "",
    )
    failures: list[str] = []
    with _server(arguments.reranker) as (process, url):
        async with _client(url) as client:
            await _all_right(client, known, failures, "at first")
            closed = await _wrk(url, known, CONNECTIONS, arguments.seconds)
            rate = (closed["requests"] - closed["refused"]) / (closed["microseconds"] / 1e6)
            lines.add(
                f"capacity    {rate:.1f} requests/s, {rate * 5:.1f} documents/s (wrk, "
                f"{CONNECTIONS} connections, p50 {closed['p50'] / 1e6:.2f} s, "
                f"p99 {closed['p99'] / 1e6:.2f} s, {closed['refused']} refused, "
                f"{closed['broken']} broken)"
            )
            if closed["refused"] or closed["broken"]:
                failures.append("wrk was refused below capacity")
            tally, over = Tally(), asyncio.Event()
            beside = asyncio.create_task(_until(over, client, known, tally))
            full = await _wrk(url, known, 4 * WAITING, arguments.seconds)
            over.set()
            await beside
            lines.add(
                f"saturation  wrk, {4 * WAITING} connections: {full['requests']} answers, "
                f"{full['refused']} of them 429, {full['broken']} broken; beside it {tally.line()}"
            )
            if full["broken"] or tally.lost:
                failures.append("saturation broke answers")
            tally, memory = Tally(), Memory()
            watching = asyncio.create_task(_watch(process.pid, memory))
            await _open_loop(client, known, tally, 2 * rate, arguments.minutes * 60)
            watching.cancel()
            lines.add(
                f"overload    {2 * rate:.1f} requests/s for {arguments.minutes:g} minutes: "
                + tally.line(),
                f"            accepted: {tally.latency()}",
                f"            server's memory: {memory.line()}",
            )
            if tally.lost:
                failures.append(f"{tally.lost} accepted requests were lost or answered wrongly")
            if not tally.outcomes[REJECTED]:
                failures.append("twice the capacity brought no 429")
            await _all_right(client, known, failures, "after overload")
        lines.add(await _killed(process, url, known, rate, failures))
    with _server(arguments.reranker) as (_, url):
        async with _client(url) as client:
            await _all_right(client, known, failures, "after the start anew")
    lines.add(f"            started anew: {len(known)} of {len(known)} known requests right")
    return lines.lines, failures


async def _killed(
    process: subprocess.Popen[str],
    url: str,
    known: Sequence[Known],
    rate: float,
    failures: list[str],
) -> str:
    """Kill the server under load; what was settled before must have been right."""
    tally, under_way = Tally(), set[int]()
    outcomes: dict[int, str] = {}
    async with _client(url) as client:
        load = asyncio.create_task(
            _open_loop(client, known, tally, rate, 10.0, outcomes, under_way)
        )
        await asyncio.sleep(5.0)
        settled, at_kill = dict(outcomes), set(under_way)
        process.send_signal(signal.SIGKILL)
        await load
    lost_before = [n for n, outcome in settled.items() if outcome not in (RIGHT, REJECTED)]
    lost = [n for n in at_kill if outcomes[n] not in (RIGHT, REJECTED)]
    if lost_before or tally.outcomes[WRONG]:
        failures.append(f"{len(lost_before)} requests were lost before the kill")
    return (
        f"kill -9     {len(settled)} requests settled before it, none lost; {len(at_kill)} under "
        f"way, {len(lost)} of these lost; {len(outcomes) - len(settled) - len(at_kill)} sent after"
    )


async def _open_loop(
    client: httpx.AsyncClient,
    known: Sequence[Known],
    tally: Tally,
    rate: float,
    seconds: float,
    outcomes: dict[int, str] | None = None,
    under_way: set[int] | None = None,
) -> None:
    """Send requests at fixed times, and wait for all that comes of them."""
    began = time.perf_counter()
    tasks: list[asyncio.Task[None]] = []
    waiting = set[int]() if under_way is None else under_way

    async def one(number: int) -> None:
        waiting.add(number)
        outcome = await _ask(client, known[number % len(known)], tally)
        waiting.discard(number)
        if outcomes is not None:
            outcomes[number] = outcome

    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number)))
    await asyncio.gather(*tasks)


async def _until(
    over: asyncio.Event, client: httpx.AsyncClient, known: Sequence[Known], tally: Tally
) -> None:
    """Send requests one after another; after a 429 wait a little, as clients do."""
    number = 0
    while not over.is_set():
        outcome = await _ask(client, known[number % len(known)], tally)
        number += 1
        if outcome == REJECTED:
            await asyncio.sleep(0.05)


async def _ask(client: httpx.AsyncClient, known: Known, tally: Tally) -> str:
    """Send a request, count what comes of it, and return that."""
    began = time.perf_counter()
    outcome = await _outcome(client, known)
    tally.outcomes[outcome] += 1
    if outcome == RIGHT:
        tally.seconds.append(time.perf_counter() - began)
    return outcome


async def _outcome(client: httpx.AsyncClient, known: Known) -> str:
    try:
        answer = await client.post(
            PATH, content=known.body, headers={"Content-Type": "application/json"}
        )
    except httpx.HTTPError as error:
        return type(error).__name__
    if answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1:
        return REJECTED
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    return RIGHT if _is_right(answer.json()["results"], known) else WRONG


def _is_right(results: list[dict[str, float]], known: Known) -> bool:
    found = {int(result["index"]): result["relevance_score"] for result in results}
    scores = list(found.values())
    return (
        len(results) == len(known.scores)
        and found.keys() == known.scores.keys()
        and scores == sorted(scores, reverse=True)
        and all(abs(found[i] - score) <= TOLERANCE for i, score in known.scores.items())
    )


async def _all_right(
    client: httpx.AsyncClient, known: Sequence[Known], failures: list[str], when: str
) -> None:
    tally = Tally()
    for one in known:
        await _ask(client, one, tally)
    if tally.outcomes[RIGHT] != len(known):
        failures.append(f"{when}: {tally.line()}")


async def _wrk(url: str, known: Sequence[Known], connections: int, seconds: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as name:
        bodies, script = Path(name, "bodies"), Path(name, "load.lua")
        bodies.write_bytes(b"\n".join(one.body for one in known))
        script.write_text(LUA % (bodies, PATH), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s"),
            *("-s", str(script), url),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    found: dict[str, int] = json.loads(out.decode().strip().splitlines()[-1])
    return found


async def _watch(pid: int, memory: Memory) -> None:
    while True:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
        memory.samples.append(int(line.split()[1]) / 1024)
        await asyncio.sleep(1.0)


@contextlib.asynccontextmanager
async def _client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        yield client


@contextlib.contextmanager
def _server(reranker: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start ``ranklens serve`` as a process, and wait until it is ready."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ranklens.cli.main", "serve", "--reranker", reranker),
            *("--port", "0", "--json", "--max-waiting", str(WAITING)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RANKLENS_TOKEN"},
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait()


def _known_requests(spec: str) -> list[Known]:
    """Make 20 requests of 5 documents, every fifth list shared by two, and rank them."""
    reranker = Reranker.from_spec(spec)
    collection = load_collection("sample:pydocs")
    texts = [document.text[:120] for document in collection.documents if document.text.strip()]
    draw = random.Random(0)
    known: list[Known] = []
    documents: list[str] = []
    for number, query in enumerate(collection.queries[:20]):
        if number % 5 != 1:
            documents = draw.sample(texts, 5)
        ranking = reranker.rank(query.text, documents)
        scores = unit_interval(ranking, score_map(reranker))
        body = json.dumps({"query": query.text, "documents": documents, "return_documents": False})
        known.append(
            Known(
                body.encode(),
                {one.index: score for one, score in zip(ranking, scores, strict=True)},
            )
        )
    return known


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--reranker", default="attention:smollm2-135m")
    parser.add_argument("--minutes", type=float, default=5.0, help="of overload")
    parser.add_argument("--seconds", type=int, default=10, help="of capacity and of saturation")
    parser.add_argument("--out", help="a file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
