"""bm25s beside Lucene: how far two engines of the same formula agree.

    python benchmarks/bm25.py COLLECTION...

For each collection both engines index and search all queries (k1 0.9, b 0.4). Printed are the
share of the ten best documents that both have (overlap@10), how often the best one is the same,
nDCG@10 and R@100 of both, and the seconds of indexing and searching, Java's start not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ranklens import load_collection
from ranklens.eval.measures import evaluate
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.lucene import LuceneRetriever

if TYPE_CHECKING:
    from ranklens.data.collection import Collection
    from ranklens.data.runs import Run

MEASURES = ("nDCG@10", "R@100")


def main() -> None:
    arguments = _arguments()
    lines = [
        f"command: python benchmarks/bm25.py {' '.join(arguments.collections)}",
        f"machine: {os.cpu_count()} cores",
        "",
        f"{'collection':14}  overlap@10  same best  "
        + "  ".join(f"{name:>8} bm25s Lucene" for name in MEASURES)
        + "  index (s) bm25s Lucene  search (s) bm25s Lucene",
    ]
    print(lines[-1], flush=True)
    for name in arguments.collections:
        lines.append(_compared(load_collection(name)))
        print(lines[-1], flush=True)
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _compared(collection: Collection) -> str:
    lucene = LuceneRetriever()
    lucene.start()
    runs, times = [], []
    for engine in (BM25Retriever(), lucene):
        start = time.perf_counter()
        engine.index(collection.documents)
        indexed = time.perf_counter()
        runs.append(engine.search(collection.queries, 1000))
        times.append((indexed - start, time.perf_counter() - indexed))
        engine.close()
    overlap, best = _agreement(*runs)
    found = [evaluate(collection.qrels, run, MEASURES).measures for run in runs]
    if not all(result[MEASURES[0]].value for result in found):
        sys.exit(f"{collection.name}: a run without a relevant document is no comparison")
    figures = "  ".join(
        f"{'':8} {found[0][name].value:5.4f} {found[1][name].value:6.4f}" for name in MEASURES
    )
    seconds = "  ".join(f"{'':9} {a:5.2f} {b:6.2f}" for a, b in zip(*times, strict=True))
    return f"{collection.name:14}  {overlap:10.3f}  {best:9.3f}  {figures}  {seconds}"


def _agreement(one: Run, other: Run) -> tuple[float, float]:
    """Return the mean share of the ten best in both, and how often the best is the same."""
    shares, same = [], []
    for query_id in one:
        tops = [[doc.doc_id for doc in run[query_id][:10]] for run in (one, other)]
        if any(tops):
            shares.append(len(set(tops[0]) & set(tops[1])) / max(map(len, tops)))
            same.append(tops[0][:1] == tops[1][:1])
    return statistics.mean(shares), statistics.mean(same)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
