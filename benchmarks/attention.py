"""The one-forward engine against two eager passes with ``output_attentions``, in one run.

    python benchmarks/attention.py COLLECTION --candidates NAME [--output FILE]

For every dtype and number of documents each contender runs in a process of its own, in turn,
on the same token ids with the same weights: one untimed query, then ``--repeat`` timed passes.
Contenders:

    eager   the whole prompt twice (query, N/A) through the causal LM with output_attentions:
            the oracle of the tests
    cached  the shared part once into a KV cache, then both tails over it, output_attentions
            for the tails only: the order of work of the published ICR code
    engine  ranklens

A pass takes the first ``--queries`` queries; its time is the median over the passes. Memory
is the peak of the process's resident set, and the part of that peak which ranking adds to the
loaded model. Nothing is reported when scores disagree: in float32 token scores differ by more
than 1e-5 from eager's, or the ranking differs; in bfloat16 token scores lie, root mean square,
further from eager float32 than twice eager bfloat16's do.
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.prompt import PromptLayout

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
    def differences(one: Measured, other: Measured) -> list[float]:
        return [
            abs(a - b) for a, b in zip(one["tokens_scored"], other["tokens_scored"], strict=True)
        ]

    if dtype == "float32":
        worst = max(differences(row, eager))
        if worst > 1e-5 or row["ranking"] != eager["ranking"]:
            sys.exit(f"{name} {dtype}: token scores differ by {worst:.2e}: no figures")
        return
    # The largest of a few differences is a matter of luck; over all tokens the mean is not.
    own, allowed = (
        statistics.fmean(d * d for d in differences(other, fp32)) ** 0.5 for other in (row, eager)
    )
    if own > 2 * allowed:
        sys.exit(
            f"{name} {dtype}: token scores are {own:.1e} off, eager's {allowed:.1e}: no figures"
        )


def _run(arguments: argparse.Namespace, name: str, dtype: str, documents: int) -> Measured:
    command = [
        sys.executable, __file__, arguments.collection, "--candidates", arguments.candidates,
        "--model", arguments.model, "--queries", str(arguments.queries), "--repeat",
        str(arguments.repeat), "--documents", str(documents), "--worker", name, "--dtype", dtype,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: Measured = json.loads(done.stdout.splitlines()[-1])
    return result


def worker(arguments: argparse.Namespace) -> Measured:

    from ranklens.data.load import load_collection
    from ranklens.data.models import pull
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.scores import pool

    collection = load_collection(arguments.collection)
    candidates = collection.candidates(arguments.candidates)
    wanted = {
        query: [doc.doc_id for doc in candidates[query.id][: arguments.documents[0]]]
        for query in collection.queries[: arguments.queries]
    }
    texts = collection.documents.get_many({doc_id for ids in wanted.values() for doc_id in ids})
    path = pull(arguments.model)
    reranker = AttentionReranker.from_pretrained(path, device="cpu", dtype=arguments.dtype)
    layouts = [
        reranker.layout(query.text, [texts[doc_id] for doc_id in ids])
        for query, ids in wanted.items()
    ]
    contender: Callable[[PromptLayout], torch.Tensor]
    if arguments.worker == "engine":
        contender = lambda layout: reranker.read(layout).total()  # noqa: E731
    else:
        contender = _eager(path, arguments.dtype, cached=arguments.worker == "cached")
        reranker.engine.model = None
    contender(layouts[0])
    _reset_peak()
    before = _memory("VmRSS")
    seconds = []
    for _ in range(arguments.repeat):
        start = time.perf_counter()
        totals = [contender(layout) for layout in layouts]
        seconds.append(time.perf_counter() - start)
    peak = _memory("VmHWM")
    result: Measured = {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "peak": peak,
        "added": max(peak - before, 1),
        "tokens": sum(layout.length for layout in layouts) // len(layouts),
        "scores": [],
        "ranking": [],
        "tokens_scored": [],
    }
    for layout, total in zip(layouts, totals, strict=True):
        tokens = total[0] - total[1]
        scores = pool(tokens, layout.spans, reranker.profile.pooling)
        result["scores"] += scores
        result["ranking"].append(sorted(range(len(scores)), key=lambda i: -scores[i]))
        for start_token, end in layout.spans:
            result["tokens_scored"] += tokens[start_token:end].tolist()
    return result


def _eager(path: Path, dtype: str, *, cached: bool) -> Callable[[PromptLayout], torch.Tensor]:
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(
        path, attn_implementation="eager", dtype=getattr(torch, dtype)
    ).eval()

    def total(attentions: Any, first_row: int, shared: int) -> torch.Tensor:
        masses = [a[0, :, first_row:, :shared].float().mean(1).sum(0) for a in attentions]
        return torch.stack(masses).double().sum(0)

    @torch.inference_mode()
    def two_passes(layout: PromptLayout) -> torch.Tensor:
        rows = []
        for tail in layout.tails:
            ids = torch.tensor([layout.shared + tail])
            out = model(input_ids=ids, output_attentions=True, use_cache=False)
            rows.append(total(out.attentions, len(layout.shared), len(layout.shared)))
            del out
        return torch.stack(rows)

    @torch.inference_mode()
    def over_a_cache(layout: PromptLayout) -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        model(input_ids=torch.tensor([layout.shared]), past_key_values=cache, use_cache=True)
        rows = []
        for tail in layout.tails:
            ids = torch.tensor([tail])
            out = model(input_ids=ids, past_key_values=cache, output_attentions=True)
            rows.append(total(out.attentions, 0, len(layout.shared)))
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
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--documents", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output")
    parser.add_argument("--worker", choices=CONTENDERS)
    parser.add_argument("--dtype", choices=DTYPES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
