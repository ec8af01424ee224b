"""The one-forward engine against two eager passes with ``output_attentions``, in one run.

    python benchmarks/attention.py COLLECTION --candidates NAME [--output FILE]

For every dtype and number of documents each contender has a process of its own, on the same
token ids with the same weights. After one untimed query they take turns for ``--repeat``
rounds, one at a time, so that a machine that slows down slows all of them. Contenders:

    eager       the whole prompt twice (query, N/A) through the base model with
                output_attentions: the oracle of the tests, less its vocabulary projection
    sdpa        the whole prompt twice through SDPA, the tail's rows computed once more to be read
    cached      the shared part once into a KV cache (SDPA), then both tails over it with
                output_attentions: the order of work of the published ICR code
    engine      ranklens, profile icr
    early-exit  ranklens, ``--profile``, which reads fewer heads and stops at its last layer

A round takes the first ``--queries`` queries; times are medians over the rounds, and a ratio is
the median of the rounds' ratios. Memory is read three ways: *peak*, the largest resident set of
the process; *model*, the same less Python and the libraries, so weights and all that ranking
takes; *added*, what ranking takes beside the loaded weights.

Nothing is reported when outputs disagree: in float32 token scores differ by more than 1e-5 from
eager's, or the ranking differs; in bfloat16 token scores lie, root mean square over all of
them, further from eager float32 than twice eager bfloat16's do. The last column says how far:
the largest difference in float32; in bfloat16 the quotient of the root mean squares and that of
the largest differences of document scores. For early-exit the outputs are document scores (1e-3
in float32, a sum over some 200 logarithms).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attention_worker import CONTENDERS, serve

DTYPES = ("float32", "bfloat16")
Measured = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        serve(arguments)
        return
    lines = [
        f"command: python benchmarks/attention.py {' '.join(sys.argv[1:])}",
        f"machine: {os.cpu_count()} cores, {_cpu()}, Python {platform.python_version()}",
        "",
        "dtype     docs tokens  contender   seconds     min     max  peak MB  model  added"
        "   time×  peak÷ model÷ added÷  off",
    ]
    for documents in arguments.documents:
        reference: Measured | None = None
        for dtype in DTYPES:
            rows = measure(arguments, dtype, documents)
            reference = reference or rows["eager"]
            lines += _report(dtype, documents, rows, reference)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text, encoding="utf-8")


def measure(arguments: argparse.Namespace, dtype: str, documents: int) -> dict[str, Measured]:
    """Return what each contender measured, ``seconds`` one figure a round."""
    workers = {name: _start(arguments, name, dtype, documents) for name in CONTENDERS}
    rounds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for worker in workers.values():
        _ask(worker, "warm up")
    for _ in range(arguments.repeat):
        for name, worker in workers.items():
            rounds[name].append(_ask(worker, "round")["seconds"])
    return {
        name: {**_ask(worker, "finish"), "seconds": rounds[name]}
        for name, worker in workers.items()
    }


def _report(dtype: str, documents: int, rows: dict[str, Measured], fp32: Measured) -> list[str]:
    lines = []
    base = rows["eager"]
    for name, row in rows.items():
        off = "" if row is fp32 else _agreement(name, dtype, row, base, fp32)
        times = row["seconds"]
        lines.append(
            f"{dtype:9} {documents:4} {row['tokens']:6}  {name:10} {statistics.median(times):8.2f} "
            f"{min(times):7.2f} {max(times):7.2f} {row['peak'] / 1e6:8.0f} "
            f"{row['model'] / 1e6:6.0f} {row['added'] / 1e6:6.0f}  {_ratios(base, row)}  {off}"
        )
    if dtype != "float32":
        for name in ("engine", "early-exit"):
            told = f"{name} against eager float32"
            lines.append(f"{told:>77}  {_ratios(fp32, rows[name])}")
    return lines


def _ratios(base: Measured, row: Measured) -> str:
    rounds = zip(base["seconds"], row["seconds"], strict=True)
    ratios = [statistics.median(b / r for b, r in rounds)]
    ratios += [base[memory] / row[memory] for memory in ("peak", "model", "added")]
    return " ".join(f"{ratio:6.2f}" for ratio in ratios)


def _agreement(name: str, dtype: str, row: Measured, eager: Measured, fp32: Measured) -> str:
    """Say how far a contender is from eager; end the program where that is too far."""
    outputs = "learned" if name == "early-exit" else "tokens_scored"
    if dtype == "float32" and name == "early-exit":
        worst = max(_differences(row[outputs], eager[outputs]))
        if worst > 1e-3:
            sys.exit(f"{name} {dtype}: document scores differ by {worst:.2e}: no figures")
        return f"{worst:.1e}"
    if dtype == "float32":
        worst = max(_differences(row[outputs], eager[outputs]))
        if worst > 1e-5 or row["ranking"] != eager["ranking"]:
            sys.exit(f"{name} {dtype}: token scores differ by {worst:.2e}: no figures")
        return f"{worst:.1e}"
    own, allowed = (
        statistics.fmean(d * d for d in _differences(x[outputs], fp32[outputs])) ** 0.5
        for x in (row, eager)
    )
    if own > 2 * allowed:
        sys.exit(f"{name} {dtype}: scores are {own:.1e} off, eager's {allowed:.1e}: no figures")
    documents = "learned" if name == "early-exit" else "scores"
    largest, eagers = (max(_differences(x[documents], fp32[documents])) for x in (row, eager))
    return f"{own / allowed:.2f}, {largest / eagers:.2f}"


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [abs(a - b) for a, b in zip(one, other, strict=True)]


def _start(
    arguments: argparse.Namespace, name: str, dtype: str, documents: int
) -> subprocess.Popen[str]:
    command = [
        sys.executable, __file__, arguments.collection, "--candidates", arguments.candidates,
        "--model", arguments.model, "--queries", str(arguments.queries),
        "--documents", str(documents), "--worker", name, "--dtype", dtype,
        "--profile", arguments.profile,
    ]  # fmt: skip
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(worker: subprocess.Popen[str], what: str) -> Measured:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        print(what, file=worker.stdin, flush=True)
    except BrokenPipeError:
        sys.exit("a contender ended early: see above")
    answer = worker.stdout.readline()
    if not answer:
        sys.exit("a contender ended early: see above")
    result: Measured = json.loads(answer)
    return result


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collection")
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--documents", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profile", default="smollm2-135m-learned")
    parser.add_argument("--output")
    parser.add_argument("--worker", choices=CONTENDERS)
    parser.add_argument("--dtype", choices=DTYPES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
