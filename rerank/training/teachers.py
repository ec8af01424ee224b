"""What teachers say of the documents of training lists: each scored once, kept on disk.

A bi-encoder encodes each text once. Rerankers that look at one document at a time score each
(query, document) once, whatever the lists it is in. Those that look at a whole list, as attention
does, score list by list. What is done is appended to a journal, in portions that do not depend on
when it was interrupted: work that goes on after a kill gives the same numbers. Scores are rounded
to six decimals, as other batches move the seventh.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import NumericalError, UsageError
from ranklens.data.journal import Journal
from ranklens.data.records import Document, ScoredDoc

if TYPE_CHECKING:
    from ranklens.data.encoder import Encoder, Vectors
    from ranklens.rerank.base import Reranker

Request = tuple[str, Sequence[Document]]
"""A query's text, and documents."""
_ONE_BY_ONE = ("cross-encoder", "pointwise")
_PORTION = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DECIMALS = 6


def teach(
    reranker: Reranker,
    requests: Sequence[Request],
    journal: Journal,
    advance: Callable[[int], None] = lambda _: None,
) -> list[tuple[float, ...]]:
    """Return the scores of each request's documents, in their order.

    ``journal`` holds what the same reranker said before, and gets what it says now; ``advance``
    is told how many more documents are scored, ``work`` how many they are. Raises what the
    reranker does, and InvalidInputError for a journal with something else in it.
    """
    kind = reranker.name.partition(":")[0]
    if kind == "bi-encoder":
        from ranklens.rerank.bi_encoder import BiEncoderReranker

        if isinstance(reranker, BiEncoderReranker):
            return _by_vectors(reranker.encoder, requests, journal, advance)
    if kind in _ONE_BY_ONE:
        return _by_pairs(reranker, requests, journal, advance)
    return _by_lists(reranker, requests, journal, advance)


def run_scores(run: Sequence[ScoredDoc], names: Sequence[str | None]) -> tuple[float, ...]:
    """Return a run's scores of documents for one query, its lowest as 0 and its highest as 1.

    Runs have scales of their own, up to millions; between 0 and 1 one temperature suits all. A
    document that the run does not have, or has no name for, scores one mean step of the run below
    its lowest: no better than what was found, and hardly worse. Where all scores are equal they
    are 0, and what is not there is −1.
    """
    scores = {doc.doc_id: doc.score for doc in run}
    lowest, highest = min(scores.values()), max(scores.values())
    width = highest - lowest
    absent = -1 / max(1, len(scores) - 1) if width else -1.0
    shares = {name: (score - lowest) / (width or 1.0) for name, score in scores.items()}
    return tuple(round(shares.get(name or "", absent), _DECIMALS) for name in names)


def _by_lists(
    reranker: Reranker,
    requests: Sequence[Request],
    journal: Journal,
    advance: Callable[[int], None],
) -> list[tuple[float, ...]]:
    known: dict[str, tuple[float, ...]] = {}
    for place, row in journal.rows():
        try:
            known[row["list"]] = tuple(map(float, row["scores"]))
        except (KeyError, TypeError, ValueError):
            raise place.error("not the scores of a list; remove this cache") from None
    found = []
    for query, documents in requests:
        name = _hash([query, *(document.full_text for document in documents)])
        if name not in known:
            known[name] = _ranked(reranker, query, documents)
            journal.append({"list": name, "scores": known[name]})
        advance(len(documents))
        found.append(known[name])
    return found


def _by_pairs(
    reranker: Reranker,
    requests: Sequence[Request],
    journal: Journal,
    advance: Callable[[int], None],
) -> list[tuple[float, ...]]:
    known: dict[str, dict[str, float]] = {}
    for place, row in journal.rows():
        try:
            scores = {name: float(score) for name, score in row["scores"].items()}
            known.setdefault(row["query"], {}).update(scores)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise place.error("not the scores of a query; remove this cache") from None
    # All documents of a query go through the model together: larger batches, one line.
    wanted: dict[str, dict[str, Document]] = {}
    for query, documents in requests:
        wanted.setdefault(query, {}).update({_hash([d.full_text]): d for d in documents})
    for query, texts in wanted.items():
        scored = known.setdefault(_hash([query]), {})
        missing = {name: document for name, document in texts.items() if name not in scored}
        if missing:
            values = _ranked(reranker, query, list(missing.values()))
            new = dict(zip(missing, values, strict=True))
            journal.append({"query": _hash([query]), "scores": new})
            scored.update(new)
        advance(len(texts))
    return [
        tuple(known[_hash([query])][_hash([document.full_text])] for document in documents)
        for query, documents in requests
    ]


