"""``ranklens explain``: which words of a document carry its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_RERANKER, AttentionSpec
from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.rerank.explain import DocumentExplanation
    from ranklens.rerank.faithfulness import Faithfulness

_SPANS_SHOWN = 5


def explain(
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="The query.")] = None,
    documents: Annotated[
        list[str] | None, typer.Argument(metavar="[DOCUMENT]...", help="Texts to rank.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option(help="Take query and documents from a collection instead.")
    ] = None,
    query_id: Annotated[str | None, typer.Option(help="The query, with --collection.")] = None,
    candidates: options.FirstStageOption = None,
    depth: options.DepthOption = 20,
    show: Annotated[int, typer.Option(min=1, help="Explain the best documents only.")] = 3,
    spans: Annotated[int, typer.Option(min=1, help="Top spans to erase.")] = 3,
    draws: Annotated[
        int, typer.Option(min=0, help="Random erasures to compare with; 0 erases nothing.")
    ] = 10,
    seed: Annotated[int, typer.Option(help="For the random erasures.")] = 0,
    reranker: options.AttentionOption = DEFAULT_RERANKER,
    profile: options.ProfileOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Show which tokens and spans of documents carry their scores, and test that by erasing.

    Offsets are half-open and count code points of the document's title or text. Erasing blanks
    a document's top spans and ranks again: a faithful explanation costs it more than as much
    random text does. Each erasure is one more ranking.

    Example: ranklens explain "what do owls eat" "Owls eat mice." "Trains run on time."
    """
    from ranklens.cli.lists import candidate_lists
    from ranklens.cli.output import note, print_json
    from ranklens.cli.progress import progress
    from ranklens.cli.stages import request_numbers
    from ranklens.data.records import Document, Query
    from ranklens.rerank.explain import Explainer
    from ranklens.rerank.faithfulness import erase

    if collection is None:
        if query_id or candidates:
            raise UsageError("--query-id and --candidates belong to --collection")
        if query is None or not documents:
            raise UsageError("give a QUERY and at least one DOCUMENT, or --collection, --query-id")
        asked = Query("query", query)
        texts = [Document(str(number), text) for number, text in enumerate(documents)]
    else:
        if query is not None:
            raise UsageError("--collection takes the query by --query-id; leave QUERY out")
        if query_id is None:
            raise UsageError("--collection needs --query-id")
    spec = AttentionSpec.parse(reranker, profile, device, dtype)
    number = 0
    if collection is not None:
        loaded, lists = candidate_lists(collection, candidates, depth, query_id=query_id)
        ((asked, texts),) = lists
        number = request_numbers(loaded)[asked.id]
    note(f"loading {spec.model}")
    explainer = Explainer(spec.load())
    explained = explainer.explain(asked, texts, request=number)[:show]
    tests: list[Faithfulness | None] = [None] * len(explained)
    if draws:
        with progress("erasing", len(explained) * (draws + 1), "rankings") as advance:
            for place, one in enumerate(explained):
                tests[place] = erase(
                    explainer,
                    asked,
                    texts,
                    one,
                    spans=spans,
                    draws=draws,
                    seed=seed,
                    request=number,
                )
                advance(draws + 1)
    if as_json:
        value = {
            "status": "ok",
            "query": {"id": asked.id, "text": asked.text},
            "profile": explainer.reranker.profile.name,
            "candidates": len(texts),
            "documents": [_as_json(one, test) for one, test in zip(explained, tests, strict=True)],
        }
        # A document can hold anything: only ASCII goes to the terminal.
        print_json(value, ascii_only=True)
    else:
        _show(asked.text, len(texts), explained, tests)


def _as_json(one: DocumentExplanation, test: Faithfulness | None) -> dict[str, Any]:
    def place(at: Any) -> dict[str, Any]:
        if at is None:
            return {"field": None, "start": None, "end": None, "text": None}
        return {"field": at.field, "start": at.start, "end": at.end, "text": one.cut_out(at)}

    return {
        "rank": one.rank,
        "id": one.document.id,
        "index": one.index,
        "score": one.score,
        "adds_up": one.adds_up,
        "frame": one.frame,
        "tokens_cut": one.tokens_cut,
        "seen": one.seen,
        "spans": [{**place(s.place), "contribution": s.contribution} for s in one.spans],
        "tokens": [
            {**place(t.place), "value": t.value, "contribution": t.contribution}
            for t in one.tokens
        ],
        "faithfulness": None if test is None else {
            "spans": test.spans,
            "tokens": test.tokens,
            "drop": test.drop,
            "random_drop": test.random_drop,
            "random_drops": list(test.random_drops),
            "beats": test.beats,
            "rank_after": test.rank_after,
        },
    }  # fmt: skip


def _show(
    query: str,
    candidates: int,
    explained: Sequence[DocumentExplanation],
    tests: Sequence[Faithfulness | None],
) -> None:
    import sys

    from ranklens.cli.escape import printable
    from ranklens.cli.output import print_styled, print_text

    print_text(f"query: {printable(query)}")
    for one, test in zip(explained, tests, strict=True):
        seen = f", {one.tokens_cut} tokens not seen" if one.tokens_cut else ""
        print_text("")
        print_text(
            f"{one.rank} of {candidates}: {printable(one.document.id)}  score {one.score:.6g}{seen}"
        )
        for field, text in (("title", one.document.title), ("text", one.document.text)):
            end = one.seen.get("title" if field == "title" else "text", 0)
            if not text or not end:
                continue
            heat = _heat(one, field, end)
            if sys.stdout.isatty():
                print_styled(_coloured(text[:end], heat))
            else:
                print_text(f"  {field}: {printable(text[:end])}")
        for span in one.spans[:_SPANS_SHOWN]:
            at = span.place
            print_text(
                f"  {span.contribution:+.3g}  {at.field} [{at.start}, {at.end})  "
                f"{printable(one.cut_out(at))}"
            )
        if not one.spans:
            print_text("  no token speaks for this document")
        if test is not None:
            print_text(
                f"  erased: the top {test.spans} spans ({test.tokens} tokens) cost "
                f"{test.drop:.3g}, random ones {test.random_drop:.3g} on average; more than in "
                f"{test.beats:.0%} of {len(test.random_drops)} draws; rank {test.rank_after} then"
            )


def _heat(one: DocumentExplanation, field: str, end: int) -> list[float]:
    """Return for each code point its tokens' contribution over the document's highest."""
    highest = max((token.contribution for token in one.tokens), default=0.0)
    heat = [0.0] * end
    for token in one.tokens:
        if token.place is not None and token.place.field == field and highest > 0:
            for i in range(token.place.start, token.place.end):
                heat[i] = max(heat[i], token.contribution / highest)
    return heat


def _coloured(text: str, heat: Sequence[float]) -> Any:
    from rich.text import Text

    from ranklens.cli.escape import printable

    shown = Text("  ")
    for character, value in zip(text, heat, strict=True):
        # Square root: the highest token would else leave the others white.
        pale = 255 - int(200 * value**0.5)
        style = f"black on rgb(255,{pale},{pale})" if value > 0 else ""
        shown.append(printable(character), style=style)
    return shown
