"""How time and memory of the engine grow with documents, and with content-free queries.

    python benchmarks/growth.py COLLECTION --candidates NAME [--dtype bfloat16]

First: one query over more and more of its candidates; what ranking adds to the loaded model,
per token, should stay flat. Each number of documents has a process of its own, because a peak
cannot be taken back, and a second one in which freed tensors go back to the system at once
(``MALLOC_MMAP_THRESHOLD_``): "live" is what ranking needs at a time, "added" what the C library's
heap makes of it, which keeps freed blocks and cannot always fit the next one in. Times are of
the first process. Second: k content-free queries in one forward pass against k + 1 passes,
one for each tail; nothing is reported when their attention differs by more than 1e-5 in float32,
or in bfloat16 by more than 2% of the largest value.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from attention_worker import memory, reset_peak

NULLS = ("N/A", "Nothing.", "Anything at all", "a", "text", "words", "no question", "none")


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        print(json.dumps(_measure(arguments)))
        return
    lines = [
        f"command: python benchmarks/growth.py {' '.join(sys.argv[1:])}",
        f"machine: {os.cpu_count()} cores",
        "",
        "docs tokens  seconds  ms/token  live MB  KB/token  added MB  KB/token",
    ]
    print("\n".join(lines), flush=True)
    for documents in arguments.documents:
        row = _run(arguments, "growth", documents)
        live = _run(arguments, "growth", documents, MALLOC_MMAP_THRESHOLD_=str(2**20))["added"]
        lines.append(
            f"{documents:4} {row['tokens']:6} {row['seconds']:8.2f} "
            f"{1000 * row['seconds'] / row['tokens']:9.3f} "
            f"{live / 1e6:8.1f} {live / 1000 / row['tokens']:9.2f} "
            f"{row['added'] / 1e6:9.1f} {row['added'] / 1000 / row['tokens']:9.2f}"
        )
        print(lines[-1], flush=True)
    rows = _run(arguments, "nulls", arguments.documents[0])["rows"]
    lines += ["", "nulls  one forward  k+1 passes   ratio  largest difference"]
    lines += [
        f"{row['nulls']:5} {row['one']:12.2f} {row['separate']:11.2f} "
        f"{row['separate'] / row['one']:7.2f}  {row['off']:.1e}"
        for row in rows
    ]
    print("\n".join(lines[-len(rows) - 2 :]))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run(
    arguments: argparse.Namespace, worker: str, documents: int, **environment: str
) -> dict[str, Any]:
    command = [
        sys.executable, __file__, arguments.collection, "--candidates", arguments.candidates,
        "--model", arguments.model, "--dtype", arguments.dtype, "--documents", str(documents),
        "--worker", worker,
    ]  # fmt: skip
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | environment
    )
    if done.returncode:
        sys.exit(f"{worker} with {documents} documents failed: see above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    from ranklens import AttentionReranker, load_collection, load_profile

    collection = load_collection(arguments.collection)
    candidates = collection.candidates(arguments.candidates)
    query = next(q for q in collection.queries if len(candidates[q.id]) >= arguments.documents[0])
    ids = [doc.doc_id for doc in candidates[query.id][: arguments.documents[0]]]
    texts = collection.documents.get_many(set(ids))
    records = [texts[doc_id] for doc_id in ids]
    icr = load_profile("icr")

    def reranker(nulls: int) -> AttentionReranker:
        calibration = dataclasses.replace(icr.calibration, nulls=NULLS[:nulls])
        return AttentionReranker(first.engine, dataclasses.replace(icr, calibration=calibration))

    first = AttentionReranker.from_pretrained(
        arguments.model, profile=icr, device="cpu", dtype=arguments.dtype
    )
    if arguments.worker == "growth":
        first.rank(query, records[:2])
        reset_peak()
        before = memory("VmRSS")
        layout = first.layout(query.text, records)
        start = time.perf_counter()
        first.read(layout)
        seconds = time.perf_counter() - start
        return {
            "tokens": layout.length,
            "seconds": seconds,
            "added": max(memory("VmHWM") - before, 1),
        }
    rows = []
    for nulls in (1, 2, 4, 8):
        one = reranker(nulls)
        layout = one.layout(query.text, records)
        apart = [dataclasses.replace(layout, tails=(tail,)) for tail in layout.tails]
        one.read(layout)
        times: dict[str, list[float]] = {"one": [], "separate": []}
        for _ in range(3):
            start = time.perf_counter()
            together = one.read(layout).total()
            times["one"].append(time.perf_counter() - start)
            start = time.perf_counter()
            alone = [one.read(each).total()[0] for each in apart]
            times["separate"].append(time.perf_counter() - start)
        off = max(float((a - b).abs().max()) for a, b in zip(together, alone, strict=True))
        allowed = 1e-5 * max(1.0, float(together.abs().max()))
        if arguments.dtype != "float32":
            allowed = 0.02 * float(together.abs().max())
        if off > allowed:
            sys.exit(f"one forward with {nulls} nulls is {off:.1e} off: no figures")
        medians = {name: statistics.median(values) for name, values in times.items()}
        rows.append({"nulls": nulls, **medians, "off": off})
    return {"rows": rows}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collection")
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--documents", type=int, nargs="+", default=[20, 40, 60, 80, 100])
    parser.add_argument("--output")
    parser.add_argument("--worker", choices=("growth", "nulls"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
