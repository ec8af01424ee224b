"""A retrieval task of MTEB whose data is here, and a first stage for it."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import ModelMeta

CORPUS = [
    {"id": "d1", "title": "", "text": "bread is baked in an oven"},
    {"id": "d2", "title": "Soil", "text": "tomatoes grow in warm soil"},
    {"id": "d3", "title": "", "text": "an oven is warm"},
    {"id": "d4", "title": "Guitars", "text": "a guitar has six strings"},
    {"id": "d5", "title": "", "text": "bread needs time"},
]
# Two queries with the same words, each with candidates and answers of its own.
QUERIES = [
    {"id": "q1", "text": "bread oven"},
    {"id": "q2", "text": "warm soil"},
    {"id": "q3", "text": "bread oven"},
]
RELEVANT = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d5": 1}}
FIRST_STAGE = {
    "q1": {"d5": 3.0, "d3": 2.0, "d1": 1.0, "d4": 0.5},
    "q2": {"d3": 2.0, "d2": 1.0, "d4": 0.5},
    "q3": {"d4": 3.0, "d5": 2.0},
}


class TinyRetrieval(AbsTaskRetrieval):
    metadata = TaskMetadata(
        name="TinyRetrieval",
        description="Five documents, three questions.",
        dataset={"path": "ranklens/tiny", "revision": "1"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    instructions: dict[str, str] | None = None

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        queries = [dict(query) for query in QUERIES]
        if self.instructions is not None:
            for query in queries:
                query["instruction"] = self.instructions[query["id"]]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(CORPUS),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": {query: dict(docs) for query, docs in RELEVANT.items()},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


class GivenSearch:
    """A first stage that finds what FIRST_STAGE says."""

    mteb_model_meta = ModelMeta.create_empty({"name": "tests/given", "revision": "1"})

    def index(self, corpus: Any, **kwargs: Any) -> None:
        pass

    def search(self, queries: Any, **kwargs: Any) -> dict[str, dict[str, float]]:
        return {query_id: dict(FIRST_STAGE[query_id]) for query_id in queries["id"]}