def work(reranker: Reranker, requests: Sequence[Request]) -> int:
    """Return how many documents ``teach`` will tell ``advance`` of."""
    kind = reranker.name.partition(":")[0]
    if kind == "bi-encoder":
        texts = {document.full_text for _, documents in requests for document in documents}
        return len(texts) + len({query for query, _ in requests})
    if kind in _ONE_BY_ONE:
        return len({(query, d.full_text) for query, documents in requests for d in documents})
    return sum(len(documents) for _, documents in requests)


def _ranked(reranker: Reranker, query: str, documents: Sequence[Document]) -> tuple[float, ...]:
    scores = [0.0] * len(documents)
    for ranked in reranker.rank(query, documents):
        scores[ranked.index] = round(ranked.score, _DECIMALS)
    return tuple(scores)


def _by_vectors(
    encoder: Encoder,
    requests: Sequence[Request],
    journal: Journal,
    advance: Callable[[int], None],
) -> list[tuple[float, ...]]:
    import numpy as np

    known = _vectors(journal, encoder.dimension)
    asked = dict.fromkeys(query for query, _ in requests)
    read = dict.fromkeys(document.full_text for _, documents in requests for document in documents)
    _encode(asked, "query", encoder.encode_queries, known, journal, advance)
    _encode(read, "passage", encoder.encode_passages, known, journal, advance)
    found = []
    for query, documents in requests:
        one = known[_hash(["query", query])].astype(np.float64)
        rows = [known[_hash(["passage", document.full_text])] for document in documents]
        vectors = np.stack(rows).astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(one)
        cosines = vectors @ one / np.where(lengths > 0, lengths, 1)
        found.append(tuple(round(float(cosine), _DECIMALS) for cosine in cosines))
    return found


def _encode(
    texts: Iterable[str],
    kind: str,
    encode: Callable[[Sequence[str]], Vectors],
    known: dict[str, Vectors],
    journal: Journal,
    advance: Callable[[int], None],
) -> None:
    """Encode the texts that are not known yet, a portion at a time, each kept as one line."""
    import numpy as np

    listed = list(texts)
    for start in range(0, len(listed), _PORTION):
        portion = listed[start : start + _PORTION]
        missing = {name: text for text in portion if (name := _hash([kind, text])) not in known}
        if missing:
            vectors = np.ascontiguousarray(encode(list(missing.values())), dtype="<f4")
            if not np.isfinite(vectors).all():
                raise NumericalError("the encoder gave NaN or Inf; its weights are damaged")
            known.update(zip(missing, vectors, strict=True))
            content = base64.b64encode(vectors.tobytes()).decode()
            journal.append({"texts": list(missing), "vectors": content})
        advance(len(portion))


def _vectors(journal: Journal, dimension: int) -> dict[str, Vectors]:
    import numpy as np

    known: dict[str, Vectors] = {}
    for place, row in journal.rows():
        try:
            content = base64.b64decode(row["vectors"], validate=True)
            vectors = np.frombuffer(content, dtype="<f4").reshape(len(row["texts"]), dimension)
            known.update(zip(row["texts"], vectors, strict=True))
        except (KeyError, TypeError, ValueError):
            raise place.error("not the vectors of texts; remove this cache") from None
    return known


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def check_teacher(name: str) -> str:
    """Return a teacher's name; UsageError for one that an objective could not say."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"the teacher's name {name!r} cannot stand in an objective; give NAME=SPEC with a "
            "name of letters, digits, dots, hyphens and underscores"
        )
    return name


def digest_of(value: Mapping[str, Any]) -> str:
    """Return twelve digits that tell one description of a teacher from another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
