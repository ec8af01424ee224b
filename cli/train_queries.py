"""``ranklens train queries``: a collection with queries made of a corpus that has none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_MODEL
from ranklens.cli.train_lists import KeepOutOption
from ranklens.data.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from ranklens.data.documents import DocumentSource
    from ranklens.data.records import Document
    from ranklens.rerank.training.self_supervised import Pair, Search

_TOML = "collection.toml"
_JOURNAL = "generated.jsonl"
_FILES = ("documents.jsonl", "queries.jsonl", "qrels.txt", "SOURCE.txt", "manifest.json", _TOML)
_DEFAULT_RETRIEVER = "bm25"


def queries(
    collection: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="A collection, of which only the documents are read, or a file of documents.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="The collection to write.")
    ],
    kind: Annotated[str, typer.Option(help="lm, inverse-cloze or title.")] = "lm",
    model: Annotated[
        str,
        typer.Option(help="Of --kind lm: a name of `ranklens models list`, a folder, or a hub id."),
    ] = DEFAULT_MODEL,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="DOCUMENTS",
            callback=options.positive,
            help="Make queries of so many documents.",
        ),
    ] = None,
    keep_out: KeepOutOption = None,
    retriever: Annotated[
        list[str] | None,
        typer.Option(
            help="Keep a query by which this finds its document: bm25 (if absent), "
            "dense[:MODEL], …; several: any of them; none: keep all."
        ),
    ] = None,
    within: Annotated[
        int,
        typer.Option(
            callback=options.positive, help="Where it has to be found: the first so many."
        ),
    ] = 10,
    seed: Annotated[int, typer.Option(help="What every choice is drawn from.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Make a collection again that is there.")] = False,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Make queries of a corpus: sentences, titles, or what a language model writes.

    A query is kept where a retriever finds its document by it. The folder is a collection of its
    own: with its documents, less those kept out, and a judgement for each query. An interrupted
    command goes on where it was.

    Example: ranklens train queries sample:pydocs -o made --kind inverse-cloze --limit 200
    """
    from ranklens.cli.output import note, wrote
    from ranklens.cli.train_lists import kept_out, origin_of
    from ranklens.rerank.training.exclusion import Excluded
    from ranklens.rerank.training.self_supervised import KINDS, round_trip, sound, sources

    if kind not in KINDS:
        raise UsageError(f"--kind is {kind!r}; choose {', '.join(KINDS)}")
    _check_output(output, overwrite)
    name, corpus = corpus_of(collection)
    out = kept_out(keep_out or ())
    excluded = Excluded(out.names)
    documents = {document.id: document for document in corpus}
    refused = out.documents(documents, corpus.fingerprint())
    excluded.add(name, "documents", refused)
    documents = {key: one for key, one in documents.items() if key not in refused}
    for line in excluded.lines():
        note(line)
    chosen = sources(documents.values(), seed, limit)
    if not chosen:
        raise InvalidInputError(f"{name}: no document of ten words is left to make a query of")
    pairs, made_with = _made(kind, chosen, output, model, seed, device, dtype)
    dropped: Counter[str] = Counter()
    good = list(sound(pairs, dropped, out.has_query))
    documents |= {pair.document.id: pair.document for pair in good}
    searches = _searches(retriever or [_DEFAULT_RETRIEVER], documents, device)
    if searches:
        good = round_trip(good, searches, within, dropped)
    for what, count in sorted(dropped.items()):
        note(f"{count} queries dropped: {what}")
    if not good:
        raise InvalidInputError(f"{name}: none of {len(chosen)} documents gave a query to keep")
    kept = {pair.document.id for pair in good}
    # A document whose query was dropped is whole again.
    documents |= {one.id: one for one in chosen if one.id not in kept}
    manifest = {
        "corpus": {"name": name, "documents": corpus.fingerprint(), **origin_of(collection)},
        "kind": kind,
        "seed": seed,
        "limit": limit,
        "round_trip": {"retrievers": retriever or [_DEFAULT_RETRIEVER], "within": within},
        "made_with": made_with,
        "counts": {
            "sources": len(chosen),
            "queries": len(good),
            "dropped": dict(sorted(dropped.items())),
        },
        "kept_out": excluded.to_dict(),
    }
    _write(output, f"{name}-{kind}", documents.values(), good, manifest)
    wrote(output, as_json, documents=len(documents), queries=len(good))


