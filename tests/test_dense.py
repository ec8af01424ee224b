"""Dense retrieval: shards that resume, Faiss indexes with exact scores, and the filter."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ranklens.data.documents import FileDocuments
from ranklens.data.encoder import Encoder, Vectors
from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    NumericalError,
    UsageError,
)
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Judgement, Query
from ranklens.data.score_map import ScoreMap
from ranklens.retrieval import shards
from ranklens.retrieval.dense import DenseRetriever
from ranklens.retrieval.faiss_index import KINDS, Kind, VectorIndex, recipe, write_index
from ranklens.retrieval.filter import EmbeddingFilter
from ranklens.retrieval.ids import Ids, write_ids
from ranklens.retrieval.index_folder import open_index
from ranklens.retrieval.shards import Shards, write_shards

pytest_plugins = ["dense_fixtures"]

DOCUMENTS = [
    Document("d1", "bread is baked in an oven", title="oven"),
    Document("ü/2", "tune each guitar string"),
    Document("d3", "sort numbers with quicksort"),
    Document("blank", " "),
    Document("a twin", "tomatoes grow in warm soil"),
    Document("another twin", "tomatoes grow in warm soil"),
]
QUERIES = [Query("q1", "bake bread in the oven"), Query("q2", "warm soil for tomatoes")]


def vectors(count: int, dimension: int = 16, seed: int = 0) -> Vectors:
    """Return vectors around 40 centres, of several lengths."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(40, dimension))
    near = centres[draw.integers(0, 40, count)] + 0.3 * draw.normal(size=(count, dimension))
    return np.asarray(near, dtype=np.float32)


def written(folder: Path, rows: Vectors) -> Path:
    """Write vectors as the shards of an index."""
    folder.mkdir()
    documents = [Document(str(row), "x") for row in range(len(rows))]
    taken = iter(rows)

    def encode(_: int, chunk: list[Document]) -> Vectors:
        return np.array([next(taken) for _ in chunk])

    write_shards(documents, folder, encode, lambda _: None)
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of 64 documents."""
    monkeypatch.setattr(shards, "SHARD", 64)


@pytest.mark.usefixtures("small_shards")
def test_rows_come_back_from_their_shards(tmp_path: Path) -> None:
    rows = vectors(150)
    found = Shards(written(tmp_path / "i", rows))
    assert (len(found), found.dimension) == (150, 16)
    assert [start for start, _ in found.parts()] == [0, 64, 128]
    wanted = np.array([149, 0, 64, 63, 0])
    np.testing.assert_array_equal(found.take(wanted), rows[wanted])


@pytest.mark.usefixtures("small_shards")
def test_exact_search_is_the_sorted_products(tmp_path: Path) -> None:
    rows, queries = vectors(1000), vectors(7, seed=1)
    index = VectorIndex(written(tmp_path / "i", rows), "flat")
    for query, (found, scores) in zip(queries, index.search(queries, 30), strict=True):
        products = rows.astype(np.float64) @ query.astype(np.float64)
        np.testing.assert_array_equal(found, np.argsort(-products)[:30])
        np.testing.assert_allclose(scores, products[found], rtol=1e-5)
    # More than there are: all of them.
    assert {len(found) for found, _ in index.search(queries, 2000)} == {1000}


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flat"])
def test_an_approximate_index_scores_what_it_finds_exactly(tmp_path: Path, kind: Kind) -> None:
    """Where it finds a document, its score is flat's to the last bit; and it finds most."""
    both = vectors(2050, dimension=64)
    rows, queries = both[:2000], both[2000:]
    folder = written(tmp_path / "i", rows)
    write_index(folder, kind)
    exact = VectorIndex(folder, "flat").search(queries, 10)
    index = VectorIndex(folder, kind)
    hits = 0
    for (truth, right), (found, scores) in zip(exact, index.search(queries, 10), strict=True):
        assert (np.diff(scores) <= 0).all()
        known = dict(zip(truth.tolist(), right.tolist(), strict=True))
        hits += len(known.keys() & set(found.tolist()))
        for row, score in zip(found.tolist(), scores.tolist(), strict=True):
            assert known.get(row, score) == score
    assert hits / 500 > 0.9
    assert index.recall(queries) == hits / 500


