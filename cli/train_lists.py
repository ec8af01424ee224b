"""``ranklens train lists``: what a model is trained on, made of collections and teachers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.data.collection import Collection
    from ranklens.data.records import ScoredDoc
    from ranklens.rerank.training.building import Draft
    from ranklens.rerank.training.exclusion import KeptOut

CollectionsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="COLLECTION[@CANDIDATES]...",
        help=f"{options.COLLECTION_HELP} @NAME takes other candidates than its bm25, @NAME=FILE "
        "those of a run file; the same collection again adds candidates.",
    ),
]
KeepOutOption = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-out",
        metavar="COLLECTION",
        help="Leave out this collection's queries and judged documents, by id and by text.",
    ),
]
TeacherOption = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher",
        metavar="[NAME=]SPEC",
        help="Scores to learn from: a reranker (cross-encoder:MODEL, …), or candidates:RUN for a "
        "run of the collections.",
    ),
]


def lists(
    collections: CollectionsArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    keep_out: KeepOutOption = None,
    teacher: TeacherOption = None,
    documents: Annotated[int, typer.Option(help="Documents of a list.")] = 24,
    queries: Annotated[int, typer.Option(help="Queries over a list, at most.")] = 8,
    lists_per_query: Annotated[int, typer.Option(help="Lists made for one query.")] = 1,
    random: Annotated[
        int | None,
        typer.Option(help="Documents of a list that are any of the corpus; an eighth if absent."),
    ] = None,
    depth: Annotated[
        int, typer.Option(callback=options.positive, help="Candidates to draw hard ones from.")
    ] = 100,
    limit: options.LimitOption = None,
    seed: Annotated[int, typer.Option(help="What every choice is drawn from.")] = 0,
    cache: Annotated[
        Path | None,
        typer.Option(help="Where teachers' scores are kept; ranklens' own folder if absent."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write over lists that are there.")] = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Make training lists: judged, hard and random documents, and the queries over them.

    Queries without judgements have lists for teachers. Each list has the documents of one query;
    other queries that it answers join it. Teachers score every pair once; an interrupted command
    goes on where it was.

    Example: ranklens train lists sample:pydocs -o lists --teacher bi-encoder:minilm-l6
    """
    from ranklens.cli.output import note, wrote
    from ranklens.cli.train_teachers import parse_teachers, scores_by_teacher
    from ranklens.rerank.training.building import (
        BuildSettings,
        Corpus,
        complete,
        draft_lists,
        gather,
    )
    from ranklens.rerank.training.exclusion import Excluded
    from ranklens.rerank.training.folder import check_new, write_lists

    settings = BuildSettings(documents, queries, lists_per_query, random, seed)
    check_new(output, overwrite=overwrite)
    teachers = parse_teachers(teacher or (), device, dtype)
    sources = _sources(collections, depth, limit)
    out = kept_out(keep_out or ())
    excluded, corpus = Excluded(out.names), Corpus()
    materials = [
        gather(source.collection, source.nearest(), corpus, settings, out, excluded)
        for source in sources
    ]
    for line in excluded.lines():
        note(line)
    counts: Counter[str] = Counter()
    drafts = list(draft_lists(materials, corpus, settings, taught=bool(teachers), counts=counts))
    for what, count in counts.items():
        note(f"{count} {what} make no list")
    if not drafts:
        raise InvalidInputError(
            "no query of these collections makes a list; without a --teacher a query needs a "
            "document that is judged relevant and not kept out"
        )
    note(_described(drafts))
    runs = {source.collection.name: source.known_runs() for source in sources}
    scores = scores_by_teacher(teachers, drafts, corpus, runs, cache)
    manifest = {
        "collections": [source.describe() for source in sources],
        "settings": {**dataclasses.asdict(settings), "depth": depth, "limit": limit},
        "teachers": {one.name: one.describe() for one in teachers},
        "kept_out": excluded.to_dict(),
        "without_lists": dict(sorted(counts.items())),
        "versions": _versions(),
    }
    made = write_lists(
        output,
        (complete(draft, corpus, scores) for draft in drafts),
        manifest,
        overwrite=overwrite,
    )
    wrote(output, as_json, **made)


