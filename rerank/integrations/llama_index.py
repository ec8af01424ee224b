"""LlamaIndex: a node postprocessor that tells its dispatcher and its callbacks what it does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.extras import require
from ranklens.rerank.base import RankedDocument, Reranker
from ranklens.rerank.integrations.ranked import DEFAULT, check_top, described, loaded, ranked

try:
    from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_serializer
    from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
    from llama_index_instrumentation import get_dispatcher
except ImportError:
    # Other packages live in llama_index too: it can be there without its core.
    require("llama-index", "llama_index")
    require("llama-index", "llama_index.core")
    raise

RETRIEVAL_SCORE = "retrieval_score"
_dispatcher = get_dispatcher(__name__)


class RanklensRerank(BaseNodePostprocessor):
    """Keeps the ``top_n`` nodes that answer a query best, best first.

    ``reranker`` is a spec, whose model is loaded here and once, or a ``Reranker``; ``settings``
    are what ``Reranker.from_spec`` takes beside a spec. It reads a node's content as embedding
    models do, ``MetadataMode.EMBED``: with the metadata that is not excluded from embedding.
    What comes back are copies with the reranker's score, comparable within one list only.

    With ``keep_retrieval_score`` the copy's metadata has the score before, as
    ``retrieval_score``; it is kept out of what embedding models and LLMs are shown.

    Errors come from ``Reranker.from_spec`` here and from ``Reranker.rank`` at each call;
    ``top_n`` below 1 and a missing query are an InvalidInputError, ``top_n`` None keeps all.

    >>> postprocessor = RanklensRerank(reranker="attention:smollm2-135m", top_n=2)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: str | Reranker = Field(default=DEFAULT, description="A spec or a reranker.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Those of a spec.")
    top_n: int | None = Field(default=3, description="Nodes to keep; None for all.")
    keep_retrieval_score: bool = Field(
        default=False, description="Whether metadata keep the score before."
    )
    _loaded: Reranker = PrivateAttr()

    def __init__(
        self,
        reranker: str | Reranker = DEFAULT,
        *,
        settings: Mapping[str, Any] | None = None,
        top_n: int | None = 3,
        keep_retrieval_score: bool = False,
        callback_manager: CallbackManager | None = None,
        **unknown: Any,
    ) -> None:
        # Pydantic refuses what is unknown, before a model is loaded for nothing.
        fields: dict[str, Any] = {
            "reranker": reranker,
            "settings": dict(settings or {}),
            "top_n": top_n,
            "keep_retrieval_score": keep_retrieval_score,
            "callback_manager": callback_manager or CallbackManager(),
        }
        super().__init__(**fields, **unknown)
        check_top("top_n", top_n)
        self._loaded = loaded(reranker, **self.settings)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex writes into serialised postprocessors."""
        return "RanklensRerank"

    @field_serializer("reranker")
    def _written(self, reranker: str | Reranker) -> str:
        return described(reranker)

    def __reduce__(self) -> tuple[Any, ...]:
        # LlamaIndex would leave out what cannot be pickled: another process would then use the
        # default reranker without a word.
        if not isinstance(self.reranker, str):
            raise UsageError(
                f"{described(self.reranker)} was given as an object, which cannot be pickled; "
                f"give RanklensRerank a spec such as {DEFAULT!r}, with settings"
            )
        return type(self).from_dict, (self.to_dict(),)

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._told(nodes, query) as finished:
            return finished(ranked(self._loaded, query.query_str, _texts(nodes), self.top_n))

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._told(nodes, query) as finished:
            request = (query.query_str, _texts(nodes), self.top_n)
            return finished(await asyncio.to_thread(ranked, self._loaded, *request))

    @contextmanager
    def _told(
        self, nodes: list[NodeWithScore], query: QueryBundle
    ) -> Iterator[Callable[[Sequence[RankedDocument]], list[NodeWithScore]]]:
        """Tell listeners of the start; the function that comes back makes nodes and tells them."""
        name, most = self._loaded.name, len(nodes) if self.top_n is None else self.top_n
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=most, model_name=name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: most,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:

            def finished(best: Sequence[RankedDocument]) -> list[NodeWithScore]:
                found = [self._copy(nodes[one.index], one.score) for one in best]
                event.on_end(payload={EventPayload.NODES: found})
                _dispatcher.event(ReRankEndEvent(nodes=found))
                return found

            yield finished

    def _copy(self, scored: NodeWithScore, score: float) -> NodeWithScore:
        node = scored.node
        changes: dict[str, Any] = {"metadata": dict(node.metadata)}
        if self.keep_retrieval_score:
            changes["metadata"][RETRIEVAL_SCORE] = scored.score
            for keys in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys"):
                known = getattr(node, keys)
                changes[keys] = list(dict.fromkeys([*known, RETRIEVAL_SCORE]))
        return scored.model_copy(update={"node": node.model_copy(update=changes), "score": score})


def _query(query: QueryBundle | None) -> QueryBundle:
    if query is None:
        raise InvalidInputError("no query: give query_str or query_bundle")
    return query


def _texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [one.node.get_content(metadata_mode=MetadataMode.EMBED) for one in nodes]