def corpus_of(spec: str) -> tuple[str, DocumentSource]:
    """Return a corpus's name and documents; queries, which it may lack, are not read.

    A collection as ``load_collection`` takes it, or a file or folder of documents.
    """
    from ranklens.data.documents import FileDocuments
    from ranklens.data.folder import collection_files
    from ranklens.data.load import existing, load_collection

    if spec.startswith(("irds:", "sample:")):
        loaded = load_collection(spec)
        return loaded.name, loaded.documents
    path = existing(spec)
    if path.is_dir() and ((path / _TOML).is_file() or list(path.glob("corpus.jsonl*"))):
        files = collection_files(path)
        return files.name, files.source()
    return path.name.partition(".")[0] or path.name, FileDocuments(path)


def _made(
    kind: str,
    chosen: Sequence[Document],
    output: Path,
    model: str,
    seed: int,
    device: str | None,
    dtype: str | None,
) -> tuple[Iterable[Pair], dict[str, Any]]:
    from ranklens.rerank.training.self_supervised import generated, inverse_cloze, titles

    if kind == "inverse-cloze":
        return inverse_cloze(chosen, seed), {}
    if kind == "title":
        return titles(chosen), {}
    from ranklens.cli.output import note
    from ranklens.cli.progress import progress
    from ranklens.cli.specs import pull_model
    from ranklens.data.causal_lm import CausalLM
    from ranklens.data.journal import open_journal
    from ranklens.data.models.naming import name_of
    from ranklens.rerank.training.query_generation import GenerationSettings, generate, made_with

    pull_model(model)
    note(f"loading {model}")
    lm = CausalLM.load(model, device, dtype)
    settings = GenerationSettings(seed=seed)
    # Where a folder lies is the machine's business.
    by = {**made_with(lm, settings), "model": name_of(model)}
    with (
        open_journal(output / _JOURNAL, by) as journal,
        progress("writing queries", len(chosen), "queries") as advance,
    ):
        return generated(chosen, generate(lm, chosen, settings, journal, advance)), by


def _searches(
    retrievers: Sequence[str], documents: dict[str, Document], device: str | None
) -> list[Search]:
    from ranklens.cli.output import note
    from ranklens.cli.retrievers import RetrieverSpec

    if list(retrievers) == ["none"]:
        return []
    specs = [RetrieverSpec.of_run(text, device) for text in retrievers]
    searches: list[Search] = []
    for spec in specs:
        engine = spec.build()
        note(f"indexing for {spec.name}")
        engine.index(documents.values())
        searches.append(engine.search)
    return searches


def _check_output(folder: Path, overwrite: bool) -> None:
    from ranklens.cli.output import check_folder

    if folder.is_dir():
        ours = {*_FILES, _JOURNAL, f"{_JOURNAL}.lock"}
        strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
        if strangers:
            raise InvalidInputError(
                f"{folder} holds other files ({strangers[0]}); give a new folder"
            )
        if (folder / _TOML).exists() and not overwrite:
            raise InvalidInputError(
                f"{folder} has a collection already; give another folder, or --overwrite"
            )
        # Last written and first to go: without it the folder is no collection.
        (folder / _TOML).unlink(missing_ok=True)
    check_folder(folder)


def _write(
    folder: Path,
    name: str,
    documents: Iterable[Document],
    pairs: Sequence[Pair],
    manifest: dict[str, Any],
) -> None:
    """Write a collection folder; what makes it one comes last."""
    from ranklens.data.files import atomic_writer, write_json
    from ranklens.data.pieces import without_surrogates
    from ranklens.data.qrels import Qrels, write_qrels
    from ranklens.data.records import Judgement

    with atomic_writer(folder / "documents.jsonl") as stream:
        for document in documents:
            row = {"_id": document.id, "title": document.title, "text": document.text}
            stream.write(without_surrogates(json.dumps(row, ensure_ascii=False)) + "\n")
    with atomic_writer(folder / "queries.jsonl") as stream:
        for pair in pairs:
            row = {"_id": pair.query.id, "text": pair.query.text}
            stream.write(without_surrogates(json.dumps(row, ensure_ascii=False)) + "\n")
    judged = Qrels(Judgement(pair.query.id, pair.document.id, 1) for pair in pairs)
    write_qrels(judged, folder / "qrels.txt")
    corpus = manifest["corpus"]
    lines = [
        f"Queries made of the documents of {corpus['name']}, not by people ({manifest['kind']})."
    ]
    lines += [corpus["origin"]] if "origin" in corpus else []
    lines += [f"Licence: {corpus['licence']}"] if "licence" in corpus else []
    with atomic_writer(folder / "SOURCE.txt") as stream:
        stream.write("\n".join(lines) + "\n")
    write_json(folder / "manifest.json", manifest)
    with atomic_writer(folder / _TOML) as stream:
        stream.write(
            f"name = {json.dumps(name)}\n"
            'docs = "documents.jsonl"\nqueries = "queries.jsonl"\nqrels = "qrels.txt"\n'
        )
