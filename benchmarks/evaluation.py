"""Evaluation: start to table beside ir_measures and ranx, and a million result lines.

    python benchmarks/evaluation.py COLLECTION RUN [--repeat N] [--queries N] [--output FILE]

First result: whole processes on a warm disk, in turn, from start to printed nDCG@10 of the run
(for 43 queries: the BM25 candidates of TREC DL 2019); medians, and ratios to ranklens. ranx
compiles its measures in every process. The three must print the same value to four digits, or
there are no figures; that holds where no scores are tied, as the three order ties differently.

A million lines: a run of 1,000 queries with 1,000 documents each and qrels for it are written,
read and evaluated with six measures in a process of its own; ir_measures reads and evaluates the
same files. Seconds and peak memory of the whole process.

Randomised Tukey: 10,000 permutations of 40 systems on 50 topics, of which one differs.
"""

from __future__ import annotations

import argparse
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ranklens.cli.measuring import load_qrels
from ranklens.eval.stats.tukey import randomised_tukey

MEASURES = ["nDCG@10", "AP", "RR", "P@10", "R@100", "Judged@10"]
RANX = """
import sys, warnings
warnings.simplefilter("ignore")
from ranx import Qrels, Run, evaluate
qrels = Qrels.from_file(sys.argv[1], kind="trec")
run = Run.from_file(sys.argv[2], kind="trec")
print("nDCG@10", f"{evaluate(qrels, run, 'ndcg@10', make_comparable=True):.4f}")
"""


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        qrels = _written_qrels(folder, arguments.collection)
        lines = [
            f"command: python benchmarks/evaluation.py {arguments.collection} {arguments.run} "
            f"--repeat {arguments.repeat} --queries {arguments.queries}",
            "",
            "first result (s)   median     min     max  × ranklens",
            *_first_result(qrels, arguments.run, arguments.repeat),
            "",
            f"{arguments.queries:,} queries of 1,000 documents    seconds  peak memory (MB)",
            *_many_lines(folder, arguments.queries),
            "",
            _tukey(),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text, encoding="utf-8")


def _written_qrels(folder: Path, collection: str) -> Path:
    """Write a collection's qrels as a TREC file, which all three read."""
    qrels, _, _ = load_qrels(collection)
    path = folder / "qrels.txt"
    rows = [f"{q} 0 {doc} {grade}\n" for q, docs in qrels.items() for doc, grade in docs.items()]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def _first_result(qrels: Path, run: str, repeat: int) -> list[str]:
    ranklens = [sys.executable, "-m", "ranklens.cli.main", "evaluate", str(qrels), run]
    commands = {
        "ranklens": [*ranklens, "-m", "nDCG@10"],
        "ir_measures": [sys.executable, "-m", "ir_measures", str(qrels), run, "nDCG@10"],
        "ranx": [sys.executable, "-c", RANX, str(qrels), run],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    values: dict[str, str] = {}
    for turn in range(repeat + 1):
        for name, command in commands.items():
            elapsed, printed, _ = _timed(command)
            values[name] = _value(printed)
            # The first turn warms the disk and the bytecode.
            if turn:
                seconds[name].append(elapsed)
    if len(set(values.values())) > 1:
        sys.exit(f"nDCG@10 differs, {values}: no figures")
    base = statistics.median(seconds["ranklens"])
    return [
        f"{name:16} {statistics.median(times):8.3f} {min(times):7.3f} {max(times):7.3f} "
        f"{statistics.median(times) / base:11.2f}"
        for name, times in seconds.items()
    ]


def _many_lines(folder: Path, queries: int) -> list[str]:
    generator = random.Random(1)
    run, qrels = folder / "many.run", folder / "many.qrels"
    with run.open("w", encoding="utf-8") as out, qrels.open("w", encoding="utf-8") as judged:
        for query in range(queries):
            docs = generator.sample(range(8_841_823), 1000)
            for rank, doc in enumerate(docs, start=1):
                out.write(f"{100_000 + query} Q0 {doc} {rank} {30 - rank / 50:.6f} bm25\n")
            for doc in docs[::37]:
                judged.write(f"{100_000 + query} 0 {doc} {generator.choice([0, 0, 1, 2, 3])}\n")
    ranklens = [sys.executable, "-m", "ranklens.cli.main", "evaluate", str(qrels), str(run)]
    commands = {
        "ranklens": [*ranklens, *(word for name in MEASURES for word in ("-m", name))],
        "ir_measures": [sys.executable, "-m", "ir_measures", str(qrels), str(run), *MEASURES],
    }
    found = {name: _timed(command) for name, command in commands.items()}
    if len({_value(printed) for _, printed, _ in found.values()}) > 1:
        sys.exit("nDCG@10 of the million lines differs: no figures")
    return [
        f"{name:30} {elapsed:11.1f} {memory:17.0f}" for name, (elapsed, _, memory) in found.items()
    ]


def _tukey() -> str:
    """Time the test of all pairs of 40 systems; of equal systems few pairs may be found apart."""
    systems, topics, permutations = 40, 50, 10_000
    scores = np.random.default_rng(1).random((systems, topics))
    scores[0] += 1
    start = time.perf_counter()
    found = randomised_tukey(scores, permutations)
    elapsed = time.perf_counter() - start
    if not (found[0, 1:] < 0.05).all() or (found[1:, 1:] < 0.05).any():
        sys.exit("randomised Tukey does not find the one system that differs: no figures")
    return (
        f"randomised Tukey, {systems} systems × {topics} topics, {permutations:,} permutations: "
        f"{elapsed:.1f} s"
    )


_CHILD = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def _timed(command: list[str]) -> tuple[float, str, float]:
    """Return seconds, standard output and peak memory in MB of a process."""
    start = time.perf_counter()
    # A parent of its own: the peak of children is the highest of all there were.
    watched = [sys.executable, "-S", "-E", "-c", _CHILD, *command]
    done = subprocess.run(watched, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr}")
    return elapsed, done.stdout, int(done.stderr.split()[-1]) / 1024


def _value(printed: str) -> str:
    line = next(line for line in printed.splitlines() if "nDCG@10" in line)
    found = re.search(r"\b0\.\d{4}\b", line)
    return found[0] if found else line


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collection", help="qrels file or collection")
    parser.add_argument("run")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