@dataclass
class _Source:
    """A collection with the runs that its candidates come from."""

    collection: Collection
    origin: dict[str, str]
    runs: dict[str, Mapping[str, Sequence[ScoredDoc]]]
    depth: int

    def nearest(self) -> dict[str, list[str]]:
        """Return each query's candidates, by their best rank in any of the runs."""
        found = {}
        for query in self.collection.queries:
            best: dict[str, int] = {}
            for run in self.runs.values():
                for rank, doc in enumerate(run.get(query.id, ())[: self.depth]):
                    best[doc.doc_id] = min(rank, best.get(doc.doc_id, rank))
            found[query.id] = sorted(best, key=lambda name: (best[name], name))
        return found

    def known_runs(self) -> dict[str, Callable[[], Mapping[str, Sequence[ScoredDoc]]]]:
        """Return the runs that teachers can be asked for by name."""
        given = {name: (lambda run=run: run) for name, run in self.runs.items()}
        return {**self.collection.candidate_runs, **given}

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {
            "name": self.collection.name,
            "queries": len(self.collection.queries),
            "judged": len(self.collection.qrels),
            "candidates": sorted(self.runs),
            "files": self.collection.fingerprint(),
            **self.origin,
        }


def _sources(collections: Sequence[str], depth: int, limit: int | None) -> list[_Source]:
    from ranklens.cli.lists import with_candidates

    found: dict[str, _Source] = {}
    wanted: dict[str, list[str | None]] = {}
    for given in collections:
        spec, candidates = with_candidates(given)
        wanted.setdefault(spec, []).append(candidates)
    for spec, names in wanted.items():
        loaded = _loaded(spec)
        if limit is not None:
            loaded = dataclasses.replace(loaded, queries=loaded.queries[:limit])
        if loaded.name in found:
            raise UsageError(
                f"two collections are called {loaded.name!r}: {spec!r} and another; name one "
                "otherwise in its collection.toml"
            )
        runs = {}
        for name in dict.fromkeys(names):
            called, equals, file = (name or "bm25").partition("=")
            runs[Path(called).name] = _candidates(loaded, file if equals else name, depth)
        found[loaded.name] = _Source(loaded, origin_of(spec), runs, depth)
    return list(found.values())


def _candidates(
    collection: Collection, name: str | None, depth: int
) -> Mapping[str, Sequence[ScoredDoc]]:
    from ranklens.cli.retrievers import RetrieverSpec
    from ranklens.cli.stages import given_candidates, retrieve

    if name is None and "bm25" not in collection.candidate_runs:
        return retrieve(
            collection,
            RetrieverSpec(),
            depth,
            collection.queries,
            remove_query=collection.remove_query,
        )
    return given_candidates(collection, name or "bm25", collection.queries)


def kept_out(specs: Sequence[str]) -> KeptOut:
    """Return what collections keep out of training."""
    from ranklens.rerank.training.exclusion import KeptOut

    return KeptOut([_loaded(spec) for spec in specs])


def _loaded(spec: str) -> Collection:
    from ranklens.cli.output import warn
    from ranklens.data.load import load_collection

    loaded = load_collection(spec)
    warn(loaded.notes)
    return loaded


def origin_of(spec: str) -> dict[str, str]:
    """Return what the SOURCE.txt beside a collection says: its first line, and of licences."""
    from ranklens.data.files import read_text

    path = Path(spec).expanduser()
    path = (path if path.is_dir() else path.parent) / "SOURCE.txt"
    if (":" in spec and not path.parent.is_dir()) or not path.is_file():
        return {}
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    licences = [
        text.strip()
        for label, colon, text in (line.partition(":") for line in lines)
        if colon and label.casefold() in ("licence", "license")
    ]
    found = {"origin": lines[0] if lines else "", "licence": " ".join(licences)}
    return {name: text for name, text in found.items() if text}


def _described(drafts: Sequence[Draft]) -> str:
    documents = Counter(len(draft.documents) for draft in drafts)
    asked = sum(len(draft.queries) for draft in drafts)
    names = {one.id for draft in drafts for one in draft.queries}
    sizes = ", ".join(f"{count} of {size}" for size, count in sorted(documents.items()))
    return (
        f"{len(drafts)} lists ({sizes} documents), {asked} queries over them, {len(names)} distinct"
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"ranklens": version("ranklens")}
