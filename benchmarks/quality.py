"""What rerankers gain over their first stage, on one collection, with the same candidates.

    python benchmarks/quality.py COLLECTION --candidates NAME --depth N PROFILE...

Each profile reranks the first N candidates of every judged query, or of the first ``--queries``,
with ``--model``, ``own`` being what the model is read with where none is named; ``--candidates``
is a run file or the collection's name of one; ``minilm`` is a bi-encoder (all-MiniLM-L6-v2, mean
pooling, cosine) for comparison. ``--most M`` reads a list in prompts of at most M documents that
share anchors. With ``--fused`` every ranking is fused with its first stage as well (the sum of
both scores' z-scores). Printed are nDCG@10 with a
95% bootstrap interval, the difference to the first stage, and the p-value of a two-sided paired
randomisation test over queries, (b + 1) / (B + 1) with B = 100,000.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ranklens import Document, Fusion, Query, Run, ScoredDoc, evaluate, load_collection
from ranklens.cli.specs import find_candidates
from ranklens.cli.stages import request_numbers

ROUNDS = 100_000


def main() -> None:
    arguments = _arguments()
    collection = load_collection(arguments.collection)
    queries = [query for query in collection.queries if query.id in collection.qrels]
    queries = queries[: arguments.queries]
    candidates = find_candidates(collection, arguments.candidates, queries)
    depth = arguments.depth
    wanted = {doc.doc_id for query in queries for doc in candidates[query.id][:depth]}
    texts = collection.documents.get_many(wanted)
    lists = {
        query: [texts[doc.doc_id] for doc in candidates[query.id][:depth]] for query in queries
    }
    numbers = request_numbers(collection)
    qrels = collection.qrels.restricted_to(query.id for query in queries)
    first = _measured(qrels, {q: _by_place(d) for q, d in lists.items()})
    lines = [
        f"command: python benchmarks/quality.py {' '.join(sys.argv[1:])}",
        f"{collection.name}, {len(queries)} queries, depth {depth}, {os.cpu_count()} cores",
        "",
        "ranking                     nDCG@10   95% interval     difference        p   seconds",
        _line(arguments.candidates, first, None, None),
    ]
    print("\n".join(lines), flush=True)
    for name in arguments.profiles:
        start = time.perf_counter()
        found = _minilm(lists) if name == "minilm" else _attention(lists, numbers, name, arguments)
        seconds = time.perf_counter() - start
        lines.append(_line(name, _measured(qrels, found), first, seconds))
        print(lines[-1], flush=True)
        if arguments.fused:
            both = _fused(found, {query: candidates[query.id][:depth] for query in found})
            lines.append(_line(f"{name} + first stage", _measured(qrels, both), first, seconds))
            print(lines[-1], flush=True)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _attention(
    lists: Mapping[Query, Sequence[Document]],
    numbers: Mapping[str, int],
    profile: str,
    arguments: argparse.Namespace,
) -> dict[Query, list[ScoredDoc]]:
    from ranklens import AttentionReranker
    from ranklens.rerank.long_lists import LongLists

    reranker = AttentionReranker.from_pretrained(
        arguments.model,
        profile=None if profile == "own" else profile,
        device=arguments.device,
        dtype=arguments.dtype,
        long_lists=LongLists("anchors", most=arguments.most) if arguments.most else "refuse",
    )
    return {
        query: [
            ScoredDoc(ranked.id, ranked.score)
            for ranked in reranker.rank(query, documents, request=numbers[query.id])
        ]
        for query, documents in lists.items()
    }


def _minilm(lists: Mapping[Query, Sequence[Document]]) -> dict[Query, list[ScoredDoc]]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from ranklens.data.models import pull

    path = pull("minilm-l6")
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    @torch.inference_mode()
    def encode(batch: list[str]) -> torch.Tensor:
        inputs = tokenizer(
            batch, padding=True, truncation=True, max_length=256, return_tensors="pt"
        )
        mask = inputs["attention_mask"][..., None]
        hidden = model(**inputs).last_hidden_state * mask
        return torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1), dim=-1)

    found = {}
    for query, documents in lists.items():
        scores = encode([document.text for document in documents]) @ encode([query.text])[0]
        pairs = zip(documents, scores.tolist(), strict=True)
        found[query] = [ScoredDoc(document.id, score) for document, score in pairs]
    return found


def _fused(
    found: Mapping[Query, list[ScoredDoc]], first: Mapping[Query, Sequence[ScoredDoc]]
) -> dict[Query, list[ScoredDoc]]:
    both = [
        Run({query.id: sorted(docs, key=lambda d: -d.score) for query, docs in ranking.items()})
        for ranking in (found, first)
    ]
    fused = Fusion("wsum", norm="z-score").fuse(both)
    return {query: list(fused[query.id]) for query in found}


def _by_place(documents: Sequence[Document]) -> list[ScoredDoc]:
    return [ScoredDoc(document.id, -float(place)) for place, document in enumerate(documents)]


def _measured(qrels: Any, found: Mapping[Query, list[ScoredDoc]]) -> Any:
    run = Run({query.id: sorted(docs, key=lambda d: -d.score) for query, docs in found.items()})
    return evaluate(qrels, run, ["nDCG@10"]).measures["nDCG@10"]


def _line(name: str, result: Any, first: Any, seconds: float | None) -> str:
    low, high = result.ci95
    line = f"{Path(name).stem:26}  {result.value:7.4f}  [{low:.4f}, {high:.4f}]"
    if first is None:
        return line
    pairs = [(result.per_query[q], first.per_query[q]) for q in first.per_query]
    differences = np.array([a - b for a, b in pairs])
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (ROUNDS, len(differences)))
    extreme = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).sum()
    p = (extreme + 1) / (ROUNDS + 1)
    return f"{line}  {differences.mean():+10.4f}  {p:7.4f}  {seconds:8.0f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collection")
    parser.add_argument("profiles", nargs="+", metavar="PROFILE", help="or own, or minilm")
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--queries", type=int)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--most", type=int)
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
