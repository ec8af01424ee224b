"""First stages at 100,000 passages: time, memory and growth.

    python benchmarks/retrieval.py COLLECTION... [--passages N] [--encoded N] [--output FILE]

The corpus is the passages of the collections, and as many edited copies of them as N takes (every
fifth word of a copy is the next passage's); the queries are theirs. Each engine indexes N/16, N/4
and N passages into a folder, opens it and searches all queries for 1,000 passages, in a process of
its own, in turns; printed are medians, ratios from the same turns, and the growth exponents, the
slopes from N/16 to N in log-log. Memory is the peak of the process and of its children together,
so the engine's own and Java's, Python and its libraries included. The part on encoding times the
encoder against plain sentence-transformers on the same passages; the one on Faiss searches
N vectors, made of the encoded ones and noise, by each kind of index.

Nothing is reported when engines disagree: less than 0.9 of the ten best passages in common, other
vectors, or other scores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ranklens import load_collection
from ranklens.data.encoder import Encoder, Vectors
from ranklens.data.records import Document, Query
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.faiss_index import KINDS, VectorIndex, write_index
from ranklens.retrieval.shards import SHARD

ENGINES = ("bm25s", "lucene")
DEPTH = 1000
ROUNDS = 3
SHRINK = (16, 4, 1)
ASKED = 200
LEAST = 100


def main() -> None:
    arguments = _arguments()
    if arguments.worker:
        _work(*arguments.worker)
        return
    lines = [
        "command: python benchmarks/retrieval.py " + " ".join(_shown(arguments)),
        f"machine: {os.cpu_count()} cores",
        "",
    ]
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        queries = _write_corpus(arguments.collections, arguments.passages, Path(scratch))
        for part in (
            _words(arguments.passages, queries, Path(scratch)),
            _encoding(arguments.encoded, Path(scratch)),
            _nearest(arguments.passages, Path(scratch)),
        ):
            for line in part:
                print(line, flush=True)
                lines.append(line)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_corpus(collections: Sequence[str], count: int, folder: Path) -> int:
    """Write passages and queries as files of the workers; return the number of queries."""
    loaded = [load_collection(name) for name in collections]
    passages = [document.full_text for one in loaded for document in one.documents]
    with (folder / "passages.jsonl").open("w", encoding="utf-8") as stream:
        for number, text in enumerate(itertools.islice(_edited(passages), count)):
            stream.write(json.dumps({"id": f"p{number}", "text": text}) + "\n")
    queries = [query.text for one in loaded for query in one.queries]
    (folder / "queries.json").write_text(json.dumps(queries), encoding="utf-8")
    return len(queries)


def _edited(passages: list[str]) -> Iterator[str]:
    """Yield the passages, then copies in which words of the passages behind stand."""
    yield from passages
    for turn in itertools.count(1):
        for place, text in enumerate(passages):
            words = text.split()
            others = passages[(place + turn) % len(passages)].split() or words
            words[turn % 5 :: 5] = [
                others[i % len(others)] for i in range(len(words[turn % 5 :: 5]))
            ]
            yield " ".join(words)


def _documents(folder: Path, count: int) -> list[Document]:
    with (folder / "passages.jsonl").open(encoding="utf-8") as stream:
        rows = (json.loads(line) for line in itertools.islice(stream, count))
        return [Document(row["id"], row["text"]) for row in rows]


def _words(count: int, queries: int, scratch: Path) -> Iterator[str]:
    """Time bm25s and Lucene in turns, each in a process of its own."""
    sizes = [count // shrink for shrink in SHRINK]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        for size in sizes:
            for engine in ENGINES:
                row = _in_process(engine, size, scratch)
                found.setdefault((engine, size), []).append(row)
    for size in sizes:
        one, other = (found[engine, size][0]["top"] for engine in ENGINES)
        _check_overlap(one, other, size)
    yield f"{queries} queries, {DEPTH} passages each; medians of {ROUNDS} turns"
    yield f"{'passages':>8}  {'engine':8} index (s)  search (s)  memory (MB)  disk (MB)"
    for size, engine in itertools.product(sizes, ENGINES):
        rows = found[engine, size]
        yield (
            f"{size:8}  {engine:8} {_median(rows, 'index'):9.1f}  {_median(rows, 'search'):10.2f}"
            f"  {_median(rows, 'memory'):11.0f}  {_median(rows, 'disk'):9.0f}"
        )
    for engine in ENGINES:
        least = _in_process(engine, LEAST, scratch)["memory"]
        yield f"memory of {engine} with {LEAST} passages (Python, libraries, Java): {least:.0f} MB"
    pairs = list(zip(*(found[engine, count] for engine in ENGINES), strict=True))
    for what in ("index", "search", "memory", "disk"):
        ratio = statistics.median(lucene[what] / bm25s[what] for bm25s, lucene in pairs)
        yield f"lucene / bm25s at {count} passages, {what}: {ratio:.2f}"
    for engine, what in itertools.product(ENGINES, ("index", "search")):
        small, large = (_median(found[engine, size], what) for size in (sizes[0], count))
        slope = math.log(large / small) / math.log(count / sizes[0])
        yield f"growth exponent of {engine}, {what}: {slope:.2f}"
    yield ""


def _median(rows: list[dict[str, Any]], what: str) -> float:
    return float(statistics.median(row[what] for row in rows))


def _in_process(engine: str, size: int, scratch: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--worker", engine, str(size), str(scratch)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _work(engine: str, size: str, scratch: str) -> None:
    """Index and search in this process, and print what it took."""
    folder = Path(scratch)
    documents = _documents(folder, int(size))
    texts = json.loads((folder / "queries.json").read_text(encoding="utf-8"))
    queries = [Query(str(number), text) for number, text in enumerate(texts)]
    retriever = _engine(engine)
    index = folder / f"{engine}-index"
    index.mkdir()
    start = time.perf_counter()
    retriever.build(documents, index)
    indexed = time.perf_counter()
    retriever.open(index)
    opened = time.perf_counter()
    run = retriever.search(queries, DEPTH)
    searched = time.perf_counter()
    # A child's peak is known once it has ended.
    retriever.close()
    peaks = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(
        json.dumps(
            {
                "index": indexed - start,
                "search": searched - opened,
                "memory": sum(peaks) / 1000,
                "disk": sum(f.stat().st_size for f in index.rglob("*") if f.is_file()) / 1e6,
                "top": [[doc.doc_id for doc in docs[:10]] for docs in run.values()],
            }
        )
    )
    shutil.rmtree(index)


def _engine(name: str) -> Retriever:
    if name == "bm25s":
        from ranklens.retrieval.bm25 import BM25Retriever

        return BM25Retriever()
    from ranklens.retrieval.lucene import LuceneRetriever

    lucene = LuceneRetriever()
    # Java's start is not the index's time.
    lucene.start()
    return lucene


def _check_overlap(one: list[list[str]], other: list[list[str]], size: int) -> None:
    shares = [len({*a} & {*b}) / max(len(a), len(b)) for a, b in zip(one, other, strict=True) if a]
    if statistics.mean(shares) < 0.9:
        sys.exit(f"{size} passages: the engines have {statistics.mean(shares):.3f} in common")


def _encoding(count: int, scratch: Path) -> Iterator[str]:
    """Time the encoder against plain sentence-transformers, in turns, and its growth."""
    from sentence_transformers import SentenceTransformer

    from ranklens.data.models import resolve

    texts = [document.full_text for document in _documents(scratch, count)]
    yield f"encoding {count} passages by minilm-l6, medians of {ROUNDS} turns"
    for dtype in ("float32", "bfloat16"):
        import torch

        encoder = Encoder("minilm-l6", dtype=dtype)
        encoder.encode_passages(texts[:8])
        plain = SentenceTransformer(
            str(resolve("minilm-l6", download=True).path),
            device=encoder.placement.device,
            model_kwargs={"dtype": getattr(torch, dtype)},
        )
        ours, theirs, small = [], [], []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            vectors = encoder.encode_passages(texts)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            expected = plain.encode(texts, show_progress_bar=False, normalize_embeddings=True)
            theirs.append(time.perf_counter() - start)
            start = time.perf_counter()
            encoder.encode_passages(texts[: count // 8])
            small.append(time.perf_counter() - start)
        if np.sum(vectors * expected, axis=1).min() < (0.9999 if dtype == "float32" else 0.99):
            sys.exit(f"{dtype}: the vectors are not those of sentence-transformers")
        rate = count / statistics.median(ours)
        ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        slope = math.log(statistics.median(ours) / statistics.median(small)) / math.log(8)
        yield (
            f"{dtype:9} {rate:7.1f} passages/s; sentence-transformers' time / ours {ratio:.2f}; "
            f"growth exponent {slope:.2f} ({count // 8} to {count})"
        )
        np.save(scratch / "vectors.npy", vectors)
    yield ""


def _nearest(count: int, scratch: Path) -> Iterator[str]:
    """Time every kind of Faiss index over ``count`` vectors, and measure what it finds."""
    known: Vectors = np.load(scratch / "vectors.npy")
    draw = np.random.default_rng(0)
    folder = scratch / "vectors"
    folder.mkdir()

    def near(rows: int) -> Vectors:
        """Return vectors around the encoded ones, about as far as a paraphrase is."""
        base = known[draw.integers(0, len(known), rows)]
        vectors = base + draw.normal(scale=0.6 / math.sqrt(base.shape[1]), size=base.shape)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(unit, dtype=np.float32)

    for number, start in enumerate(range(0, count, SHARD)):
        np.save(folder / f"vectors-{number:05d}.npy", near(min(SHARD, count - start)))
    queries = near(ASKED)
    exact = VectorIndex(folder, "flat").search(queries, 10)
    yield f"Faiss over {count} vectors of {known.shape[1]}, {ASKED} queries, 10 nearest"
    yield "kind     build (s)  ms a query  recall@10  index (MB)"
    for kind in KINDS:
        start_time = time.perf_counter()
        write_index(folder, kind)
        built = time.perf_counter() - start_time
        index = VectorIndex(folder, kind)
        times = []
        for _ in range(ROUNDS):
            start_time = time.perf_counter()
            found = index.search(queries, 10)
            times.append(time.perf_counter() - start_time)
        for (rows, scores), (right, truth) in zip(found, exact, strict=True):
            known_scores = dict(zip(right.tolist(), truth.tolist(), strict=True))
            if any(
                known_scores.get(r, s) != s
                for r, s in zip(rows.tolist(), scores.tolist(), strict=True)
            ):
                sys.exit(f"{kind}: its scores are not flat's")
        file = folder / f"index-{kind}.faiss"
        size = file.stat().st_size / 1e6 if file.exists() else 0.0
        yield (
            f"{kind:8} {built:9.1f}  {1000 * statistics.median(times) / ASKED:10.2f}"
            f"  {index.recall(queries):9.3f}  {size:10.1f}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collections", nargs="*")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--encoded", type=int, default=2000)
    parser.add_argument("--output")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if not found.collections and not found.worker:
        parser.error("give one collection or more")
    return found


def _shown(arguments: argparse.Namespace) -> list[str]:
    return [
        *arguments.collections,
        *(["--passages", str(arguments.passages)] if arguments.passages != 100_000 else []),
        *(["--encoded", str(arguments.encoded)] if arguments.encoded != 2000 else []),
    ]


if __name__ == "__main__":
    main()
