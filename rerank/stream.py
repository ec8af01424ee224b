"""Finding the sentences of a text of any length that matter to a query: InfiniRetri.

After arXiv 2502.12962. The text is read chunk by chunk; each prompt holds the sentences kept so
far, the next chunk and the query:

    a(j) = mean_{i in query} Σ_h softmax(QKᵀ·scale)[h, i, j]    over heads of all full layers
    s(j) = a(j) − mean over content-free queries of the same
    p(j) = Σ_{|j' − j| ≤ phrase/2} s(j')                        1-D convolution with ones

The sentences that hold the ``top_tokens`` highest p are kept, as text, for the next prompt; those
left after the last one are the answer. All of these stood in that last prompt together, so their
scores can be compared. The mean over the query's rows orders as the paper's sum.

The release reads one late layer and subtracts nothing: ``INFINIRETRI``. With a small model that
finds what stands last in the prompt, whatever is asked, as the log shows; all layers and a null
are therefore the default. Unlike the release, rows of the query count alike, and sentences kept
are bounded by ``carry_tokens`` (best ones first): 300 tokens in 300 sentences would not fit any
window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.passages import units
from ranklens.data.pieces import PieceTokenizer, plain_marks, without_marks
from ranklens.rerank.backoff import read_in_pieces
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.frames import Frame, frame_of
from ranklens.rerank.plan import full_layers
from ranklens.rerank.profile import SignalChoice
from ranklens.rerank.prompt import PromptLayout, Tail

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.attention_reranker import AttentionReranker

_INTRODUCTION = "Here is a text:"
_QUESTION = "Please find information that is relevant to the following query in the text above."
_LABEL = "Query:"


class FoundPassage(NamedTuple):
    """A passage ``text[start:end]``, and the highest phrase score among its tokens."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class StreamChoice:
    """What ``find_passages`` reads, and its sizes in tokens (top, phrase and chunk the release's).

    ``chunk_tokens`` is what is new in a prompt, ``carry_tokens`` what is kept at most.
    ``last_layer`` reads the last layer that attends to all tokens instead of all of them;
    ``nulls`` are content-free queries whose mean attention is subtracted.
    """

    chunk_tokens: int = 1024
    carry_tokens: int = 512
    phrase: int = 8
    top_tokens: int = 300
    last_layer: bool = False
    nulls: tuple[str, ...] = ("N/A",)

    def __post_init__(self) -> None:
        # A single character can be several tokens, and has to fit.
        least = {"chunk_tokens": 16, "carry_tokens": 16, "phrase": 1, "top_tokens": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value < lowest:
                raise UsageError(f"StreamChoice.{name} must be at least {lowest}, got {value}")


INFINIRETRI = StreamChoice(last_layer=True, nulls=())
"""What the release does."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    start: int
    end: int
    ids: list[int]


def find_passages(
    reranker: AttentionReranker | AttentionEngine,
    query: str,
    text: str,
    choice: StreamChoice | None = None,
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> list[FoundPassage]:
    """Return the sentences of ``text`` that the query attends to most, best first.

    Reads the layers that are loaded and attend to all tokens. Ranges are half-open codepoint
    offsets into ``text``; a sentence longer than what is carried is read, and returned, in parts.
    A blank text has none. ``advance`` is told how many codepoints of the text each chunk went
    on. Raises InvalidInputError for an empty query and a chunk that does not fit the context
    beside it.
    """
    choice = choice or StreamChoice()
    engine, frame = (
        (reranker, frame_of(reranker.tokenizer))
        if isinstance(reranker, AttentionEngine)
        else (reranker.engine, reranker.frame)
    )
    for name, value in (("query", query), ("text", text)):
        if not isinstance(value, str):
            raise InvalidInputError(f"the {name} must be a str, got {type(value).__name__}")
    pieces = PieceTokenizer(engine.tokenizer)
    marks = plain_marks([frame.prefix, frame.suffix], pieces)
    opening = pieces.opening(frame.prefix + _INTRODUCTION + frame.separator)
    tails = tuple(_tail(pieces, frame, asked, marks) for asked in (query, *choice.nulls))
    longest = max(len(tail.ids) for tail in tails)
    needed = len(opening) + longest + choice.chunk_tokens + choice.carry_tokens
    if needed > engine.context:
        raise InvalidInputError(
            f"a chunk of {choice.chunk_tokens} tokens, {choice.carry_tokens} carried and "
            f"{len(opening) + longest} of query and frame exceed the model's context of "
            f"{engine.context}; lower StreamChoice.chunk_tokens or carry_tokens"
        )
    last = full_layers(engine.config)[-1]
    layers = (last, last) if choice.last_layer else None
    plan = engine.plan(SignalChoice(rows="query", layers=layers))
    kept: list[_Sentence] = []
    found: list[FoundPassage] = []
    reached = 0

    def ids_of(sentence: str) -> list[int]:
        # With a blank before it, as after another sentence.
        return pieces.text(" " + without_marks(sentence, marks))

    for chunk in _chunks(ids_of, text, choice):
        read = [*kept, *chunk]
        layout = _layout(opening, read, tails)
        mass = read_in_pieces(engine, layout, plan).total()
        paid = mass[0] - mass[1:].mean(0) if choice.nulls else mass[0]
        scores = phrase_scores(paid[len(opening) :], choice.phrase)
        spans = [(a - len(opening), b - len(opening)) for a, b in layout.spans]
        best = best_spans(scores, spans, choice.top_tokens, choice.carry_tokens)
        kept = [read[place] for place in sorted(place for place, _ in best)]
        found = [FoundPassage(read[place].start, read[place].end, score) for place, score in best]
        advance(chunk[-1].end - reached)
        reached = chunk[-1].end
    advance(len(text) - reached)
    return found


def phrase_scores(tokens: torch.Tensor, phrase: int) -> torch.Tensor:
    """Return the sum of each token's neighbourhood of ``phrase`` tokens, [tokens] as given.

    Zeros stand beyond the ends; an even width reaches one token further back than ahead.
    """
    import torch

    padded = torch.nn.functional.pad(tokens, (phrase // 2, (phrase - 1) // 2))
    return torch.conv1d(padded[None, None], tokens.new_ones(1, 1, phrase))[0, 0]


def best_spans(
    scores: torch.Tensor, spans: Sequence[tuple[int, int]], top: int, budget: int
) -> list[tuple[int, float]]:
    """Return (place, highest score) of the spans that hold the ``top`` scores, best first.

    Equal scores go by place. Spans are taken from the best while their lengths stay within
    ``budget`` together; one that does not fit is passed over.
    """
    import torch

    # Stable, so that which of equal scores comes first does not depend on the device.
    order = torch.sort(scores, descending=True, stable=True).indices[:top]
    chosen = set(order.tolist())
    highest = [
        (place, float(scores[first:end].max()))
        for place, (first, end) in enumerate(spans)
        if not chosen.isdisjoint(range(first, end))
    ]
    taken = []
    for place, score in sorted(highest, key=lambda pair: (-pair[1], pair[0])):
        length = spans[place][1] - spans[place][0]
        if length <= budget:
            taken.append((place, score))
            budget -= length
    return taken


def _chunks(
    ids_of: Callable[[str], list[int]], text: str, choice: StreamChoice
) -> Iterator[list[_Sentence]]:
    """Yield successive sentences of at most ``chunk_tokens`` tokens together."""
    # One that is longer than what may be carried could never be kept.
    longest = min(choice.carry_tokens, choice.chunk_tokens)
    chunk: list[_Sentence] = []
    size = 0
    for unit in units(text, longest, lambda part: len(ids_of(part))):
        ids = ids_of(text[unit.start : unit.end])
        if not ids:
            continue
        if chunk and size + len(ids) > choice.chunk_tokens:
            yield chunk
            chunk, size = [], 0
        chunk.append(_Sentence(unit.start, unit.end, ids))
        size += len(ids)
    if chunk:
        yield chunk


def _layout(
    opening: Sequence[int], read: Sequence[_Sentence], tails: tuple[Tail, ...]
) -> PromptLayout:
    shared = list(opening)
    spans = []
    for sentence in read:
        spans.append((len(shared), len(shared) + len(sentence.ids)))
        shared += sentence.ids
    return PromptLayout(shared, tails, 1, tuple(spans), (0,) * len(spans))


def _tail(pieces: PieceTokenizer, frame: Frame, query: str, marks: Sequence[str]) -> Tail:
    query = query.strip()
    ids = pieces.text(" " + without_marks(query, marks)) if query else []
    if not ids:
        raise InvalidInputError("the query is empty: there is nothing to find")
    before = pieces.trusted(frame.separator + _QUESTION + frame.separator + _LABEL)
    rows = (len(before), len(before) + len(ids))
    return Tail([*before, *ids, *pieces.trusted(frame.suffix)], rows)
