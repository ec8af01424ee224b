"""One contender of ``attention.py`` in a process of its own: it answers lines with JSON lines."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.prompt import PromptLayout

    Contender = Callable[[PromptLayout], torch.Tensor]

CONTENDERS = ("eager", "cached", "engine")


def serve(arguments: argparse.Namespace) -> None:
    """Obey ``warm up``, ``round`` and ``finish`` from standard input."""
    import transformers.modeling_utils  # noqa: F401  what every contender has loaded

    from ranklens.data.models import pull
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.scores import pool

    libraries = _memory("VmRSS")
    path = pull(arguments.model)
    reranker = AttentionReranker.from_pretrained(path, device="cpu", dtype=arguments.dtype)
    layouts = _layouts(arguments, reranker)
    contender: Contender
    if arguments.worker == "engine":
        contender = lambda layout: reranker.read(layout).total()  # noqa: E731
    else:
        reranker.engine.model = None
        gc.collect()
        contender = _eager(path, arguments.dtype, cached=arguments.worker == "cached")
    before = 0
    totals: list[torch.Tensor] = []
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        if line.strip() == "warm up":
            contender(layouts[0])
            _reset_peak()
            before = _memory("VmRSS")
        elif line.strip() == "round":
            start = time.perf_counter()
            totals = [contender(layout) for layout in layouts]
            answer["seconds"] = time.perf_counter() - start
        else:
            peak = _memory("VmHWM")
            answer = {"peak": peak, "model": peak - libraries, "added": max(peak - before, 1)}
            answer["tokens"] = sum(layout.length for layout in layouts) // len(layouts)
            answer |= {"scores": [], "ranking": [], "tokens_scored": []}
            for layout, total in zip(layouts, totals, strict=True):
                tokens = total[0] - total[1]
                scores = pool(tokens[None], layout.spans, reranker.profile.pooling)[0].tolist()
                answer["scores"] += scores
                answer["ranking"].append(sorted(range(len(scores)), key=lambda i: -scores[i]))
                for first, end in layout.spans:
                    answer["tokens_scored"] += tokens[first:end].tolist()
        print(json.dumps(answer), flush=True)


def _layouts(arguments: argparse.Namespace, reranker: Any) -> Sequence[PromptLayout]:
    from ranklens.data.load import load_collection

    collection = load_collection(arguments.collection)
    candidates = collection.candidates(arguments.candidates)
    wanted = {
        query.text: [doc.doc_id for doc in candidates[query.id][: arguments.documents[0]]]
        for query in collection.queries[: arguments.queries]
    }
    texts = collection.documents.get_many({doc_id for ids in wanted.values() for doc_id in ids})
    return [
        reranker.layout(query, [texts[doc_id] for doc_id in ids]) for query, ids in wanted.items()
    ]


def _eager(path: Path, dtype: str, *, cached: bool) -> Contender:
    import torch
    from transformers import AutoModel, DynamicCache

    model = AutoModel.from_pretrained(
        path, attn_implementation="eager", dtype=getattr(torch, dtype)
    ).eval()

    def total(attentions: Any, first_row: int, shared: int) -> torch.Tensor:
        masses = [a[0, :, first_row:, :shared].float().mean(1).sum(0) for a in attentions]
        return torch.stack(masses).double().sum(0)

    @torch.inference_mode()
    def two_passes(layout: PromptLayout) -> torch.Tensor:
        rows = []
        for tail in layout.tails:
            ids = torch.tensor([layout.shared + tail.ids])
            out = model(input_ids=ids, output_attentions=True, use_cache=False)
            rows.append(total(out.attentions, len(layout.shared), len(layout.shared)))
            del out
        return torch.stack(rows)

    @torch.inference_mode()
    def over_a_cache(layout: PromptLayout) -> torch.Tensor:
        cache = DynamicCache(config=model.config)
        model.set_attn_implementation("sdpa")
        model(input_ids=torch.tensor([layout.shared]), past_key_values=cache, use_cache=True)
        model.set_attn_implementation("eager")
        rows = []
        for tail in layout.tails:
            ids = torch.tensor([tail.ids])
            out = model(input_ids=ids, past_key_values=cache, output_attentions=True)
            rows.append(total(out.attentions, 0, len(layout.shared)))
            cache.crop(-len(tail.ids))
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
