"""``ranklens positions``: the order of documents for a model that answers from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_MODEL

if TYPE_CHECKING:
    from ranklens.data.records import Document, Query
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.positions import PositionProfile

app = typer.Typer(help="Put documents where a model that answers from them looks most.")

ModelOption = Annotated[
    str, typer.Option(help="A name of `ranklens models list`, a folder, or a hub id.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run file, or the collection's name for one.")
]
ProfileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A measured profile (JSON).")]
ProfileFile = Annotated[
    Path, typer.Option("--positions", "-p", help="The profile that `measure` wrote.")
]
ContextsFile = Annotated[
    Path, typer.Option("--output", "-o", help="The requests to write (JSONL), in prompt order.")
]
ContextOption = Annotated[
    int, typer.Option("--depth", callback=options.positive, help="Documents for each prompt.")
]


@app.command()
def measure(
    collection: options.CollectionArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The profile to write (JSON).")],
    model: ModelOption = DEFAULT_MODEL,
    candidates: options.FirstStageOption = None,
    lists: Annotated[int, typer.Option(min=1, help="Queries whose candidates are read.")] = 50,
    depth: Annotated[int, typer.Option(min=2, help="Documents per list, so many slots.")] = 10,
    shuffles: Annotated[int, typer.Option(min=1, help="Drawn orders per list.")] = 1,
    seed: Annotated[int, typer.Option(help="For the orders.")] = 0,
    profile: Annotated[
        str, typer.Option(help="The prompt, and the tokens that are read.")
    ] = "attention-sorting",
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Measure once how much attention a model pays to each slot of a prompt.

    Lists of candidates are read in drawn orders, so that slots do not stand for documents.
    Measure the model that will write the answers. Lists of fewer than --depth candidates are
    left out.

    Example: ranklens positions measure sample:pydocs --lists 20 -o positions.json
    """
    from ranklens.cli.lists import candidate_lists
    from ranklens.cli.output import check_output, note, warn
    from ranklens.cli.progress import progress
    from ranklens.data.errors import InvalidInputError
    from ranklens.rerank.positions import measure_positions, save_position_profile

    check_output(output)
    loaded, found = candidate_lists(collection, candidates, depth, limit=lists)
    whole = [(query, documents) for query, documents in found if len(documents) == depth]
    if not whole:
        longest = max((len(documents) for _, documents in found), default=0)
        raise InvalidInputError(
            f"no query of {loaded.name!r} has {depth} candidates (the most are {longest}); "
            "use a smaller --depth or other candidates"
        )
    warnings = []
    if len(whole) < lists:
        warnings.append(f"{len(whole)} lists of {depth} documents, not the {lists} asked for")
    reranker = _load(model, profile, device, dtype)
    with progress("reading lists", len(whole) * depth * shuffles, "docs") as advance:
        measured = measure_positions(
            reranker,
            whole,
            slots=depth,
            shuffles=shuffles,
            seed=seed,
            data=[f"{loaded.name} (lists of {depth} of {Path(candidates or 'bm25').name})"],
            on_list=advance,
        )
    save_position_profile(measured, output)
    if not as_json:
        warn(warnings)
        note(f"wrote {output}: {measured.documents} slots, {measured.lists} lists")
    _tell(measured, output, warnings, as_json)


@app.command()
def show(profile: ProfileArgument, as_json: options.JsonOption = False) -> None:
    """Show a measured profile: attention by slot, and the order in which slots are filled.

    Example: ranklens positions show positions.json
    """
    from ranklens.rerank.positions import load_position_profile

    _tell(load_position_profile(profile), profile, [], as_json)


