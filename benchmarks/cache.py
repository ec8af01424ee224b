"""What keeping documents in fewer bits or tokens costs, and saves.

    python benchmarks/cache.py COLLECTION --candidates NAME [--profile smollm2-135m-block]

For each way of keeping documents: bytes per document, nDCG@10 of the first ``--depth``
candidates of every judged query, how many of the ten best documents are those of the exact
ranking, the mean share of a content-free query's attention that is kept, and seconds for all
queries the first time (documents computed) and again (all kept). Nothing is reported when the
second time gives other scores than the first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from ranklens import AttentionReranker, Run, ScoredDoc, evaluate, load_collection
from ranklens.rerank.kv.cache import DocumentCache

WAYS: tuple[dict[str, Any], ...] = (
    {"storage": "exact"},
    {"storage": "int8"},
    {"storage": "exact", "keep_tokens": 64},
    {"storage": "exact", "keep_tokens": 32},
    {"storage": "int8", "keep_tokens": 32},
)


def main() -> None:
    arguments = _arguments()
    collection = load_collection(arguments.collection)
    candidates = collection.candidates(arguments.candidates)
    queries = [query for query in collection.queries if query.id in collection.qrels]
    queries = queries[: arguments.queries]
    depth = arguments.depth
    texts = collection.documents.get_many(
        {doc.doc_id for query in queries for doc in candidates[query.id][:depth]}
    )
    lists = {q: [texts[doc.doc_id] for doc in candidates[q.id][:depth]] for q in queries}
    qrels = collection.qrels.restricted_to(query.id for query in queries)
    lines = [
        f"command: python benchmarks/cache.py {' '.join(sys.argv[1:])}",
        f"{collection.name}, {len(queries)} queries, {len(texts)} documents, "
        f"{os.cpu_count()} cores",
        "",
        "kept as                 KB each   nDCG@10  of the ten  attention   first   again",
    ]
    print("\n".join(lines), flush=True)
    exact: dict[str, set[str]] = {}
    for way in WAYS:
        cache = DocumentCache(memory=2**36, **way)
        reranker = AttentionReranker.from_pretrained(
            arguments.model,
            profile=arguments.profile,
            device="cpu",
            dtype=arguments.dtype,
            documents=cache,
        )
        times, found = [], []
        for _ in range(2):
            start = time.perf_counter()
            found.append({q.id: reranker.rank(q, documents) for q, documents in lists.items()})
            times.append(time.perf_counter() - start)
        if found[0] != found[1]:
            sys.exit(f"{way}: other scores the second time: no figures")
        run = Run({q: [ScoredDoc(d.id, d.score) for d in one] for q, one in found[0].items()})
        value = evaluate(qrels, run, ["nDCG@10"]).measures["nDCG@10"].value
        best = {q: {d.id for d in list(one)[:10]} for q, one in found[0].items()}
        exact = exact or best
        shared = statistics.mean(len(best[q] & exact[q]) for q in best)
        kept = 1 - cache.counts.lost / cache.counts.computed
        lines.append(
            f"{_name(way):24}{cache.held / len(texts) / 1000:10.0f} {value:8.4f} "
            f"{shared:11.2f} {kept:10.3f} {times[0]:7.0f} {times[1]:7.0f}"
        )
        print(lines[-1], flush=True)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _name(way: dict[str, Any]) -> str:
    tokens = way.get("keep_tokens")
    return f"{way['storage']}, {tokens} tokens" if tokens else str(way["storage"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collection")
    parser.add_argument("--candidates", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--profile", default="smollm2-135m-block")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
