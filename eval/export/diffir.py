"""Weights of passages for diffir, which shows two runs side by side and highlights by weight.

One JSON line per query, ``{query: {document: {field: [[start, end, weight], ...]}}}``; offsets
are half-open and count code points of the field (diffir 0.2.0, ``--weights_1``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import atomic_writer, read_text

Weights = dict[str, dict[str, list[tuple[int, int, float]]]]


def diffir_weights(explanation: Mapping[str, Any]) -> tuple[str, Weights]:
    """Return the query's id and its weights of what ``ranklens explain --json`` printed.

    A token's weight is its contribution; tokens that speak against a document, and those
    without a place in it, are left out. Tokens of the same characters count together.
    Raises InvalidInputError for another JSON.
    """
    try:
        query_id = explanation["query"]["id"]
        weights: Weights = {}
        for document in explanation["documents"]:
            found: dict[str, dict[tuple[int, int], float]] = {}
            for token in document["tokens"]:
                if token["field"] is None or not token["contribution"] > 0:
                    continue
                place = int(token["start"]), int(token["end"])
                places = found.setdefault(str(token["field"]), {})
                places[place] = places.get(place, 0.0) + float(token["contribution"])
            weights[str(document["id"])] = {
                field: [(start, end, weight) for (start, end), weight in sorted(places.items())]
                for field, places in found.items()
            }
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"no explanation as `ranklens explain --json` prints it ({type(error).__name__}: "
            f"{error})"
        ) from None
    return str(query_id), weights


def read_explanations(paths: Sequence[Path]) -> dict[str, Weights]:
    """Return weights by query of files of ``ranklens explain --json``.

    Raises InvalidInputError that names the file, also where two explain the same document.
    """
    queries: dict[str, Weights] = {}
    for path in paths:
        try:
            value = json.loads(read_text(path))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InvalidInputError(f"{path}: not JSON ({error})") from None
        try:
            query_id, weights = diffir_weights(value)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}: {error}") from None
        known = queries.setdefault(query_id, {})
        if twice := known.keys() & weights.keys():
            raise InvalidInputError(
                f"{path}: document {min(twice)!r} of query {query_id!r} has an explanation already"
            )
        known.update(weights)
    return queries


def write_weights(path: Path, queries: Mapping[str, Weights]) -> None:
    """Write diffir's JSON lines, whole or not at all."""
    with atomic_writer(path) as stream:
        for line in _lines(queries):
            stream.write(line + "\n")


def _lines(queries: Mapping[str, Weights]) -> Iterator[str]:
    for query_id, weights in queries.items():
        yield json.dumps({query_id: weights}, allow_nan=False)
