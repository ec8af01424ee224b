"""Which pairs a judge is shown, and what becomes of its labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ranklens.data.collection import Collection
from ranklens.data.qrels import Qrels
from ranklens.data.records import Judgement
from ranklens.eval.judge.verdict import Pair

Ids = tuple[str, str]


def judged_pairs(qrels: Qrels) -> list[Ids]:
    """Return the query and document ids of judgements, in their order."""
    return [(query_id, doc_id) for query_id, grades in qrels.items() for doc_id in grades]


def holes(pairs: Iterable[Ids], known: Qrels) -> list[Ids]:
    """Return the pairs that ``known`` has no judgement of."""
    return [
        (query_id, doc_id) for query_id, doc_id in pairs if doc_id not in known.get(query_id, {})
    ]


@dataclass(frozen=True, slots=True)
class Texts:
    """Pairs with their texts, and how many had none in the collection."""

    pairs: list[Pair]
    without_query: int
    without_document: int


def with_texts(pairs: Sequence[Ids], collection: Collection) -> Texts:
    """Look up the texts of pairs: a query, and a passage's title and text; once each."""
    queries = {query.id: query.text for query in collection.queries}
    known = [ids for ids in dict.fromkeys(pairs) if ids[0] in queries]
    documents = collection.documents.get_many({doc_id for _, doc_id in known})
    found = [
        Pair(query_id, doc_id, queries[query_id], documents[doc_id].full_text)
        for query_id, doc_id in known
        if doc_id in documents
    ]
    distinct = len(set(pairs))
    return Texts(found, distinct - len(known), len(known) - len(found))


def united(labels: Mapping[Ids, int], kept: Qrels) -> Qrels:
    """Return human judgements and a judge's labels as one; the humans' stand."""
    judgements = [
        Judgement(query_id, doc_id, grade)
        for query_id, grades in kept.items()
        for doc_id, grade in grades.items()
    ]
    judgements += [
        Judgement(query_id, doc_id, grade)
        for (query_id, doc_id), grade in labels.items()
        if doc_id not in kept.get(query_id, {})
    ]
    return Qrels(judgements)