@app.command()
def order(
    collection: options.CollectionArgument,
    run: RunArgument,
    positions: ProfileFile,
    output: ContextsFile,
    depth: ContextOption = 10,
    limit: options.LimitOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write each query's best documents in the order in which they go into the prompt.

    The best document goes into the slot with the highest attention, the next into the next
    highest, and so on. The file is one of requests, as RankLLM's, without scores: whoever reads
    it keeps its order. `rank` is the document's place in RUN, from 1.

    Example: ranklens positions order sample:pydocs reranked.run -p positions.json -o contexts.jsonl
    """
    from ranklens.cli.lists import candidate_lists
    from ranklens.cli.output import check_output, wrote
    from ranklens.rerank.base import RankedDocument
    from ranklens.rerank.positions import load_position_profile, place

    check_output(output)
    measured = load_position_profile(positions)
    _, found = candidate_lists(collection, run, depth, limit=limit)

    def contexts() -> Iterator[tuple[Query, list[Document], Sequence[int]]]:
        for query, documents in found:
            best_first = [
                RankedDocument(index, document.id, -float(index))
                for index, document in enumerate(documents)
            ]
            yield query, documents, place(best_first, measured)

    _write(output, contexts())
    wrote(output, as_json, queries=len(found), documents=sum(len(docs) for _, docs in found))


@app.command()
def sort(
    collection: options.CollectionArgument,
    run: RunArgument,
    output: ContextsFile,
    model: ModelOption = DEFAULT_MODEL,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 5,
    depth: ContextOption = 10,
    limit: options.LimitOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write each query's best documents sorted by the attention they draw, highest last.

    The model reads each list, documents are sorted by the attention of the prompt's last token,
    and it reads again until the order stays, --rounds times at most (attention sorting). The
    file is as that of `order`.

    Example: ranklens positions sort sample:pydocs reranked.run --depth 5 -o contexts.jsonl
    """
    from ranklens.cli.lists import candidate_lists
    from ranklens.cli.output import check_output, note, warn, wrote
    from ranklens.cli.progress import progress
    from ranklens.rerank.positions import AttentionOrder, attention_sort

    check_output(output)
    _, found = candidate_lists(collection, run, depth, limit=limit)
    reranker = _load(model, "attention-sorting", device, dtype)
    orders: list[AttentionOrder] = []
    with progress("sorting", sum(len(documents) for _, documents in found), "docs") as advance:
        for query, documents in found:
            orders.append(attention_sort(reranker, query, documents, rounds=rounds))
            advance(len(documents))
    _write(
        output,
        (
            (query, documents, sorted_.order)
            for (query, documents), sorted_ in zip(found, orders, strict=True)
        ),
    )
    settled = sum(one.settled for one in orders)
    shortened = sum(bool(tokens) for one in orders for tokens in one.tokens_cut)
    if shortened:
        warn([f"{shortened} documents were shortened to fit while they were read"])
    if not as_json:
        note(f"{settled} of {len(orders)} lists settled within {rounds} rounds")
    wrote(
        output,
        as_json,
        queries=len(found),
        documents=sum(len(documents) for _, documents in found),
        settled=settled,
    )


def _load(model: str, profile: str, device: str | None, dtype: str | None) -> AttentionReranker:
    from ranklens.cli.output import note
    from ranklens.cli.specs import pull_model
    from ranklens.rerank.attention_reranker import AttentionReranker
    from ranklens.rerank.profile_file import load_profile

    chosen = load_profile(profile)
    pull_model(model)
    note(f"loading {model}")
    return AttentionReranker.from_pretrained(model, profile=chosen, device=device, dtype=dtype)


def _write(path: Path, contexts: Iterator[tuple[Query, list[Document], Sequence[int]]]) -> None:
    """Write requests whose candidates stand as they go into the prompt."""
    import json

    from ranklens.data.files import atomic_writer

    with atomic_writer(path) as stream:
        for query, documents, order in contexts:
            candidates = [
                {
                    "docid": documents[index].id,
                    "rank": index + 1,
                    "doc": {"title": documents[index].title, "text": documents[index].text},
                }
                for index in order
            ]
            line = {"query": {"qid": query.id, "text": query.text}, "candidates": candidates}
            # As ASCII any text can be written, half a character (a lone surrogate) too.
            stream.write(json.dumps(line) + "\n")


def _tell(profile: PositionProfile, file: Path, warnings: list[str], as_json: bool) -> None:
    import dataclasses

    from ranklens.cli.output import note, print_json, print_table
    from ranklens.rerank.positions.place import filling

    turn = [0] * profile.documents
    for place, slot in enumerate(filling(profile.values), start=1):
        turn[slot] = place
    if as_json:
        said: dict[str, Any] = {"status": "ok", "file": str(file), **dataclasses.asdict(profile)}
        print_json({**said, "basin": profile.basin, "filled": turn, "warnings": warnings})
        return
    print_table(
        f"{profile.model}: attention by slot, {profile.lists} lists of {profile.documents}",
        ["slot", "attention", "standard error", "filled with rank"],
        [
            [str(slot), f"{value:.4f}", "" if error is None else f"{error:.4f}", str(place)]
            for slot, (value, error, place) in enumerate(
                zip(profile.values, profile.errors, turn, strict=True), start=1
            )
        ],
        text_columns=0,
    )
    shape = {
        True: "both ends stand out from the middle: a basin",
        False: "not a basin: not both ends stand out from the middle",
        None: "too few lists or slots to tell its shape",
    }
    note(shape[profile.basin])
