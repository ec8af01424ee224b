"""``ranklens cache``: documents computed ahead of any query, and what is kept of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ranklens.cli import options
from ranklens.cli.specs import DEFAULT_RERANKER, AttentionSpec
from ranklens.data.errors import UsageError

if TYPE_CHECKING:
    from ranklens.rerank.kv.disk import Kept
    from ranklens.rerank.kv.entry import Storage

app = typer.Typer(
    no_args_is_help=True,
    help="Keep documents' keys and values, so that reranking reads queries only.",
    epilog="Example: ranklens cache build sample:pydocs -o kept --limit 100",
)

_DEPTH = 100
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{kind}": base**power
    for base, kind in ((1000, "B"), (1024, "iB"))
    for power, prefix in enumerate("KMGT", start=1)
}

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What `ranklens cache build -o` or --documents is.")
]


@app.command()
def build(
    collection: options.CollectionArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where documents are kept.")
    ],
    reranker: options.AttentionOption = DEFAULT_RERANKER,
    profile: Annotated[
        str | None,
        typer.Option(help="A profile in blocks, shipped or a file; the model's own or icr-block."),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(help="Keep the candidates of these only: a run file or the collection's."),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(min=1, help=f"Candidates of each query, with --candidates ({_DEPTH})."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="DOCUMENTS", min=1, help="Keep the first DOCUMENTS only.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="exact, bfloat16 or int8; as the folder's documents are, or exact."),
    ] = None,
    keep_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Keep so many tokens of a document: those attended to most."),
    ] = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compute a collection's documents ahead of any query, and keep them in a folder.

    `ranklens rerank` and `ranklens run` read them with --documents. What is kept already is
    checked and not computed again, so the same command goes on after an interruption.

    Example: ranklens cache build sample:pydocs --limit 100 -o kept
    """
    from ranklens.cli.documents import KeptDocuments, warn_of_damaged
    from ranklens.cli.output import check_folder, note, print_json, warn
    from ranklens.cli.warming import documents_of, keep_all
    from ranklens.data.load import load_collection
    from ranklens.rerank.profile_file import default_profile

    if depth is not None and candidates is None:
        raise UsageError("--depth is of candidates; give --candidates too, or --limit")
    kept = KeptDocuments.open(output, storage=_storage(storage), keep_tokens=keep_tokens, memory=0)
    _, _, model = reranker.partition(":")
    chosen = profile or _block_profile(model)
    spec = AttentionSpec.parse(reranker, chosen, device, dtype, documents=kept)
    check_folder(kept.folder)
    loaded = load_collection(collection)
    warn(loaded.notes)
    documents, total = documents_of(loaded, candidates, depth or _DEPTH, limit)
    note(f"loading {spec.model}; profile {chosen}")
    engine = spec.load()
    counts = keep_all(engine, documents, total)
    value = {
        "status": "ok",
        "folder": str(output),
        "profile": engine.profile.name,
        **kept.describe(),
        "documents": total,
        "computed": counts.computed,
        "already_kept": total - counts.computed,
        "damaged": counts.damaged,
    }
    warn_of_damaged(counts)
    note(
        f"{output} keeps {total} documents: {counts.computed} computed, "
        f"{total - counts.computed} there already"
    )
    if as_json:
        print_json(value)
    else:
        with_profile = "" if chosen == default_profile(model) else f" --profile {chosen}"
        note(
            f"rank with: ranklens rerank … --reranker {reranker}{with_profile} --documents {output}"
        )


@app.command()
def info(folder: FolderArgument, as_json: options.JsonOption = False) -> None:
    """Show what a folder keeps, for each model and way of keeping.

    Example: ranklens cache info kept
    """
    from ranklens.cli.output import print_json, print_table, warn
    from ranklens.rerank.kv.disk import kept

    rows = [_facts(space) for space in kept(folder.expanduser())]
    if as_json:
        total = {name: sum(row[name] for row in rows) for name in ("documents", "bytes")}
        print_json({"status": "ok", "folder": str(folder), **total, "spaces": rows})
        return
    columns = {
        "space": "space", "model": "model", "dtype": "dtype", "storage": "storage",
        "layers": "layers", "keep_tokens": "tokens", "attention_kept": "attention",
        "documents": "documents", "bytes": "MB", "bytes_per_document": "KB each",
        "leftovers": "leftovers",
    }  # fmt: skip
    if all(row["attention_kept"] is None for row in rows):
        del columns["attention_kept"]
    table = [[_shown(name, row[name]) for name in columns] for row in rows]
    print_table(str(folder), list(columns.values()), table, text_columns=4)
    unknown = [row["space"] for row in rows if row["model"] is None]
    warn(f"{space}: space.json is damaged" for space in unknown)
    left = sum(row["leftovers"] for row in rows)
    if left:
        warn([f"{left} files are half written; `ranklens cache prune {folder}` removes them"])


