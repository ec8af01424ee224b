"""SciFact's published figures, by dense and hybrid retrieval over the real collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.data.collection import Collection
from ranklens.data.load import load_collection
from ranklens.eval.measures import evaluate
from ranklens.retrieval.base import Retriever
from ranklens.retrieval.bm25 import BM25Retriever
from ranklens.retrieval.dense import DenseRetriever
from ranklens.retrieval.encoder import Encoder
from ranklens.retrieval.hybrid import HybridRetriever
from ranklens.retrieval.index_folder import open_index

SHARED = Path(__file__).resolve().parents[2] / "shared" / "collections" / "scifact"

# Encoding the corpus takes minutes, so one process does it once.
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real collection scifact is not beside this checkout"
)


@pytest.fixture(scope="module")
def scifact() -> Collection:
    return load_collection(str(SHARED))


@pytest.fixture(scope="module")
def folder(scifact: Collection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encode SciFact by MiniLM in bfloat16, and make the indexes that are asked for."""
    place = tmp_path_factory.mktemp("scifact") / "index"
    open_index(dense("flat"), place, scifact.documents)
    return place


def dense(kind: str, tell: Callable[[str], None] = lambda _: None) -> DenseRetriever:
    encoder = Encoder("minilm-l6", device="cpu", dtype="bfloat16")
    return DenseRetriever(encoder, kind=kind, tell=tell)


@pytest.fixture
def opened(folder: Path, scifact: Collection) -> Callable[[str], Retriever]:
    def make(kind: str) -> Retriever:
        retriever = dense(kind)
        assert not open_index(retriever, folder, scifact.documents).built
        return retriever

    return make


def measured(retriever: Retriever, collection: Collection, k: int) -> dict[str, float]:
    run = retriever.search(collection.queries, k)
    found = evaluate(collection.qrels, run, ["nDCG@10", "R@100"]).measures
    return {name: result.value for name, result in found.items()}


def test_minilm_has_its_published_figure(
    opened: Callable[[str], Retriever], scifact: Collection
) -> None:
    """MTEB: SciFact, all-MiniLM-L6-v2, revision 8b3219a9: nDCG@10 0.64508, R@100 0.925."""
    found = measured(opened("flat"), scifact, 100)
    assert found["nDCG@10"] == pytest.approx(0.64508, abs=0.002)
    assert found["R@100"] == pytest.approx(0.925, abs=0.005)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq", "sq8", "rabitq"])
@pytest.mark.parametrize("k", [10, 100])
def test_approximate_indexes_are_near_flat(
    opened: Callable[[str], Retriever], scifact: Collection, kind: str, k: int
) -> None:
    exact = measured(opened("flat"), scifact, k)
    found = measured(opened(kind), scifact, k)
    assert found["nDCG@10"] == pytest.approx(exact["nDCG@10"], abs=0.005)


def test_hybrid_is_better_than_both_parts(
    opened: Callable[[str], Retriever], scifact: Collection
) -> None:
    words = BM25Retriever()
    words.index(scifact.documents)
    parts = {"bm25": words, "dense": opened("flat")}
    alone = [measured(part, scifact, 100)["nDCG@10"] for part in parts.values()]
    assert alone[0] == pytest.approx(0.6789, abs=0.01)
    fused = measured(HybridRetriever(parts), scifact, 100)["nDCG@10"]
    assert fused > max(alone) + 0.005
