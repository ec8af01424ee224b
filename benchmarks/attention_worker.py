"""One contender of ``attention.py`` in a process of its own: it answers lines with JSON lines."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attention_peers import Contender, peer

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.profile import Profile
    from ranklens.rerank.prompt import PromptLayout

CONTENDERS = ("eager", "sdpa", "cached", "engine", "early-exit")
LAYERS = 30
"""Of SmolLM2-135M, whose learned profile is compared."""


def serve(arguments: argparse.Namespace) -> None:
    """Obey ``warm up``, ``round`` and ``finish`` from standard input."""
    import transformers.modeling_utils  # noqa: F401  what every contender has loaded

    from ranklens.data.models import pull
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.profile_file import load_profile

    libraries = memory("VmRSS")
    path = pull(arguments.model)
    profile = load_profile(arguments.profile if arguments.worker == "early-exit" else "icr")
    reranker = AttentionReranker.from_pretrained(
        path, profile=profile, device="cpu", dtype=arguments.dtype
    )
    layouts = _layouts(arguments, reranker)
    if arguments.worker in ("engine", "early-exit"):
        contender: Contender = lambda layout: reranker.read(layout).mass  # noqa: E731
    else:
        reranker.engine.model = None
        gc.collect()
        contender = peer(arguments.worker, path, arguments.dtype)
    before = 0
    masses: list[torch.Tensor] = []
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        if line.strip() == "warm up":
            contender(layouts[0])
            reset_peak()
            before = memory("VmRSS")
        elif line.strip() == "round":
            start = time.perf_counter()
            masses = [contender(layout) for layout in layouts]
            answer["seconds"] = time.perf_counter() - start
        else:
            peak = memory("VmHWM")
            answer = {"peak": peak, "model": peak - libraries, "added": max(peak - before, 1)}
            answer["tokens"] = sum(layout.length for layout in layouts) // len(layouts)
            if arguments.worker != "early-exit":
                answer |= _icr_outputs(layouts, masses)
            if arguments.worker in ("early-exit", "eager"):
                answer["learned"] = _learned_scores(
                    layouts, masses, load_profile(arguments.profile)
                )
        print(json.dumps(answer), flush=True)


def _icr_outputs(layouts: Sequence[PromptLayout], masses: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return document scores, rankings and calibrated tokens of ICR."""
    from ranklens.rerank.profile_file import load_profile
    from ranklens.rerank.scores import pool

    found: dict[str, Any] = {"scores": [], "ranking": [], "tokens_scored": []}
    for layout, mass in zip(layouts, masses, strict=True):
        total = mass.double().sum(0)
        tokens = total[0] - total[1]
        scores = pool(tokens[None], layout.spans, load_profile("icr").pooling)[0].tolist()
        found["scores"] += scores
        found["ranking"].append(sorted(range(len(scores)), key=lambda i: -scores[i]))
        for first, end in layout.spans:
            found["tokens_scored"] += tokens[first:end].tolist()
    return found


def _learned_scores(
    layouts: Sequence[PromptLayout], masses: Sequence[torch.Tensor], profile: Profile
) -> list[float]:
    """Return the document scores of a profile whose heads are combined by documents.

    Masses are of its heads, or of all of the model's, nine a layer in SmolLM2-135M.
    """
    import torch

    from ranklens.rerank.scores import per_head_scores

    weights = profile.signal.weights or {}
    named = [(layer, head) for layer in sorted(weights) for head in sorted(weights[layer])]
    scores = []
    for layout, mass in zip(layouts, masses, strict=True):
        if len(mass) != len(named):
            heads = len(mass) // LAYERS
            mass = mass[[layer * heads + head for layer, head in named]]
        by_head = per_head_scores(mass.double(), layout, profile)
        weighing = torch.tensor([weights[layer][head] for layer, head in named]).double()
        scores += (weighing @ by_head).tolist()
    return scores


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


def reset_peak() -> None:
    """Make VmHWM start again from the present size (Linux)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")
