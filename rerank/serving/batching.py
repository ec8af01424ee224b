"""What the model's thread does with jobs that it takes together.

Jobs over the same documents go through one forward pass, the others one after another, the
longest first: an allocator then reuses its blocks, and what does not fit fails at once. Every
answer is the one that the job would get alone; an error of a job is this job's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.base import Ranking, Reranker, checked_request
from ranklens.rerank.scales import score_map_of, unit_interval
from ranklens.rerank.serving.jobs import Answer, FoundSpan, Result
from ranklens.rerank.serving.limits import Limited, limited
from ranklens.rerank.serving.settings import Settings
from ranklens.rerank.serving.spans import ranked_with_spans
from ranklens.rerank.serving.waiting import Accepted


@dataclass(frozen=True, slots=True)
class Ready:
    """An accepted job whose texts are within their limits."""

    accepted: Accepted
    texts: Limited

    @property
    def tokens(self) -> int:
        """The tokens of query and documents."""
        return self.texts.query.tokens + sum(kept.tokens for kept in self.texts.documents)


class Batches:
    """Answers jobs with one reranker; to be called from one thread."""

    def __init__(
        self,
        reranker: Reranker,
        settings: Settings,
        model: str,
        on_pass: Callable[[int], None] = lambda jobs: None,
    ) -> None:
        self._reranker = reranker
        self._settings = settings
        self._model = model
        self._on_pass = on_pass

    def answer(self, batch: Sequence[Accepted]) -> None:
        """Give every job's future its answer or its error; those cancelled cost no pass."""
        ready = [made for accepted in batch if (made := self._ready(accepted)) is not None]
        ready.sort(key=lambda one: -one.tokens)
        for group in self._grouped(ready):
            # From here on a job cannot be cancelled any more: its client's going is noticed late.
            live = [one for one in group if one.accepted.future.set_running_or_notify_cancel()]
            self._answer_group(live)

    def _ready(self, accepted: Accepted) -> Ready | None:
        if accepted.future.cancelled():
            return None
        try:
            return Ready(accepted, limited(self._reranker, accepted.job, self._settings))
        except Exception as error:
            if accepted.future.set_running_or_notify_cancel():
                accepted.future.set_exception(error)
            return None

    def _grouped(self, ready: Sequence[Ready]) -> Iterator[list[Ready]]:
        by_documents: dict[tuple[str, ...], list[Ready]] = {}
        for one in ready:
            if one.accepted.job.spans is None and isinstance(self._reranker, AttentionReranker):
                by_documents.setdefault(one.texts.texts, []).append(one)
            else:
                yield [one]
        yield from by_documents.values()

    def _answer_group(self, group: Sequence[Ready]) -> None:
        reranker = self._reranker
        queries = [one.texts.query.text for one in group]
        if len(group) > 1 and isinstance(reranker, AttentionReranker):
            try:
                together = alike_together(reranker, queries, group[0].texts.texts)
                rankings = (
                    reranker.rank_queries(queries, group[0].texts.texts) if together else None
                )
            except Exception:
                # Which of them it was shows when each is ranked alone.
                rankings = None
            if rankings is not None:
                self._on_pass(len(group))
                for one, ranking in zip(group, rankings, strict=True):
                    _settle(one, partial(self._answered, one, ranking, {}))
                return
        for one in group:
            self._on_pass(1)
            _settle(one, partial(self._alone, one))

    def _alone(self, one: Ready) -> Answer:
        job, texts = one.accepted.job, one.texts
        if job.spans is None:
            return self._answered(one, self._reranker.rank(texts.query.text, texts.texts), {})
        ranking, spans = ranked_with_spans(
            self._reranker, texts.query.text, texts.documents, job.spans
        )
        return self._answered(one, ranking, spans)

    def _answered(
        self, one: Ready, ranking: Ranking, spans: dict[int, tuple[FoundSpan, ...]]
    ) -> Answer:
        job, documents = one.accepted.job, one.texts.documents
        scores = (
            [ranked.score for ranked in ranking]
            if job.raw_scores
            else unit_interval(ranking, score_map_of(self._reranker))
        )
        unread = {ranked.index: ranked.tokens_cut for ranked in ranking}
        results = [
            Result(
                ranked.index,
                float(score),
                documents[ranked.index].tokens_cut + ranked.tokens_cut,
                spans.get(ranked.index, ()),
            )
            for ranked, score in zip(ranking, scores, strict=True)
        ]
        cut = [result.tokens_cut for result in results]
        return Answer(
            results=tuple(results[: job.top_n]),
            model=self._model,
            tokens=max(0, one.tokens - sum(unread.values())),
            tokens_cut=sum(cut) + one.texts.query.tokens_cut,
            documents_cut=sum(1 for tokens in cut if tokens),
        )


def alike_together(
    reranker: AttentionReranker, queries: Sequence[str], documents: Sequence[str]
) -> bool:
    """Say whether queries read in one pass find the documents as each would alone.

    Not so where the longest query leaves the others' documents less room, where rotations
    depend on the longest, and where the list needs several prompts.
    """
    if reranker.profile.prompt.query_in_opening:
        return False
    _, records = checked_request(queries[0], documents)
    try:
        layout = reranker.layout(queries, records)
        switch = reranker.engine.rope_switch
        if switch is not None and layout.length > switch:
            return False
        return not any(layout.tokens_cut) or all(
            reranker.layout(query, records).tokens_cut == layout.tokens_cut for query in queries
        )
    except InvalidInputError:
        return False


def _settle(one: Ready, answer: Callable[[], Answer]) -> None:
    try:
        found = answer()
    except Exception as error:
        one.accepted.future.set_exception(error)
    else:
        one.accepted.future.set_result(found)
