"""Arguments and options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli.specs import RERANKERS, RETRIEVERS

COLLECTION_HELP = (
    "A folder (collection.toml or BEIR layout), irds:ID of ir_datasets, or sample:pydocs."
)

CollectionArgument = Annotated[str, typer.Argument(metavar="COLLECTION", help=COLLECTION_HELP)]
RetrieverOption = Annotated[str, typer.Option(help=f"First stage: {', '.join(RETRIEVERS)}.")]
RerankerOption = Annotated[
    str,
    typer.Option(
        help=f"{' or '.join(f'{kind}:MODEL' for kind in RERANKERS)}; "
        "MODEL is a name of `ranklens models list`, a folder, or a hub id."
    ),
]
ProfileOption = Annotated[str, typer.Option(help="Method: a shipped profile or a JSON file.")]
DepthOption = Annotated[int, typer.Option(help="Candidates to rerank per query.")]
LimitOption = Annotated[int | None, typer.Option(help="Use the first QUERIES only.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; chosen if absent.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; chosen if absent.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
