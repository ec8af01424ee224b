"""``ranklens serve`` under load, on loopback: what is accepted is answered, and rightly.

    python benchmarks/serving.py [--reranker SPEC] [--minutes M] [--seconds S] [--out FILE]

Requests are known: 20 queries of the sample collection with 8 of its texts each (120 characters),
whose rankings are computed here beforehand by ``reranker.rank``. Every answer is compared with
them. Where the profile is in blocks the server keeps documents, and each phase finds them kept.

1. capacity     wrk with 8 connections, closed loop, for S seconds: answers a second
2. saturation   wrk with four times as many connections as may wait, for S seconds, while a client
                sends known requests beside it
3. overload     an open loop of twice the capacity for M minutes, every answer compared: at a time
                of its own each request is sent, whatever came of those before it. Every ten
                seconds the capacity is the most answers a second seen so far: what else runs on
                the machine must not make it look small
4. kill         an open loop of the capacity for a while, kill -9 in the middle of it, a start anew

A request is accepted when it is not told 429 (with Retry-After). Lost is an accepted one without
the right answer. Latencies run from the time at which a request was to be sent. There are no
figures, and the exit code is 1, when an answer is wrong or lost, when overload brings no 429 or
was not sent in time, or when a request that was not under way at the kill is lost. With M = 5 all
of it takes under 8 minutes with a small model on 2 cores. One core is left to the load, unless
$OMP_NUM_THREADS says otherwise. Linux only; what it started ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving_load import (
    BOUND,
    REJECTED,
    RIGHT,
    WRONG,
    Client,
    Known,
    OpenLoop,
    Tally,
    until,
    wrk,
)

from ranklens import Reranker, load_collection
from ranklens.rerank.scales import score_map_of, unit_interval

DOCUMENTS, CHARACTERS = 8, 120
CONNECTIONS = 8
WAITING = 16
MOST_LATE = 1.0
SLICE = 10.0


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

    async def watch(self, pid: int) -> None:
        while True:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
            self.samples.append(int(line.split()[1]) / 1024)
            await asyncio.sleep(1.0)


@dataclass
class Findings:
    """Lines of the result, shown as they come, and why there is none."""

    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.lines.append(line)
        print(line, flush=True)


def main() -> None:
    arguments = _arguments()
    # Two threads for two cores wait for each other whenever the load has one of the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) - 1)))
    known = _known_requests(arguments.reranker)
    found = Findings()
    found.add(
        f"command: python benchmarks/serving.py --reranker {arguments.reranker} "
        f"--minutes {arguments.minutes:g} --seconds {arguments.seconds}"
    )
    found.add(f"server: ranklens serve --max-waiting {WAITING}; {DOCUMENTS} documents a request")
    found.add("")
    asyncio.run(_measure(arguments, known, found))
    if found.failures:
        raise SystemExit("no figures: " + "; ".join(found.failures))
    if arguments.out:
        Path(arguments.out).write_text("\n".join(found.lines) + "\n", encoding="utf-8")


async def _measure(arguments: argparse.Namespace, known: Sequence[Known], found: Findings) -> None:
    with _server(arguments.reranker) as (process, url):
        with contextlib.closing(Client(url)) as client:
            await client.all_right(known, found.failures, "at first")
            rate = await _capacity(url, known, arguments.seconds, found)
            await _saturated(client, url, known, arguments.seconds, found)
            await _overloaded(client, known, rate, arguments.minutes, process.pid, found)
            await client.all_right(known, found.failures, "after overload")
        await _killed(process, url, known, rate, found)
    with _server(arguments.reranker) as (_, url), contextlib.closing(Client(url)) as client:
        right = await client.all_right(known, found.failures, "after the start anew")
    found.add(f"            started anew: {right}")


async def _capacity(url: str, known: Sequence[Known], seconds: int, found: Findings) -> float:
    closed = await wrk(url, known, CONNECTIONS, seconds)
    found.add(
        f"capacity    {closed.rate:.1f} requests/s, {closed.rate * DOCUMENTS:.1f} documents/s "
        f"(wrk, {CONNECTIONS} connections, p50 {closed.p50 / 1e6:.2f} s, "
        f"p99 {closed.p99 / 1e6:.2f} s; {closed.line()})"
    )
    if not closed.rate:
        raise SystemExit(f"no answers in {seconds} s: give more --seconds")
    if closed.rejected or closed.failed or closed.broken:
        found.failures.append("wrk was refused below capacity")
    return closed.rate


async def _saturated(
    client: Client, url: str, known: Sequence[Known], seconds: int, found: Findings
) -> None:
    tally, over = Tally(), asyncio.Event()
    beside = asyncio.create_task(until(over, client, known, tally))
    full = await wrk(url, known, 4 * WAITING, seconds)
    over.set()
    await beside
    found.add(
        f"saturation  wrk, {4 * WAITING} connections: {full.line()}; beside it {tally.line()}"
    )
    if full.failed or full.broken or tally.lost:
        found.failures.append("saturation broke answers")


async def _overloaded(
    client: Client,
    known: Sequence[Known],
    rate: float,
    minutes: float,
    pid: int,
    found: Findings,
) -> None:
    load, memory = OpenLoop(client, known), Memory()
    watching = asyncio.create_task(memory.watch(pid))
    tally, left, best = load.tally, minutes * 60, rate
    while left > 0:
        seconds, before = min(SLICE, left), tally.outcomes[RIGHT]
        await load.send(2 * best, seconds)
        best = max(best, (tally.outcomes[RIGHT] - before) / seconds)
        left -= seconds
    pace = tally.outcomes[RIGHT] / (minutes * 60)
    await load.finish()
    watching.cancel()
    found.add(
        f"overload    {2 * rate:.1f} to {2 * best:.1f} requests/s for {minutes:g} minutes: "
        f"{tally.line()}"
    )
    line = f"{WAITING} that wait are {WAITING / pace:.2f} s of work" if pace else "no work done"
    found.add(f"            {pace:.1f} answers/s ({line}); accepted: {tally.latency()}")
    found.add(f"            sent at most {tally.late:.2f} s late")
    found.add(f"            server's memory: {memory.line()}")
    if tally.lost:
        found.failures.append(f"{tally.lost} accepted requests were lost or answered wrongly")
    if not tally.outcomes[REJECTED]:
        found.failures.append("twice the capacity brought no 429")
    if tally.late > MOST_LATE:
        found.failures.append(f"a request was sent {tally.late:.1f} s late: the client was slow")


async def _killed(
    process: subprocess.Popen[str],
    url: str,
    known: Sequence[Known],
    rate: float,
    found: Findings,
) -> None:
    """Kill the server under load; what was settled before must have been right."""
    with contextlib.closing(Client(url)) as client:
        load = OpenLoop(client, known)
        sending = asyncio.create_task(load.send(rate, 10.0))
        await asyncio.sleep(5.0)
        settled, at_kill = dict(load.outcomes), set(load.under_way)
        process.send_signal(signal.SIGKILL)
        await sending
        await load.finish()
    before = [n for n, outcome in settled.items() if outcome not in (RIGHT, REJECTED)]
    lost = [n for n in at_kill if load.outcomes[n] not in (RIGHT, REJECTED)]
    if before or load.tally.outcomes[WRONG]:
        found.failures.append(
            f"{len(before)} requests were lost before the kill, {load.tally.outcomes[WRONG]} wrong"
        )
    after = len(load.outcomes) - len(settled) - len(at_kill)
    found.add(
        f"kill -9     {len(settled)} requests settled before it, {len(before)} of these lost; "
        f"{len(at_kill)} under way, {len(lost)} of these lost; {after} sent after"
    )


@contextlib.contextmanager
def _server(reranker: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start ``ranklens serve`` as a process, and wait until it is ready."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [
                *(*BOUND, sys.executable, "-m", "ranklens.cli.main", "serve"),
                *("--reranker", reranker, "--port", "0", "--json", "--max-waiting", str(WAITING)),
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "RANKLENS_TOKEN"},
        )
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready:
                log.seek(0)
                raise SystemExit(f"the server did not start:\n{log.read()}")
            yield process, json.loads(ready)["url"]
        finally:
            process.terminate()
            process.wait()


def _known_requests(spec: str) -> list[Known]:
    """Make 20 requests, every fifth list of documents shared by two, and rank them."""
    reranker = Reranker.from_spec(spec)
    collection = load_collection("sample:pydocs")
    texts = [one.text[:CHARACTERS] for one in collection.documents if one.text.strip()]
    draw = random.Random(0)
    known: list[Known] = []
    documents: list[str] = []
    for number, query in enumerate(collection.queries[:20]):
        if number % 5 != 1:
            documents = draw.sample(texts, DOCUMENTS)
        ranking = reranker.rank(query.text, documents)
        scores = unit_interval(ranking, score_map_of(reranker))
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
    parser.add_argument("--seconds", type=int, default=15, help="of capacity and of saturation")
    parser.add_argument("--out", help="a file for the figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
