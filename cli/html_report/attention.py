"""Which tokens of the shown documents a reranker's attention was on, and which heads it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ranklens.cli.html_report.coding import Token
from ranklens.cli.html_report.content import (
    AttendedDocument,
    Attention,
    HeadMap,
    ReportedQuery,
    ShownDocument,
)
from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.models.naming import name_of
from ranklens.data.records import Document, Query
from ranklens.data.runs import Run

if TYPE_CHECKING:
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.bias import Reading
    from ranklens.rerank.explain import DocumentExplanation, TokenAttribution
    from ranklens.rerank.profile import Profile

_TOLERANCE = 1e-4
"""Scores that differ by less than this share of the list's largest are the same: a run file has
single precision, and sums of attention are rounded in another order on another machine."""
_LARGEST = 255


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be read: the first ``depth`` candidates of queries, by their number.

    ``scores`` is the run that they should come out as; None where there is none to hold against.
    ``permutations`` shuffled orders are read too, none where it is 0.
    """

    run: str
    candidates: Run
    depth: int
    scores: Run | None
    queries: Sequence[Query]
    numbers: Mapping[str, int]
    permutations: int = 0

    def documents(self, query_id: str, texts: Mapping[str, Document]) -> list[Document] | None:
        """Return a query's candidates; None where the collection lacks one, or there are none."""
        wanted = [doc.doc_id for doc in self.candidates.get(query_id, ())[: self.depth]]
        if not wanted or any(doc_id not in texts for doc_id in wanted):
            return None
        return [texts[doc_id] for doc_id in wanted]

    def total(self, texts: Mapping[str, Document]) -> int:
        """Return how many documents are read, shuffled orders included."""
        each = 1 + (self.permutations + 1 if self.permutations else 0)
        return each * sum(len(self.documents(q.id, texts) or ()) for q in self.queries)


def read_attention(
    reranker: AttentionReranker,
    task: Task,
    texts: Mapping[str, Document],
    queries: Sequence[ReportedQuery],
    documents: Mapping[str, ShownDocument],
    advance: Callable[[int], None],
) -> tuple[Attention | None, list[Reading], list[str]]:
    """Return the tokens of the shown documents, the shuffled orders, and what to be careful about.

    A query whose documents do not fit the model is left out and said so. ``advance`` is told how
    many documents were read. Raises InvalidInputError for a reranker that splits documents.
    """
    from ranklens.rerank.bias import read_orders
    from ranklens.rerank.explain import Explainer

    explainer = Explainer(reranker)
    lists = {query.id: query.lists for query in queries}
    found: dict[str, dict[str, AttendedDocument]] = {}
    readings: list[Reading] = []
    refused: list[str] = []
    checks: list[tuple[str, float, bool]] = []
    lacking = 0
    adds_up = True
    for query in task.queries:
        records = task.documents(query.id, texts)
        if records is None:
            lacking += bool(task.candidates.get(query.id))
            continue
        number = task.numbers[query.id]
        try:
            explained = explainer.explain(query, records, request=number)
            advance(len(records))
            if task.permutations:
                readings.append(
                    read_orders(
                        reranker, query, records, permutations=task.permutations, request=number
                    )
                )
                advance(len(records) * (task.permutations + 1))
        except InvalidInputError as error:
            refused.append(f"query {query.id!r}: {error}")
            continue
        adds_up = all(one.adds_up for one in explained)
        if task.scores is not None:
            checks += _check(query.id, explained, task.scores)
        shown = {doc.doc for docs in lists.get(query.id, {}).values() for doc in docs}
        found[query.id] = _attended(explained, shown, documents)
    warnings = _warnings(task, lacking, refused, checks)
    if not found:
        return None, readings, warnings
    profile = reranker.profile
    model = reranker.model
    return (
        Attention(
            run=task.run,
            profile=profile.name,
            model=name_of(model.spec) if model else "",
            adds_up=adds_up,
            raw=bool(profile.calibration.nulls),
            what=_said(profile, adds_up) + _of_whom(task),
            documents=found,
        ),
        readings,
        warnings,
    )


def head_map(profile: Profile, shape: tuple[int, int] | None) -> HeadMap | None:
    """Return the heads that a profile reads; ``shape``: layers and heads of the model.

    Without a shape the map ends with the last head that is named; None where none is.
    """
    signal = profile.signal
    if signal.values == "rollout" or (signal.heads is None and shape is None):
        return None
    weights = signal.weights
    if weights is None:
        assert shape is not None
        first, last = signal.layers or (0, shape[0] - 1)
        weights = {layer: dict.fromkeys(range(shape[1]), 1.0) for layer in range(first, last + 1)}
    cells = tuple(
        (layer, head, weight)
        for layer, heads in sorted(weights.items())
        for head, weight in sorted(heads.items())
    )
    layers, heads = shape or (1 + max(c[0] for c in cells), 1 + max(c[1] for c in cells))
    every = len(cells) == layers * heads
    how = (
        "every head, all alike"
        if signal.heads is None and every
        else (f"{len(cells)} of {layers * heads} heads")
    )
    if shape is None:
        how = f"{len(cells)} heads; the model has more layers and heads than the map, perhaps"
    negative = sum(weight < 0 for *_, weight in cells)
    against = f"; {negative} weights are negative: these heads count against" if negative else ""
    return HeadMap(layers, heads, cells, f"Profile {profile.name} reads {how}{against}.")


