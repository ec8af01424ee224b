"""MTEB: a reranker as a model that ``mteb.evaluate`` takes, by MTEB's ``SearchProtocol``.

The protocol hands over ids with texts, so that every query has a list of its own, two queries
with the same words too. MTEB's own way for cross-encoders hands over flat pairs of texts.

    mteb.evaluate(first_stage, task, prediction_folder="predictions")
    task.convert_to_reranking("predictions", top_k=100)
    mteb.evaluate(RanklensSearch(), task, overwrite_strategy="always")

MTEB keeps results by model and task, whatever the candidates: with another first stage give
``overwrite_strategy="always"``, as here, or a cache of its own.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.extras import require
from ranklens.data.files import shown
from ranklens.data.records import Document, Query
from ranklens.rerank.base import Ranking, Reranker
from ranklens.rerank.integrations.ranked import DEFAULT, loaded

try:
    from mteb.models import ModelMeta
except ImportError:
    require("mteb", "mteb")
    raise

_log = logging.getLogger(__name__)


class RanklensSearch:
    """Reranks the candidates of MTEB's reranking tasks, and of retrieval tasks made into one.

    ``reranker`` is a spec or a ``ranklens.Reranker``; ``settings`` (``profile``, ``device``, ...)
    go with a spec, whose model is loaded here, once. ``name`` (ORGANISATION/NAME) and
    ``revision`` are what results are kept under: by default ``ranklens/`` and the reranker's
    name, with its profile's where it has one, and the weights' revision.

    A task's texts are read as documents with a title, where it has titles, and as queries with
    their instruction behind them, where it has instructions. MTEB's ``encode_kwargs`` have no
    part: lists are never split.
    """

    def __init__(
        self,
        reranker: str | Reranker = DEFAULT,
        *,
        name: str | None = None,
        revision: str | None = None,
        **settings: Any,
    ) -> None:
        self.reranker = loaded(reranker, **settings)
        self.mteb_model_meta = _model_meta(self.reranker, name, revision)
        self._part: tuple[str, str, str] | None = None
        self._corpus: Any = None
        self._rows: dict[str, int] = {}

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Any,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the corpus of a task's subset and split; its texts are read when they are ranked.

        Raises InvalidInputError for a corpus without texts, and for an id that occurs twice.
        """
        _check_text(corpus, "corpus", task_metadata)
        rows: dict[str, int] = {}
        for row, doc_id in enumerate(corpus["id"]):
            if rows.setdefault(doc_id, row) != row:
                raise InvalidInputError(
                    f"the corpus of {task_metadata.name} has document {doc_id!r} twice, in rows "
                    f"{rows[doc_id]} and {row}"
                )
        self._part = (task_metadata.name, hf_subset, hf_split)
        self._corpus, self._rows = corpus, rows

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """Return for each query id the best ``top_k`` of its candidates with their scores.

        ``top_ranked`` lists each query's candidates, best first; one that is listed twice counts
        once. A query without candidates has none in the result, and is warned of. Raises
        UsageError without ``top_ranked``, and InvalidInputError for a candidate that the corpus
        lacks and for a query that is no text.
        """
        part = (task_metadata.name, hf_subset, hf_split)
        if top_ranked is None:
            raise UsageError(
                f"{task_metadata.name} has no candidates to rerank, and {self.reranker.name} does "
                "not search a corpus. Let a first stage search it: "
                "mteb.evaluate(first_stage, task, prediction_folder='predictions'), then "
                "task.convert_to_reranking('predictions', top_k=100), and evaluate again; or write "
                "the predictions from a run file: ranklens export mteb-predictions"
            )
        if self._part != part:
            raise UsageError(f"search of {part} without its corpus: call index first")
        _check_text(queries, "queries", task_metadata)
        asked = list(_queries(queries))
        found: dict[str, dict[str, float]] = {query.id: {} for query in asked}
        lists = []
        for query in asked:
            # Not by []: MTEB's mapping would make an entry.
            candidates = list(dict.fromkeys(top_ranked.get(query.id, ())))
            if candidates:
                lists.append((query, candidates))
        without = len(asked) - len(lists)
        if without:
            _log.warning("%d of %d queries have no candidates", without, len(asked))
        requests = ((query, self._documents(query, candidates)) for query, candidates in lists)
        for (query, candidates), ranking in zip(
            lists, self.reranker.rank_many(requests), strict=True
        ):
            _check_ranking(query, candidates, ranking)
            found[query.id] = {one.id: float(one.score) for one in ranking[:top_k]}
        return found

    def _documents(self, query: Query, candidates: Sequence[str]) -> list[Document]:
        for doc_id in candidates:
            if doc_id not in self._rows:
                raise InvalidInputError(
                    f"query {query.id!r} has the candidate {doc_id!r}, which the corpus lacks; are "
                    "the candidates of the same task?"
                )
        found = []
        for doc_id in candidates:
            row = self._corpus[self._rows[doc_id]]
            found.append(Document(doc_id, row["text"] or "", row.get("title") or ""))
        return found


def _queries(queries: Any) -> Iterator[Query]:
    instructed = "instruction" in queries.column_names
    for row in queries:
        text = row["text"]
        if not isinstance(text, str):
            raise InvalidInputError(
                f"query {row['id']!r} is no text but {shown(text)}: conversations are not ranked"
            )
        instruction = row["instruction"] if instructed else None
        yield Query(row["id"], f"{text} {instruction}" if instruction else text)


def _check_text(data: Any, what: str, task_metadata: Any) -> None:
    if "text" not in data.column_names:
        raise InvalidInputError(
            f"the {what} of {task_metadata.name} have no texts (columns: "
            f"{', '.join(data.column_names)}); only text is ranked"
        )


def _check_ranking(query: Query, candidates: Sequence[str], ranking: Ranking) -> None:
    if sorted(ranking.ids) != sorted(candidates):
        raise InvalidInputError(
            f"query {query.id!r}: the reranker returned other documents than the "
            f"{len(candidates)} candidates"
        )
    for one in ranking:
        if not math.isfinite(one.score):
            raise NumericalError(f"query {query.id!r}: document {one.id!r} scores {one.score}")


def _model_meta(reranker: Reranker, name: str | None, revision: str | None) -> ModelMeta:
    """Return what MTEB keeps results under; nothing is claimed that is not known here."""
    profile = getattr(getattr(reranker, "profile", None), "name", None)
    kind = "-".join(filter(None, [reranker.name, profile]))
    own = re.sub(r"[^0-9A-Za-z._-]+", "-", kind.replace("/", "-"))
    context = getattr(getattr(reranker, "engine", None), "context", None)
    if name is not None and not re.fullmatch(r"[0-9A-Za-z._-]+/[0-9A-Za-z._-]+", name):
        raise UsageError(f"name is {name!r}; MTEB's names are ORGANISATION/NAME")
    return ModelMeta(
        loader=None,
        name=name or f"ranklens/{own}",
        revision=revision or reranker.revision or "no_revision_available",
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=context,
        embed_dim=None,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=None,
        use_instructions=None,
        training_datasets=None,
        model_type=["cross-encoder"],
    )
