"""TEI's ``POST /rerank``: text-embeddings-inference. A body with ``texts`` is TEI's.

    request    query, texts, raw_scores, return_text, truncate, truncation_direction
    answer     [{"index", "score", "text"}], best first, a bare list
    errors     {"error", "error_type"}

``truncate`` not given is, as with TEI, what ``auto_truncate`` of ``/info`` says, whatever default
TEI's OpenAPI page prints. Here it is true: texts are shortened, and headers say by how much.
``false`` is a 413, TEI's status for too long a text, if any text is too long.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ranklens.rerank.serving.dialects.documents import Texts
from ranklens.rerank.serving.dialects.errors import RequestError, whole
from ranklens.rerank.serving.dialects.fields import ModelField
from ranklens.rerank.serving.jobs import Answer, RankJob


class TeiRequest(ModelField):
    """TEI's request. It has no ``model``, but a proxy in front of several servers may add it."""

    query: str
    texts: Texts
    raw_scores: bool = Field(False, description="The reranker's own scores, not in [0, 1].")
    return_text: bool = False
    truncate: bool | None = Field(
        None, description="false: too long a text is refused (413); else it is shortened."
    )
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = Field(
        None, description="The side that is cut off; the right one if not given."
    )

    def job(self) -> RankJob:
        """Return what the service is asked for; a RequestError names the field that is wrong."""
        if not self.query.strip():
            raise RequestError.field("query", "is empty: there is nothing to rank by")
        direction = (self.truncation_direction or "right").lower()
        return RankJob(
            whole(self.query),
            tuple(whole(text) for text in self.texts),
            raw_scores=self.raw_scores,
            cut_from="start" if direction == "left" else "end",
        )

    def check_cut(self, answer: Answer) -> None:
        """Refuse an answer over shortened texts where ``truncate`` is false: a 413 RequestError."""
        if self.truncate is not False or not answer.documents_cut:
            return
        longest = max(answer.results, key=lambda result: result.tokens_cut)
        raise RequestError(
            413,
            f"{answer.documents_cut} of {len(self.texts)} texts are too long: texts.{longest.index}"
            f" by {longest.tokens_cut} tokens; set truncate to true to have them shortened",
            "texts",
        )


class TeiRank(TypedDict):
    """A text's place; ``index`` is its position in the request."""

    index: int
    score: float
    text: NotRequired[str]


def tei_answer(request: TeiRequest, job: RankJob, answer: Answer) -> list[TeiRank]:
    """Return the texts' places, best first."""
    ranks: list[TeiRank] = []
    for result in answer.results:
        rank: TeiRank = {"index": result.index, "score": result.score}
        if request.return_text:
            rank["text"] = job.documents[result.index]
        ranks.append(rank)
    return ranks