def model_shape(config: object) -> tuple[int, int] | None:
    """Return layers and heads from a model's ``config.json``, read as JSON; None if not there."""
    if not isinstance(config, dict):
        return None
    inner = config.get("text_config")
    said = inner if isinstance(inner, dict) else config
    layers, heads = said.get("num_hidden_layers"), said.get("num_attention_heads")
    if isinstance(layers, int) and isinstance(heads, int):
        return layers, heads
    return None


def shape_of(spec: str) -> tuple[int, int] | None:
    """Return layers and heads of a model that is on this disk, else None."""
    from ranklens.data.models import resolve

    try:
        path = resolve(spec).path / "config.json"
        return model_shape(json.loads(path.read_text(encoding="utf-8")))
    except (RanklensError, OSError, ValueError):
        return None


def _attended(
    explained: Sequence[DocumentExplanation],
    shown: set[str],
    documents: Mapping[str, ShownDocument],
) -> dict[str, AttendedDocument]:
    """Return the shown documents of a query's list with their tokens, best first."""
    tokens = [token for one in explained for token in one.tokens]
    largest = max((abs(token.value) for token in tokens), default=0.0)
    largest_raw = max((abs(token.attention or 0.0) for token in tokens), default=0.0)
    return {
        one.document.id: AttendedDocument(
            score=one.score,
            tokens=_tokens(one.tokens, documents[one.document.id], largest, largest_raw),
            tokens_cut=one.tokens_cut,
        )
        for one in explained
        if one.document.id in shown
    }


def _tokens(
    tokens: Sequence[TokenAttribution], shown: ShownDocument, largest: float, largest_raw: float
) -> tuple[Token, ...]:
    """Return tokens by place in what is shown; those that share characters become one."""
    offset = len(shown.title) + 1 if shown.title else 0
    placed: list[tuple[int, int, float, float | None]] = []
    for token in tokens:
        if token.place is None:
            continue
        in_title = token.place.field == "title"
        room = len(shown.title if in_title else shown.text)
        start, end = token.place.start, min(token.place.end, room)
        if start < end:
            move = 0 if in_title else offset
            placed.append((start + move, end + move, token.value, token.attention))
    placed.sort(key=lambda one: one[:2])
    joined: list[tuple[int, int, float, float | None]] = []
    for start, end, value, raw in placed:
        if joined and start < joined[-1][1]:
            first, last, other, other_raw = joined.pop()
            both = None if raw is None or other_raw is None else raw + other_raw
            joined.append((first, max(last, end), value + other, both))
        else:
            joined.append((start, end, value, raw))
    return tuple(
        Token(
            start,
            end,
            _share(value, largest),
            None if raw is None else _share(raw, largest_raw),
        )
        for start, end, value, raw in joined
    )


def _share(value: float, largest: float) -> int:
    # Tokens that were joined may be more than the largest one.
    return round(_LARGEST * max(-1.0, min(1.0, value / largest))) if largest > 0 else 0


def _check(
    query_id: str, explained: Sequence[DocumentExplanation], run: Run
) -> list[tuple[str, float, bool]]:
    """Return how far scores are from the run's, by share of the largest, and if the order is."""
    known = {doc.doc_id: doc.score for doc in run.get(query_id, ())}
    both = [(one, known[one.document.id]) for one in explained if one.document.id in known]
    if not both:
        return []
    unit = max(abs(score) for _, score in both) or 1.0
    off = max(abs(one.score - score) for one, score in both) / unit
    given = [one.document.id for one, _ in sorted(both, key=lambda pair: -pair[1])]
    return [(query_id, off, given != [one.document.id for one, _ in both])]


def _warnings(
    task: Task, lacking: int, refused: list[str], checks: list[tuple[str, float, bool]]
) -> list[str]:
    warnings = []
    if lacking:
        warnings.append(
            f"{lacking} queries have candidates that are not in the collection; their tokens are "
            "not coloured"
        )
    if refused:
        warnings.append(
            f"the tokens of {len(refused)} queries are not coloured (first: {refused[0]})"
        )
    off = [check for check in checks if check[1] > _TOLERANCE]
    if off:
        worst = max(off, key=lambda check: check[1])
        orders = sum(changed for *_, changed in off)
        warnings.append(
            f"attention was read anew, and the scores of {len(off)} of {len(checks)} queries are "
            f"not those of {task.run} (by up to {worst[1]:.2g} of a list's largest score, in query "
            f"{worst[0]!r}; {orders} have another order): another device, dtype, model revision, "
            "profile or version"
        )
    return warnings


def _said(profile: Profile, adds_up: bool) -> str:
    signal = profile.signal
    what = "attention" if signal.values == "attention" else f"attention ({signal.values})"
    compared = ", less what a content-free query gives it" if profile.calibration.nulls else ""
    heads = "all heads" if signal.heads is None else f"{len(signal.heads)} heads by their weight"
    if profile.pooling.scale == "log":
        return (
            f"A token's share of the {what} that the query's tokens pay to its document, summed "
            f"over {heads}; as a share of the largest in the query's list. A document's score is "
            "made of the logarithms of its heads' attention: colours say where in a document it "
            "lies, and values of two documents do not compare. Read off, not caused: ranklens "
            "explain tests it by erasing."
        )
    total = (
        "A document's score is made of its tokens' values by adding or averaging them"
        if adds_up
        else "Scores are not sums of these values (the profile compares whole documents): colours "
        "say the direction only"
    )
    return (
        f"The {what} that the query's tokens pay to a token{compared}, summed over {heads}; as a "
        f"share of the largest in the query's list. {total}. Read off, not caused: "
        "ranklens explain tests it by erasing."
    )


def _of_whom(task: Task) -> str:
    if task.scores is not None:
        return ""
    return f" Read over the first {task.depth} documents of {task.run}, whose order is another's."
