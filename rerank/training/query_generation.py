"""Queries that a local language model writes for passages: few examples, then the passage.

    Passage: …
    Query: …

The model goes on behind ``Query:`` to the end of the line. A passage is one line whatever it
holds, and no control token in it is recognised: it cannot end its place in the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ranklens.data.continuations import continuations
from ranklens.data.journal import Journal
from ranklens.data.records import Document

if TYPE_CHECKING:
    from ranklens.data.causal_lm import CausalLM

TASK = "People type short queries into a search engine. Each passage answers its query."
EXAMPLES = (
    (
        "Basil needs at least six hours of sun a day. Water it when the top of the soil is dry, "
        "and pinch off the flowers so that the leaves keep their taste.",
        "how much sun does basil need",
    ),
    (
        "The Treaty of Tordesillas, signed in 1494, divided the lands outside Europe between "
        "Portugal and Spain along a line west of the Cape Verde islands.",
        "what did the treaty of tordesillas divide",
    ),
    (
        "A fixed mortgage keeps one interest rate for the whole term, while the rate of a variable "
        "one follows the market, so that payments may rise or fall.",
        "difference between fixed and variable mortgage",
    ),
    (
        "Shin splints are pains along the front of the lower leg, common in runners who train more "
        "than they are used to. Rest, ice and softer shoes help.",
        "shin splints causes and treatment",
    ),
)
_BATCH = 48
# Prompts of so many batches are sorted by length: less filling up.
_SORTED = 8


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How queries are sampled: temperature, likeliest tokens, tokens of query and passage."""

    temperature: float = 0.7
    top_k: int = 40
    query_tokens: int = 20
    passage_tokens: int = 128
    seed: int = 0


def generate(
    lm: CausalLM,
    documents: Sequence[Document],
    settings: GenerationSettings,
    journal: Journal,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """Return what the model writes for each document, as it is, by the document's id.

    What the journal holds is not made again. Portions, and the draws of each document, do not
    depend on what was made before. Raises InvalidInputError for a journal of something else.
    """
    known = _known(journal)
    opening = _opening(lm)
    asked = lm.chat.pieces.trusted("\nQuery:")
    for start in range(0, len(documents), _BATCH * _SORTED):
        prompts = {
            document.id: [*_passage(lm, document, settings.passage_tokens), *asked]
            for document in documents[start : start + _BATCH * _SORTED]
        }
        texts = {d.id: _hash(d) for d in documents[start : start + _BATCH * _SORTED]}
        for batch in _batches(prompts):
            missing = [name for name in batch if (name, texts[name]) not in known]
            if missing:
                written = continuations(
                    lm,
                    opening,
                    [prompts[name] for name in missing],
                    [draws(settings.seed, name, settings.query_tokens) for name in missing],
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                )
                rows = [[n, texts[n], q] for n, q in zip(missing, written, strict=True)]
                journal.append({"queries": rows})
                known.update({(name, text): query for name, text, query in rows})
            advance(len(batch))
    return {document.id: known[document.id, _hash(document)] for document in documents}


def made_with(lm: CausalLM, settings: GenerationSettings) -> dict[str, Any]:
    """Return what generated queries depend on, beside the documents."""
    prompt = hashlib.sha256(repr((TASK, EXAMPLES)).encode()).hexdigest()[:12]
    return {
        "model": lm.name,
        "revision": lm.revision,
        "dtype": lm.placement.dtype,
        "prompt": prompt,
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "query_tokens": settings.query_tokens,
        "passage_tokens": settings.passage_tokens,
        "seed": settings.seed,
    }


def draws(seed: int, name: str, count: int) -> list[float]:
    """Return numbers in [0, 1) that depend on seed and name alone."""
    stream = hashlib.shake_256(f"{seed}\0{name}".encode(errors="surrogatepass"))
    content = stream.digest(6 * count)
    return [int.from_bytes(content[6 * n : 6 * n + 6]) / 2**48 for n in range(count)]


def _opening(lm: CausalLM) -> list[int]:
    pieces = lm.chat.pieces
    shown = "".join(f"Passage: {text}\nQuery: {query}\n\n" for text, query in EXAMPLES)
    return pieces.opening(f"{TASK}\n\n{shown}Passage:")


def _passage(lm: CausalLM, document: Document, most: int) -> list[int]:
    # Long texts are cut before they are tokenised: a token has hardly more than 40 characters.
    line = " ".join(document.full_text[: 40 * most].split())
    ids = lm.chat.pieces.text(f" {line}")
    return ids[:most]


def _batches(prompts: dict[str, list[int]]) -> Iterator[list[str]]:
    ordered = sorted(prompts, key=lambda name: (-len(prompts[name]), name))
    for start in range(0, len(ordered), _BATCH):
        yield ordered[start : start + _BATCH]


def _known(journal: Journal) -> dict[tuple[str, str], str]:
    known = {}
    for place, row in journal.rows():
        try:
            for name, text, query in row["queries"]:
                known[str(name), str(text)] = str(query)
        except (KeyError, TypeError, ValueError):
            raise place.error("not generated queries; give another folder") from None
    return known


def _hash(document: Document) -> str:
    text = document.full_text.encode(errors="surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]
