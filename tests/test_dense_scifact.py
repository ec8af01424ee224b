"""Dense and hybrid retrieval over a part of the real SciFact.

The published figures, over all of it, are `ranklens reproduce minilm-flat/scifact`'s business: they
take minutes of encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ranklens.data.encoder import Encoder, Vectors
from ranklens.data.load import load_collection
from ranklens.data.sampling import sampled
from ranklens.eval.measures import evaluate
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.dense import DenseRetriever
from ranklens.retrieval.hybrid import HybridRetriever
from ranklens.retrieval.index_folder import open_index


class Remembering(Encoder):
    """An encoder that encodes the same queries once."""

    vectors: Vectors | None = None

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        if len(texts) != 300:
            return super().encode_queries(texts)
        if self.vectors is None:
            self.vectors = super().encode_queries(texts)
        return self.vectors


def test_kinds_and_hybrids_rank_as_they_should(
    shared_collection: Callable[[str], Path], tmp_path: Path
) -> None:
    """Approximate indexes are near exact search, and fusing is better than both parts.

    All 300 queries over 1,500 documents, the relevant ones among them. One test, because they are
    encoded once; in bfloat16, which is faster.
    """
    scifact = sampled(load_collection(str(shared_collection("scifact"))), 1500)
    assert len(scifact.queries) == 300
    encoder = Remembering("minilm-l6", device="cpu", dtype="bfloat16")

    def dense(kind: str) -> Retriever:
        retriever = DenseRetriever(encoder, kind=kind)
        assert open_index(retriever, tmp_path / "i", scifact.documents).built == (kind == "flat")
        return retriever

    def measured(retriever: Retriever, k: int) -> dict[str, float]:
        run = retriever.search(scifact.queries, k)
        found = evaluate(scifact.qrels, run, ["nDCG@10", "R@100"]).measures
        return {name: result.value for name, result in found.items()}

    flat = dense("flat")
    exact = measured(flat, 100)
    # Fewer documents are in the way than in the whole collection (0.645).
    assert 0.70 < exact["nDCG@10"] < 0.85
    for kind in ("hnsw", "ivfpq", "sq8", "rabitq"):
        near = dense(kind)
        for k in (10, 100):
            found = measured(near, k)["nDCG@10"]
            assert found == pytest.approx(exact["nDCG@10"], abs=0.005), (kind, k)
    words = BM25Retriever()
    words.index(scifact.documents)
    alone = measured(words, 100)["nDCG@10"]
    fused = measured(HybridRetriever({"bm25": words, "dense": flat}), 100)["nDCG@10"]
    assert fused > max(alone, exact["nDCG@10"]) + 0.005