@app.command()
def prune(
    folder: FolderArgument,
    size: Annotated[
        str | None,
        typer.Option(help="Remove what was not used for longest until 10GB, 500MiB, … remain."),
    ] = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Read every document, remove those that changed.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Remove what killed processes left half written; with options, documents too.

    Example: ranklens cache prune kept --size 10GB
    """
    from ranklens.cli.output import note, print_json
    from ranklens.rerank.kv.prune import prune as remove

    limit = None if size is None else parse_size(size)
    place = folder.expanduser()
    done = remove(place, size=limit, damaged=damaged, watch=_checking)
    if as_json:
        print_json(
            {
                "status": "ok",
                "folder": str(folder),
                "leftovers": [str(path.relative_to(place)) for path in done.leftovers],
                "damaged": {str(p.relative_to(place)): why for p, why in done.damaged.items()},
                "least_used": [str(path.relative_to(place)) for path in done.least_used],
                "spaces": [path.name for path in done.spaces],
                "working": [str(path.relative_to(place)) for path in done.working],
                "bytes_removed": done.bytes_removed,
                "entries_left": done.entries_left,
                "bytes_left": done.bytes_left,
            }
        )
        return
    for path, reason in done.damaged.items():
        note(f"damaged: {path.relative_to(place)}: {reason}")
    if done.working:
        note(f"{len(done.working)} half-written files are of processes that still run, and stay")
    note(
        f"removed {len(done.leftovers)} leftovers, {len(done.damaged)} damaged and "
        f"{len(done.least_used)} least used entries, {len(done.spaces)} empty spaces: "
        f"{done.bytes_removed / 1e6:.1f} MB; {done.entries_left} entries "
        f"({done.bytes_left / 1e6:.1f} MB) are left"
    )


def parse_size(text: str) -> int:
    """Read ``10GB``, ``1.5 GiB`` or plain bytes; UsageError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B)?", text.strip().upper(), re.ASCII)
    unit = (found[2] or "").replace("I", "i") if found else ""
    if found is None or unit not in _UNITS or ("." in found[1] and not unit.strip("B")):
        raise UsageError(
            f"--size is {text!r}; expected bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB "
            "or TiB (10GB)"
        )
    return int(float(found[1]) * _UNITS[unit]) if "." in found[1] else int(found[1]) * _UNITS[unit]


def _storage(name: str | None) -> Storage | None:
    """Return a storage by name; UsageError names the known ones."""
    from ranklens.rerank.kv.entry import STORAGES

    for known in STORAGES:
        if name == known:
            return known
    if name is not None:
        raise UsageError(f"--storage is {name!r}; choose {', '.join(STORAGES)}")
    return None


def _block_profile(model: str) -> str:
    """Return the profile that a model's documents are kept for when none is named.

    That is what it ranks with if it reads in blocks, as trained models do.
    """
    from ranklens.rerank.profile_file import default_profile, load_profile, shipped_profiles

    usual, own = default_profile(model), f"{model}-block"
    if load_profile(usual).layout.attend == "block":
        return usual
    return own if own in shipped_profiles() else "icr-block"


def _facts(space: Kept) -> dict[str, Any]:
    """Return what a space holds, for machines; the entry of the prefix is no document."""
    from ranklens.rerank.kv.disk import mass_kept
    from ranklens.rerank.kv.parts import prefix_name

    said = space.description
    prefix = prefix_name(said.get("prefix", []))
    files = [(path, size) for _, path, size in space.files if path.name.split(".")[0] != prefix]
    attention = None
    if said.get("keep_tokens") is not None:
        shares = [share for path, _ in files if (share := mass_kept(path)) is not None]
        attention = sum(shares) / len(shares) if shares else None
    size = sum(nbytes for _, nbytes in files)
    names = ("model", "dtype", "device", "layers", "storage", "keep_tokens", "versions")
    return {
        "space": space.folder.name,
        **{name: said.get(name) for name in names},
        "documents": len(files),
        "bytes": space.nbytes,
        "bytes_per_document": size / len(files) if files else 0.0,
        "attention_kept": attention,
        "leftovers": len(space.leftovers),
    }


def _shown(name: str, value: Any) -> str:
    if name == "keep_tokens":
        return "all" if value is None else str(value)
    if value is None:
        return "?"
    if name == "attention_kept":
        return f"{value:.3f}"
    unit = {"bytes": 1e6, "bytes_per_document": 1e3}.get(name)
    return str(value) if unit is None else f"{value / unit:.1f}"


def _checking(entries: Iterator[Path], number: int) -> Iterator[Path]:
    from ranklens.cli.progress import progress

    with progress("checking", number, "docs") as advance:
        for path in entries:
            yield path
            advance(1)
