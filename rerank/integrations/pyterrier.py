"""PyTerrier: a transformer that reranks results, ``first_stage >> RanklensTransformer()``.

Nothing here needs Java; PyTerrier itself starts it only for Terrier's indexes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.extras import require
from ranklens.rerank.base import Reranker
from ranklens.rerank.integrations.ranked import DEFAULT, loaded, ranked

try:
    import pandas as pd
    import pyterrier as pt
except ImportError:
    require("pyterrier", "pyterrier")
    raise


class RanklensTransformer(pt.Transformer):
    """Reranks every query's results together.

    Takes frames with ``qid``, ``query``, ``docno`` and the documents' text, and returns their
    rows with ``score`` and ``rank`` made anew (first rank 0); all other columns are kept. Rows
    come out query by query in the order of the input, each query's best first. The order of the
    stage before, which attention depends on, is that of ``rank`` where the frame has it, else of
    ``score``, else of the rows. A query's list is never split.

    ``reranker`` is a spec or a ``ranklens.Reranker``; ``settings`` (``profile``, ``device``, ...)
    go with a spec, whose model is loaded here, once. ``text_field`` names the column of texts.

    >>> pipeline = first_stage % 20 >> pt.text.get_text(dataset) >> RanklensTransformer()
    """

    def __init__(
        self, reranker: str | Reranker = DEFAULT, *, text_field: str = "text", **settings: Any
    ) -> None:
        super().__init__()
        self.reranker = loaded(reranker, **settings)
        self.text_field = text_field

    def __repr__(self) -> str:
        return f"RanklensTransformer({self.reranker.name!r})"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Return the frame reranked; an empty one has the columns it would have had.

        ``inp`` is not changed. Raises PyTerrier's InputValidationError for missing columns,
        InvalidInputError for a text that is not a string (as where a document was not found)
        and a ``qid`` with two different queries, and what the reranker raises.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field])
        # By place: PyTerrier's frames often have an index with gaps or repeats.
        frame = inp.reset_index(drop=True)
        if frame["qid"].isna().any():
            raise InvalidInputError(f"row {int(frame['qid'].isna().argmax())} has no qid")
        before = _order_before(frame)
        places: list[int] = []
        scores: list[float] = []
        # By id: two queries may have the same text.
        for qid, rows in frame.groupby("qid", sort=False).indices.items():
            chosen = [int(row) for row in sorted(rows, key=before.__getitem__)]
            query = _one_query(qid, frame["query"].iloc[chosen])
            texts = [_text(frame, row, self.text_field) for row in chosen]
            for document in ranked(self.reranker, query, texts):
                places.append(chosen[document.index])
                scores.append(document.score)
        found = frame.iloc[places].reset_index(drop=True)
        found["score"] = pd.Series(scores, index=found.index, dtype="float64")
        return pt.model.add_ranks(found)


def _order_before(frame: pd.DataFrame) -> list[int]:
    """Return for each row its turn in the order of the stage before; ties as the rows stand."""
    for column, ascending in (("rank", True), ("score", False)):
        if column in frame.columns:
            turns = frame[column].rank(method="first", ascending=ascending, na_option="bottom")
            return [int(turn) for turn in turns]
    return list(range(len(frame)))


def _one_query(qid: object, queries: Sequence[object]) -> str:
    texts = list(dict.fromkeys(queries))
    if len(texts) > 1:
        raise InvalidInputError(
            f"qid {qid!r} has {len(texts)} different queries ({texts[0]!r}, {texts[1]!r}); "
            "give each its own qid"
        )
    if not isinstance(texts[0], str):
        raise InvalidInputError(f"the query of qid {qid!r} is no text: {texts[0]!r}")
    return texts[0]


def _text(frame: pd.DataFrame, row: int, column: str) -> str:
    text = frame[column].iloc[row]
    if not isinstance(text, str):
        raise InvalidInputError(
            f"document {frame['docno'].iloc[row]!r} of qid {frame['qid'].iloc[row]!r} has no text "
            f"in column {column!r}: {text!r}; add it with pt.text.get_text, or leave the row out"
        )
    return text
