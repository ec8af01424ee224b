"""Examples made of a run: the passages a reader would be given, with their relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import Place, read_json_lines, shown
from ranklens.data.qrels import Qrels
from ranklens.data.records import Document, Query
from ranklens.data.rows import text_field
from ranklens.data.runs import Run
from ranklens.eval.udcg.dataset import Example, Passage

_ID_KEYS = ("query_id", "_id", "id", "qid")


def examples_of(
    queries: Sequence[Query],
    run: Run,
    texts: Mapping[str, Document],
    qrels: Qrels,
    *,
    depth: int,
    relevance_level: int = 1,
    answers: Mapping[str, tuple[str, ...]] | None = None,
) -> list[Example]:
    """Return an example for each query: its first ``depth`` documents in the run's order.

    Relevant is a grade of at least ``relevance_level``; a document that is not judged counts as
    irrelevant, as in the other measures. A query that the run lacks has no passages. ``texts``
    holds the documents by id, ``answers`` gold answers by query id.
    """
    return [
        Example(
            example_id=query.id,
            question=query.text,
            passages=tuple(
                Passage(
                    doc.doc_id,
                    texts[doc.doc_id].full_text,
                    qrels.get(query.id, {}).get(doc.doc_id, 0) >= relevance_level,
                )
                for doc in run.get(query.id, ())[:depth]
            ),
            answers=(answers or {}).get(query.id, ()),
        )
        for query in queries
    ]


def read_answers(path: Path) -> dict[str, tuple[str, ...]]:
    """Read gold answers by query id from JSON lines: ``query_id|_id|id`` and the answers.

    These are a list ``answers``, or one ``answer`` and perhaps a list ``aliases``. Raises
    InvalidInputError that names the line for a missing or empty field and an id listed twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for place, row in read_json_lines(path):
        query_id = text_field(place, row, _ID_KEYS)
        if query_id in found:
            raise place.error(f"query {query_id!r} occurs twice")
        listed = _texts(place, row.get("answers"), "answers")
        if not listed:
            aliases = _texts(place, row.get("aliases"), "aliases")
            listed = (text_field(place, row, ("answer",)), *aliases)
        found[query_id] = listed
    if not found:
        raise InvalidInputError(f"{path}: there are no answers in it")
    return found


def _texts(place: Place, value: object, key: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise place.error(f"the field {key!r} must be a list of texts, got {shown(value)}")
    return tuple(value)
