"""Block layout: against two eager passes over the causal prompt, cold and with kept documents.

    python benchmarks/block.py COLLECTION --candidates NAME [--profile smollm2-135m-block]

First: the first ``--queries`` queries with 20 candidates, in bfloat16, in turns: two eager passes
of the base model with output_attentions over ICR's prompt, the engine with the profile
``causal`` (learned, causal layout, early exit), the engine with ``--profile`` (``own``: what a
trained ``--model`` is read with), the same with a document cache that is empty, and with one that
holds all documents. Then the same engine over 500 documents of one query (candidates of others
fill up) and every fifth and 25th of them, so that lengths are alike, in turns; and the exponent b
of time ~ documents^b between the fewest and the most. Nothing is reported when, in float32 and
over the first six candidates, an eager pass with the block layout's dense mask differs by more
than 1e-5 from the engine, with or without kept documents, or when kept documents give other bits
than those computed in the same pass.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from attention_peers import peer

from ranklens import AttentionReranker, Document, load_collection
from ranklens.data.models import resolve
from ranklens.rerank.kv.cache import DocumentCache
from ranklens.rerank.kv.reading import CachedReading
from ranklens.rerank.lora import merge_adapter

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.prompt import PromptLayout

DOCUMENTS = (20, 100, 500)
SHORT = 5
"""Reads of one query, of contenders that take a second or less."""


def main() -> None:
    arguments = _arguments()
    collection = load_collection(arguments.collection)
    candidates = collection.candidates(arguments.candidates)
    queries = [q for q in collection.queries if len(candidates[q.id]) >= DOCUMENTS[0]]
    every = dict.fromkeys(d.doc_id for q in queries for d in candidates[q.id][:100])
    if len(every) < DOCUMENTS[-1]:
        sys.exit(f"growth takes {DOCUMENTS[-1]} documents; the candidates have {len(every)}")
    texts = collection.documents.get_many(set(every))
    lists = [
        (q.text, [texts[d.doc_id] for d in candidates[q.id][: DOCUMENTS[0]]])
        for q in queries[: arguments.queries]
    ]
    off = _difference(arguments, *lists[0])
    if off > 1e-5:
        sys.exit(f"the block layout is {off:.1e} off the dense mask: no figures")
    lines = [
        f"command: python benchmarks/block.py {' '.join(sys.argv[1:])}",
        f"machine: {os.cpu_count()} cores; {arguments.dtype}; dense mask in float32: {off:.1e} off",
        "",
        "contender                  tokens   seconds       min       max    times",
    ]
    print("\n".join(lines), flush=True)
    lines += _turns(arguments, lists)
    lines += ["", "documents  tokens   seconds  ms/token"]
    lines += _growth(arguments, lists[0][0], [texts[doc_id] for doc_id in every][: DOCUMENTS[-1]])
    print("\n".join(lines[-len(DOCUMENTS) - 3 :]))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _turns(arguments: argparse.Namespace, lists: list[tuple[str, list[Document]]]) -> list[str]:
    """Time the contenders in turns, query by query; ratios are medians of the rounds' ratios.

    A read of what is not eager is the median of several: machines are faster and slower for
    seconds, and the eager passes are long enough to see both.
    """
    icr = _reranker(arguments, "icr")
    eager = peer("eager", Path(resolve(arguments.model).path), arguments.dtype)
    causal, block = (_reranker(arguments, name) for name in (arguments.causal, arguments.profile))
    kept = _reranker(arguments, arguments.profile, DocumentCache())
    work: dict[str, tuple[Callable[[PromptLayout], object], list[PromptLayout]]] = {
        "eager, two passes": (eager, [icr.layout(*x) for x in lists]),
        arguments.causal: (causal.read, [causal.layout(*x) for x in lists]),
        arguments.profile: (block.read, [block.layout(*x) for x in lists]),
        "  documents to keep": (partial(_cold, block), [block.layout(*x) for x in lists]),
        "  documents kept": (kept.read, [block.layout(*x) for x in lists]),
    }
    for layout in work["  documents kept"][1]:
        steady = block.engine.read(layout, block.plan, steady=True).mass
        if not all(bool((kept.read(layout).mass == steady).all()) for _ in range(2)):
            sys.exit("kept documents give other bits than computed ones: no figures")
    for read, layouts in work.values():
        read(layouts[0])
    times: dict[str, list[float]] = {name: [] for name in work}
    rates = []
    for _ in range(arguments.repeat):
        sums = dict.fromkeys(work, 0.0)
        for number in range(len(lists)):
            rates += _rates(block)
            for name, (read, layouts) in work.items():
                rounds = 1 if read is eager else SHORT
                sums[name] += statistics.median(
                    _seconds(read, layouts[number]) for _ in range(rounds)
                )
        for name, taken in sums.items():
            times[name].append(taken)
    found = []
    for name, of_name in times.items():
        ratio = statistics.median(
            a / b for a, b in zip(times["eager, two passes"], of_name, strict=True)
        )
        tokens = sum(len(layout.shared) for layout in work[name][1]) // len(lists)
        found.append(
            f"{name:25} {tokens:7} {statistics.median(of_name):9.2f} {min(of_name):9.2f} "
            f"{max(of_name):9.2f} {ratio:8.2f}"
        )
        print(found[-1], flush=True)
    low, *_, high = statistics.quantiles(rates, n=10)
    found.append(
        f"products of 1,600 rows with a layer's widest weight, between turns: median "
        f"{statistics.median(rates):,.0f} GFLOP/s, eight of ten within {low:,.0f} and {high:,.0f}"
    )
    print(found[-1], flush=True)
    return found


def _rates(reranker: AttentionReranker) -> list[float]:
    """Return how fast this machine's matrix unit is just now, in GFLOP/s.

    Half of a cold pass is products, and hardly any of an eager one: on a shared machine their
    ratio goes with the neighbours.
    """
    import torch

    widest = max(reranker.engine.model.layers[0].parameters(), key=lambda weight: weight.numel())
    rows = torch.randn(1600, widest.shape[1], dtype=widest.dtype)
    found = []
    with torch.inference_mode():
        for _ in range(20):
            start = time.perf_counter()
            torch.nn.functional.linear(rows, widest)
            found.append(2 * len(rows) * widest.numel() / (time.perf_counter() - start) / 1e9)
    return found


def _growth(arguments: argparse.Namespace, query: str, documents: list[Document]) -> list[str]:
    """Time lists of different lengths in turns; short ones are read several times in a turn."""
    block = _reranker(arguments, arguments.profile)
    steps = [len(documents) // number for number in DOCUMENTS]
    layouts = [block.layout(query, documents[::step]) for step in steps]
    block.read(layouts[0])
    times: list[list[float]] = [[] for _ in layouts]
    for _ in range(arguments.repeat):
        for layout, step, found in zip(layouts, steps, times, strict=True):
            found += [_seconds(block.read, layout) for _ in range(max(1, step // 3))]
    seconds = [statistics.median(found) for found in times]
    tokens = [len(layout.shared) for layout in layouts]
    exponent = math.log(seconds[-1] / seconds[0]) / math.log(DOCUMENTS[-1] / DOCUMENTS[0])
    return [
        *(
            f"{number:9} {count:7} {taken:9.2f} {1000 * taken / count:9.3f}"
            for number, count, taken in zip(DOCUMENTS, tokens, seconds, strict=True)
        ),
        f"exponent from {DOCUMENTS[0]} to {DOCUMENTS[-1]} documents: {exponent:.2f}",
    ]


def _cold(reranker: AttentionReranker, layout: PromptLayout) -> object:
    """Read a layout with a cache that holds nothing yet."""
    reading = CachedReading(reranker.engine, DocumentCache(), reranker.profile, reranker.model)
    return reading.read(layout, reranker.plan)


def _reranker(
    arguments: argparse.Namespace, profile: str, documents: DocumentCache | None = None
) -> AttentionReranker:
    return AttentionReranker.from_pretrained(
        arguments.model,
        profile=_named(profile),
        device="cpu",
        dtype=arguments.dtype,
        documents=documents,
    )


def _named(profile: str) -> str | None:
    return None if profile == "own" else profile


def _seconds(read: Callable[[PromptLayout], object], layout: PromptLayout) -> float:
    start = time.perf_counter()
    read(layout)
    return time.perf_counter() - start


def _difference(arguments: argparse.Namespace, query: str, documents: list[Document]) -> float:
    """Return the largest difference of the block signal from a dense mask's, in float32."""
    import torch
    from transformers import AutoModel

    ours = AttentionReranker.from_pretrained(
        arguments.model, profile=_named(arguments.profile), device="cpu", dtype="float32"
    )
    layout = ours.layout(query, documents[:6])
    signal = ours.read(layout)
    reading = CachedReading(ours.engine, DocumentCache(), ours.profile, ours.model)
    kept = reading.read(layout, ours.plan)
    base = resolve(arguments.model)
    model = AutoModel.from_pretrained(
        base.path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    for adapter in base.adapters:
        merge_adapter(model, adapter)
    worst = 0.0
    for number, tail in enumerate(layout.tails):
        ids = [*layout.shared, *tail.ids]
        positions = [*(layout.positions or range(len(layout.shared)))]
        start = layout.tail_start or len(positions)
        positions += range(start, start + len(tail.ids))
        hidden = torch.ones(len(ids), len(ids)).triu(1) > 0
        for first, end in layout.blocks:
            hidden[first:end, layout.blocks[0][0] : first] = True
        mask = torch.zeros(1, 1, *hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
        with torch.inference_mode():
            attentions = model(
                torch.tensor([ids]), attention_mask=mask, output_attentions=True,
                position_ids=torch.tensor([positions]),
            ).attentions  # fmt: skip
        rows = slice(*(len(layout.shared) + row for row in tail.rows))
        by_layer: list[torch.Tensor] = [
            a[0, :, rows, : len(layout.shared)].mean(1) for a in attentions
        ]
        for found in (signal, kept):
            for (layer, head), mass in zip(found.plan.heads, found.mass[:, number], strict=True):
                worst = max(worst, float((by_layer[layer][head] - mass).abs().max()))
    return worst


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collection")
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="smollm2-135m-block")
    parser.add_argument("--causal", default="smollm2-135m-learned")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
