"""The one-forward engine against two eager passes with ``output_attentions``, in one run.

    python benchmarks/attention.py COLLECTION --candidates NAME [--output FILE]

For every dtype and number of documents each contender runs in a process of its own, in turn,
on the same token ids with the same weights: one untimed pass, then ``--repeat`` timed ones.
Contenders:

    eager   the whole prompt twice (query, N/A), all layers' attention kept: the oracle
    cached  the shared part once into a KV cache, then both tails over it, attention of the
            tails only: what the published ICR code does
    engine  ranklens

Time is the median of the passes. Memory is the peak of the process's resident set, and the
part of that peak which ranking adds to the loaded model. Nothing is reported when scores
disagree: in float32 token scores differ by more than 1e-5 from eager's, or the ranking
differs; in bfloat16 document scores lie further from eager float32 than twice eager bfloat16's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = ("eager", "cached", "engine")
DTYPES = ("float32", "bfloat16")
Measured = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        print(json.dumps(worker(arguments)))
        return
    lines = [
        f"command: python benchmarks/attention.py {' '.join(sys.argv[1:])}",
        f"machine: {os.cpu_count()} cores, {_cpu()}, Python {platform.python_version()}",
        "",
        "dtype     docs tokens  contender  seconds     min     max  peak MB added MB"
        "   time×  peak÷  added÷",
    ]
    for documents in arguments.documents:
        reference: Measured | None = None
        for dtype in DTYPES:
            rows = {name: _run(arguments, name, dtype, documents) for name in CONTENDERS}
            reference = reference or rows["eager"]
            for name in CONTENDERS[1:]:
                _agree(name, dtype, rows[name], rows["eager"], reference)
            lines += _report(dtype, documents, rows, reference)
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text, encoding="utf-8")


def _report(dtype: str, documents: int, rows: dict[str, Measured], fp32: Measured) -> list[str]:
    lines = []
    base = rows["eager"]
    for name, row in rows.items():
        ratios = (
            f"{base['seconds'] / row['seconds']:6.2f} {base['peak'] / row['peak']:6.2f} "
            f"{base['added'] / row['added']:7.2f}"
        )
        extra = ""
        if dtype == "bfloat16" and name == "engine":
            extra = f"   ({fp32['seconds'] / row['seconds']:.2f}× eager float32)"
        lines.append(
            f"{dtype:9} {documents:4} {row['tokens']:6}  {name:9} {row['seconds']:8.2f} "
            f"{row['fastest']:7.2f} {row['slowest']:7.2f} {row['peak'] / 1e6:8.0f} "
            f"{row['added'] / 1e6:8.0f}  {ratios}{extra}"
        )
    return lines


def _agree(name: str, dtype: str, row: Measured, eager: Measured, fp32: Measured) -> None:
    def furthest(key: str, one: Measured, other: Measured) -> float:
        return float(max(abs(a - b) for a, b in zip(one[key], other[key], strict=True)))

    if dtype == "float32":
        worst = furthest("tokens_scored", row, eager)
        if worst > 1e-5 or row["ranking"] != eager["ranking"]:
            sys.exit(f"{name} {dtype}: token scores differ by {worst:.2e}: no figures")
        return
    own = furthest("scores", row, fp32)
    allowed = 2 * furthest("scores", eager, fp32)
    if own > allowed:
        sys.exit(
            f"{name} {dtype}: scores are {own:.3f} off, eager half of {allowed:.3f}: no figures"
        )


def _run(arguments: argparse.Namespace, name: str, dtype: str, documents: int) -> Measured:
    command = [
        sys.executable, __file__, arguments.collection, "--candidates", arguments.candidates,
        "--model", arguments.model, "--query", str(arguments.query), "--repeat",
        str(arguments.repeat), "--documents", str(documents), "--worker", name, "--dtype", dtype,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: Measured = json.loads(done.stdout.splitlines()[-1])
    return result


def worker(arguments: argparse.Namespace) -> Measured:
    import torch

    from ranklens.data.load import load_collection
    from ranklens.data.models import pull
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.scores import pool

    collection = load_collection(arguments.collection)
    query = collection.queries[arguments.query]
    wanted = [
        doc.doc_id
        for doc in collection.candidates(arguments.candidates)[query.id][: arguments.documents[0]]
    ]
    texts = collection.documents.get_many(wanted)
    path = pull(arguments.model)
    reranker = AttentionReranker.from_pretrained(path, device="cpu", dtype=arguments.dtype)
    layout = reranker.layout(query.text, [texts[doc_id] for doc_id in wanted])
    contender: Callable[[], torch.Tensor]
    if arguments.worker == "engine":
        contender = lambda: reranker.read(layout).total()  # noqa: E731
    else:
        contender = _eager(path, arguments.dtype, layout, cached=arguments.worker == "cached")
        reranker.engine.model = None
    contender()
    _reset_peak()
    before = _memory("VmRSS")
    seconds = []
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        totals = contender()
        seconds.append(time.perf_counter() - start)
    peak = _memory("VmHWM")
    tokens = totals[0] - totals[1]
    scores = pool(tokens, layout.spans, reranker.profile.pooling)
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "peak": peak,
        "added": max(peak - before, 1),
        "tokens": layout.length,
        "scores": scores,
        "ranking": sorted(range(len(scores)), key=lambda i: -scores[i]),
        "tokens_scored": [
            float(value) for start, end in layout.spans for value in tokens[start:end]
        ],
    }


def _eager(path: Path, dtype: str, layout: Any, *, cached: bool) -> Callable[[], Any]:
    import torch
    from transformers import AutoModel, DynamicCache

    model = AutoModel.from_pretrained(
        path, attn_implementation="eager", dtype=getattr(torch, dtype)
    ).eval()
    shared = len(layout.shared)

    def total(attentions: Any, first_row: int) -> torch.Tensor:
        masses = [a[0, :, first_row:, :shared].float().mean(1).sum(0) for a in attentions]
        return torch.stack(masses).double().sum(0)

    @torch.inference_mode()
    def two_passes() -> torch.Tensor:
        rows = []
        for tail in layout.tails:
            ids = torch.tensor([layout.shared + tail])
            out = model(input_ids=ids, output_attentions=True, use_cache=False)
            rows.append(total(out.attentions, shared))
            del out
        return torch.stack(rows)

    @torch.inference_mode()
    def over_a_cache() -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        model(input_ids=torch.tensor([layout.shared]), past_key_values=cache, use_cache=True)
        rows = []
        for tail in layout.tails:
            ids = torch.tensor([tail])
            out = model(input_ids=ids, past_key_values=cache, output_attentions=True)
            rows.append(total(out.attentions, 0))
            cache.crop(-len(tail))
        return torch.stack(rows)

    return over_a_cache if cached else two_passes


def _reset_peak() -> None:
    """Make VmHWM start again from the present size (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


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
    parser.add_argument("--query", type=int, default=0, help="position of the query")
    parser.add_argument("--documents", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output")
    parser.add_argument("--worker", choices=CONTENDERS)
    parser.add_argument("--dtype", choices=DTYPES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