def test_recall_counts_neighbours_that_are_missed(tmp_path: Path) -> None:
    """Of an index that knows every other vector only, about half of the neighbours are found."""
    import faiss

    both = vectors(2050)
    rows, queries = both[:2000], both[2000:]
    folder = written(tmp_path / "i", rows)
    write_index(folder, "sq8")
    assert VectorIndex(folder, "sq8").recall(queries) > 0.98
    halved = rows.copy()
    halved[1::2] = -100 * queries.mean(axis=0)
    quantiser = faiss.IndexScalarQuantizer(
        16, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    quantiser.train(rows)
    quantiser.add(halved)
    faiss.write_index(quantiser, str(folder / "index-sq8.faiss"))
    exact = VectorIndex(folder, "flat").search(queries, 10)
    kept = sum(int((found % 2 == 0).sum()) for found, _ in exact) / 500
    assert 0.3 < kept < 0.7
    # At twice the depth the index looks at, what is left are the even ones, nearly all of them.
    assert VectorIndex(folder, "sq8").recall(queries) == pytest.approx(kept, abs=0.05)
    assert VectorIndex(folder, "flat").recall(queries) == 1.0


def test_gpus_propose_in_half_precision_and_scores_stay_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faiss for GPUs is not here: what it would hold in float16 is held so by its CPU index."""
    import faiss

    given: dict[str, object] = {}

    class Options:
        useFloat16 = shard = False  # noqa: N815

    def to_gpus(index: faiss.IndexFlatIP, co: Options) -> faiss.IndexFlatIP:
        given.update(float16=co.useFloat16, shard=co.shard)
        rounded = faiss.IndexFlatIP(index.d)
        rounded.add(index.reconstruct_n(0, index.ntotal).astype("float16").astype("float32"))
        return rounded

    for name, value in {
        "StandardGpuResources": object,
        "GpuMultipleClonerOptions": Options,
        "get_num_gpus": lambda: 2,
        "index_cpu_to_all_gpus": to_gpus,
    }.items():
        monkeypatch.setattr(faiss, name, value, raising=False)
    both = vectors(1020, dimension=64)
    rows, queries = both[:1000], both[1000:]
    folder = written(tmp_path / "i", rows)
    on_gpus = VectorIndex(folder, "flat")
    assert on_gpus.where == "2 GPUs, float16"
    found = on_gpus.search(queries, 10)
    assert given == {"float16": True, "shard": True}
    monkeypatch.undo()
    for one, other in zip(found, VectorIndex(folder, "flat").search(queries, 10), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_ivfpq_is_refused_where_it_cannot_be_trained() -> None:
    with pytest.raises(UsageError, match="at least 624 vectors; there are 623: take flat"):
        recipe("ivfpq", 623, 384)
    made = recipe("ivfpq", 5183, 384)
    assert (made.factory, made.probes) == ("IVF132,PQ96x4fs", 64)
    assert recipe("ivfpq", 700, 384).probes == recipe("ivfpq", 700, 384).lists == 17
    assert (recipe("ivfpq", 10**6, 384).lists, recipe("ivfpq", 10**6, 384).probes) == (4000, 500)
    # A length that 4 does not divide.
    assert recipe("ivfpq", 5183, 50).factory == "IVF132,PQ10x4fs"


def test_ids_are_read_by_row(tmp_path: Path) -> None:
    ids = ["a", "ü/2", "\ud800", "x" * 300, "日本"]
    assert write_ids(tmp_path, ids) == 5
    found = Ids(tmp_path)
    assert [found[row] for row in range(len(found))] == ids
    for row in (-1, 5):
        with pytest.raises(IndexError):
            found[row]


def test_documents_are_found_by_their_vectors(tiny_encoder: Path) -> None:
    encoder = Encoder(str(tiny_encoder), device="cpu")
    retriever = DenseRetriever(encoder)
    retriever.index(iter(DOCUMENTS))
    run = retriever.search(QUERIES, 10)
    passages = encoder.encode_passages([document.full_text for document in DOCUMENTS])
    for query, vector in zip(
        QUERIES, encoder.encode_queries([q.text for q in QUERIES]), strict=True
    ):
        expected = sorted(
            (-float(np.float32(score)), document.id)
            for score, document in zip(passages @ vector, DOCUMENTS, strict=True)
        )
        assert [doc.doc_id for doc in run[query.id]] == [doc_id for _, doc_id in expected]
        np.testing.assert_allclose(
            [doc.score for doc in run[query.id]], [-score for score, _ in expected], atol=1e-6
        )
        scores = {doc.doc_id: doc.score for doc in run[query.id]}
        assert scores["a twin"] == scores["another twin"]
        assert scores["blank"] == 0
    assert [len(docs) for docs in retriever.search(QUERIES, 2).values()] == [2, 2]
    retriever.close()
    with pytest.raises(UsageError, match="search before index"):
        retriever.search(QUERIES, 2)


class Interrupted(Encoder):
    """An encoder that counts the texts it is given, and is stopped after ``last`` of them."""

    seen = 0
    last = 10**9

    def encode_passages(self, texts: Sequence[str], done: object = None) -> Vectors:
        if self.seen + len(texts) > self.last:
            raise KeyboardInterrupt
        self.seen += len(texts)
        return super().encode_passages(texts)


def corpus(path: Path, count: int) -> FileDocuments:
    texts = [f"{i}\t{DOCUMENTS[i % 3].text} {'day ' * (i % 7)}" for i in range(count)]
    path.write_text("\n".join(texts) + "\n")
    return FileDocuments(path)


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_build_goes_on_behind_its_last_shard(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    documents = corpus(tmp_path / "docs.tsv", 200)
    whole = DenseRetriever(Encoder(str(tiny_encoder), max_tokens=8, device="cpu"))
    open_index(whole, tmp_path / "whole", documents)
    first = Interrupted(str(tiny_encoder), max_tokens=8, device="cpu")
    first.last = 130
    with pytest.raises(KeyboardInterrupt):
        open_index(DenseRetriever(first), tmp_path / "i", documents)
    assert first.seen == 128
    assert not (tmp_path / "i").exists()
    # A shard that was torn is not taken for a whole one.
    torn = tmp_path / ".i.building" / "vectors-00001.npy"
    torn.write_bytes(torn.read_bytes()[:-100])
    second = Interrupted(str(tiny_encoder), max_tokens=8, device="cpu")
    told: list[str] = []
    resumed = DenseRetriever(second, tell=told.append)
    opened = open_index(resumed, tmp_path / "i", documents)
    assert second.seen == 200 - 64
    assert opened.built
    assert told == [
        "64 of 200 documents had been encoded before",
        f"{opened.facts['cut']} of 200 documents are longer than the encoder's 8 tokens: the rest "
        "of them is not read",
    ]
    assert opened.facts["cut"] == sum(len(d.text.split()) > 6 for d in documents)
    for number in range(4):
        name = f"vectors-{number:05d}.npy"
        assert (tmp_path / "i" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / ".i.building").exists()
    assert resumed.search(QUERIES, 50) == whole.search(QUERIES, 50)


@pytest.mark.usefixtures("small_shards")
def test_what_other_settings_left_is_not_resumed(tiny_encoder: Path, tmp_path: Path) -> None:
    documents = corpus(tmp_path / "docs.tsv", 200)
    first = Interrupted(str(tiny_encoder), device="cpu")
    first.last = 130
    with pytest.raises(KeyboardInterrupt):
        open_index(DenseRetriever(first), tmp_path / "i", documents)
    other = Interrupted(str(tiny_encoder), pooling="cls", device="cpu")
    open_index(DenseRetriever(other), tmp_path / "i", documents)
    assert other.seen == 200


def test_one_folder_serves_every_kind(tiny_encoder: Path, tmp_path: Path) -> None:
    documents = corpus(tmp_path / "docs.tsv", 700)
    flat = DenseRetriever(Encoder(str(tiny_encoder), device="cpu"))
    open_index(flat, tmp_path / "i", documents)
    for kind in ("hnsw", "ivfpq", "sq8", "rabitq"):
        counted = Interrupted(str(tiny_encoder), device="cpu")
        told: list[str] = []
        retriever = DenseRetriever(counted, kind=kind, tell=told.append)
        assert not open_index(retriever, tmp_path / "i", documents).built
        assert counted.seen == 0
        assert len(told) == 1
        assert told[0].startswith(f"{kind}: recall@10 ")
        # 700 documents of 21 texts: nothing but ties at the end, so the best are compared.
        for query_id, docs in retriever.search(QUERIES, 10).items():
            assert docs[0].score == flat.search(QUERIES, 10)[query_id][0].score
        # It is made once.
        assert not open_index(
            DenseRetriever(counted, kind=kind, tell=pytest.fail), tmp_path / "i", documents
        ).built


def test_a_damaged_index_of_a_kind_is_named(tiny_encoder: Path, tmp_path: Path) -> None:
    documents = corpus(tmp_path / "docs.tsv", 30)

    def graph() -> DenseRetriever:
        return DenseRetriever(Encoder(str(tiny_encoder), device="cpu"), kind="hnsw")

    open_index(graph(), tmp_path / "i", documents)
    open_index(graph(), tmp_path / "other", corpus(tmp_path / "other.tsv", 31))
    file = tmp_path / "i" / "index-hnsw.faiss"
    others = (tmp_path / "other" / "index-hnsw.faiss").read_bytes()
    for content, said in (
        (file.read_bytes()[:900], "read error"),
        (b"", "could not mmap"),
        (others, r"it has 31 vectors of 32, these are 30 of 32"),
    ):
        file.write_bytes(content)
        with pytest.raises(InvalidInputError, match=rf"hnsw\.faiss is damaged; remove it.*{said}"):
            open_index(graph(), tmp_path / "i", documents)
    file.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(InvalidInputError, match=r"cannot write .*faiss: .*File too large"):
            open_index(graph(), tmp_path / "i", documents)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "i").glob("*faiss*"))
    assert not list((tmp_path / "i").glob(".*"))
    assert not open_index(graph(), tmp_path / "i", documents).built


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_documents_without_a_word_make_an_index(tiny_encoder: Path, kind: str) -> None:
    retriever = DenseRetriever(
        Encoder(str(tiny_encoder), device="cpu"), kind=kind, tell=pytest.fail
    )
    retriever.index([Document("b", ""), Document("a", " \n")])
    found = retriever.search(QUERIES[:1], 5)[QUERIES[0].id]
    assert [(doc.doc_id, doc.score) for doc in found] == [("a", 0.0), ("b", 0.0)]
    retriever.close()


class Growing:
    """Documents that are one more whenever they are read."""

    def __init__(self) -> None:
        self.readings = 0

    def __iter__(self) -> Iterator[Document]:
        self.readings += 1
        return iter(DOCUMENTS[: 2 + self.readings])


def test_documents_that_change_meanwhile_are_refused(tiny_encoder: Path) -> None:
    retriever = DenseRetriever(Encoder(str(tiny_encoder), device="cpu"))
    with pytest.raises(InvalidInputError, match="3 documents when their ids were read, 4 when"):
        retriever.index(Growing())


class Broken(Encoder):
    """An encoder that makes NaN of one text."""

    def encode_passages(self, texts: Sequence[str], done: object = None) -> Vectors:
        found = super().encode_passages(texts)
        found[texts.index("sort numbers with quicksort")] = np.nan
        return found


def test_nan_is_an_error_that_names_the_document(tiny_encoder: Path) -> None:
    with pytest.raises(NumericalError, match="NaN or Inf of document 'd3'"):
        DenseRetriever(Broken(str(tiny_encoder), device="cpu")).index(DOCUMENTS)


def test_there_must_be_documents_and_a_known_kind(tiny_encoder: Path) -> None:
    encoder = Encoder(str(tiny_encoder), device="cpu")
    with pytest.raises(InvalidInputError, match="nothing to index: no documents"):
        DenseRetriever(encoder).index([])
    with pytest.raises(UsageError, match="unknown Faiss index 'pq'; choose flat, hnsw"):
        DenseRetriever(encoder, kind="pq")
    retriever = DenseRetriever(encoder)
    retriever.index(DOCUMENTS)
    with pytest.raises(UsageError, match="k must be at least 1, got 0"):
        retriever.search(QUERIES, 0)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "faiss" else find(name, *a)
    )
    with pytest.raises(MissingPrerequisiteError, match=r"pip install 'ranklens\[dense\]'"):
        VectorIndex(written(tmp_path / "i", vectors(5)), "flat")


def test_the_filter_keeps_what_is_likely_enough(tiny_encoder: Path) -> None:
    encoder = Encoder(str(tiny_encoder), device="cpu")
    vector = encoder.encode_queries([QUERIES[0].text])[0]
    scores = encoder.encode_passages([d.full_text for d in DOCUMENTS]) @ vector
    # A probability of one half at the third best cosine.
    middle = float(np.sort(scores)[-3])
    score_map = ScoreMap("platt", slope=8.0, intercept=-8.0 * middle)
    kept = EmbeddingFilter(encoder, score_map, 0.5 - 1e-6).keep(QUERIES[0], DOCUMENTS)
    expected = [d.id for d, score in zip(DOCUMENTS, scores, strict=True) if score >= middle - 1e-6]
    assert [one.document.id for one in kept] == expected
    assert len(kept) in (3, 4)
    for one in kept:
        assert one.probability == pytest.approx(1 / (1 + np.exp(-8 * (one.score - middle))))
    assert EmbeddingFilter(encoder, score_map, 0.5).keep(QUERIES[0], []) == []


def test_the_filter_s_probabilities_are_fitted_on_judged_lists(tiny_encoder: Path) -> None:
    """Where relevant documents are those with high cosines, they are found likely."""
    encoder = Encoder(str(tiny_encoder), device="cpu")
    lists: list[tuple[Query, Sequence[Document]]] = [(query, DOCUMENTS) for query in QUERIES]
    judgements = []
    for query in QUERIES:
        scores = (
            encoder.encode_passages([d.full_text for d in DOCUMENTS])
            @ encoder.encode_queries([query.text])[0]
        )
        best = sorted(zip(scores.tolist(), DOCUMENTS, strict=True), key=lambda pair: -pair[0])[:2]
        judgements += [Judgement(query.id, document.id, 1) for _, document in best]
    fitted = EmbeddingFilter.fit(encoder, lists, Qrels(judgements), 0.5)
    assert fitted.score_map.slope is not None
    assert fitted.score_map.slope > 0
    relevant = {(j.query_id, j.doc_id) for j in judgements}
    everything = EmbeddingFilter(encoder, fitted.score_map, 0.0)
    likely: dict[bool, list[float]] = {True: [], False: []}
    for query in QUERIES:
        for one in everything.keep(query, DOCUMENTS):
            likely[(query.id, one.document.id) in relevant].append(one.probability)
    assert np.mean(likely[True]) > np.mean(likely[False]) + 0.1
    with pytest.raises(InvalidInputError, match="0 of 12 documents are relevant"):
        EmbeddingFilter.fit(encoder, lists, Qrels([Judgement("q1", "elsewhere", 1)]), 0.5)
    with pytest.raises(UsageError, match=r"threshold must lie between 0 and 1, got 1\.5"):
        EmbeddingFilter(encoder, fitted.score_map, 1.5)


@pytest.fixture(autouse=True)
def quiet_loading(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Loading an encoder says nothing of its own."""
    with caplog.at_level(logging.WARNING, logger="sentence_transformers"):
        yield
    assert not caplog.records
