"""ranklens: rerank documents by the attention of a language model, and evaluate the result.

>>> from ranklens import AttentionReranker
>>> reranker = AttentionReranker.from_pretrained("ranklens-135m")
>>> ranking = reranker.rank("how do I sort a list", ["Paris is in France.", "sorted() sorts."])

Names load their modules when they are first used: importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ranklens.data.collection import Collection as Collection
    from ranklens.data.encoder import Encoder as Encoder
    from ranklens.data.errors import RanklensError as RanklensError
    from ranklens.data.load import load_collection as load_collection
    from ranklens.data.parts import Passages as Passages
    from ranklens.data.qrels import Qrels as Qrels
    from ranklens.data.qrels import read_qrels as read_qrels
    from ranklens.data.records import Document as Document
    from ranklens.data.records import Judgement as Judgement
    from ranklens.data.records import Query as Query
    from ranklens.data.records import ScoredDoc as ScoredDoc
    from ranklens.data.runs import Run as Run
    from ranklens.data.runs import read_run as read_run
    from ranklens.data.runs import write_run as write_run
    from ranklens.eval.agree.labels import label_agreement as label_agreement
    from ranklens.eval.agree.rankings import rank_agreement as rank_agreement
    from ranklens.eval.comparison import compare as compare
    from ranklens.eval.measures import evaluate as evaluate
    from ranklens.eval.policy import Policy as Policy
    from ranklens.eval.udcg.practical import practical_udcg as practical_udcg
    from ranklens.rerank.attention_reranker import AttentionReranker as AttentionReranker
    from ranklens.rerank.base import RankedDocument as RankedDocument
    from ranklens.rerank.base import Ranking as Ranking
    from ranklens.rerank.base import Reranker as Reranker
    from ranklens.rerank.kv.cache import DocumentCache as DocumentCache
    from ranklens.rerank.profile import Profile as Profile
    from ranklens.rerank.profile_file import load_profile as load_profile
    from ranklens.retrieval.base import Retriever as Retriever
    from ranklens.retrieval.bm25 import BM25Retriever as BM25Retriever
    from ranklens.retrieval.dense import DenseRetriever as DenseRetriever
    from ranklens.retrieval.filter import EmbeddingFilter as EmbeddingFilter
    from ranklens.retrieval.fusion import Fusion as Fusion
    from ranklens.retrieval.hybrid import HybridRetriever as HybridRetriever
    from ranklens.retrieval.index_folder import open_index as open_index
    from ranklens.retrieval.lucene import LuceneRetriever as LuceneRetriever
    from ranklens.retrieval.passages import PassageRetriever as PassageRetriever

__version__ = "0.1.0"

_MODULES = {
    "ranklens.data.collection": ("Collection",),
    "ranklens.data.errors": ("RanklensError",),
    "ranklens.data.load": ("load_collection",),
    "ranklens.data.parts": ("Passages",),
    "ranklens.data.qrels": ("Qrels", "read_qrels"),
    "ranklens.data.records": ("Document", "Judgement", "Query", "ScoredDoc"),
    "ranklens.data.runs": ("Run", "read_run", "write_run"),
    "ranklens.eval.agree.labels": ("label_agreement",),
    "ranklens.eval.agree.rankings": ("rank_agreement",),
    "ranklens.eval.comparison": ("compare",),
    "ranklens.eval.measures": ("evaluate",),
    "ranklens.eval.policy": ("Policy",),
    "ranklens.eval.udcg.practical": ("practical_udcg",),
    "ranklens.rerank.attention_reranker": ("AttentionReranker",),
    "ranklens.rerank.base": ("RankedDocument", "Ranking", "Reranker"),
    "ranklens.rerank.kv.cache": ("DocumentCache",),
    "ranklens.rerank.profile": ("Profile",),
    "ranklens.rerank.profile_file": ("load_profile",),
    "ranklens.retrieval.base": ("Retriever",),
    "ranklens.retrieval.bm25": ("BM25Retriever",),
    "ranklens.retrieval.dense": ("DenseRetriever",),
    "ranklens.data.encoder": ("Encoder",),
    "ranklens.retrieval.filter": ("EmbeddingFilter",),
    "ranklens.retrieval.fusion": ("Fusion",),
    "ranklens.retrieval.hybrid": ("HybridRetriever",),
    "ranklens.retrieval.index_folder": ("open_index",),
    "ranklens.retrieval.lucene": ("LuceneRetriever",),
    "ranklens.retrieval.passages": ("PassageRetriever",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ranklens' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
