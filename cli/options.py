"""Arguments and options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ranklens.cli.retrievers import RETRIEVER_FORMS
from ranklens.data.errors import UsageError
from ranklens.rerank.from_spec import FORMS


def positive(param: typer.CallbackParam, value: int | None) -> int | None:
    """Return an option's value; UsageError for one below 1."""
    if value is not None and value < 1:
        raise UsageError(f"{param.opts[0]} must be at least 1, got {value}")
    return value


COLLECTION_HELP = (
    "A folder (collection.toml or BEIR layout), requests.jsonl, irds:ID of ir_datasets, or "
    "sample:pydocs."
)

CollectionArgument = Annotated[str, typer.Argument(metavar="COLLECTION", help=COLLECTION_HELP)]
QrelsArgument = Annotated[
    str, typer.Argument(metavar="QRELS|COLLECTION", help="A qrels file, or a collection.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="Official measures: trec-dl (2019, 2020), trec-dl-v2 (2021 to 2023), trec-dl-doc, "
        "msmarco or beir; more with -m."
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,CHANGE...]",
        help="trec_eval-9 or trec_eval-10; changes such as missing=skip, ties=rank, "
        "unjudged=removed, depth=100, self_documents=remove.",
    ),
]
MeasuresOption = Annotated[
    list[str] | None,
    typer.Option("--measure", "-m", help="nDCG@10, 'AP(rel=2)', RR@10, P@5, Judged@10, …"),
]
RetrieverOption = Annotated[str, typer.Option(help=f"First stage: {RETRIEVER_FORMS}.")]
IndexOption = Annotated[
    Path | None,
    typer.Option(
        "--index",
        metavar="FOLDER",
        help="Keep the index there, and use it again when documents and settings are the same.",
    ),
]
FirstStageOption = Annotated[
    str | None,
    typer.Option("--candidates", help="A run file or the collection's name for one; else BM25."),
]
RerankerOption = Annotated[
    str,
    typer.Option(
        help=f"{FORMS}; MODEL is a name of `ranklens models list`, a folder, or a hub id."
    ),
]
AttentionOption = Annotated[
    str,
    typer.Option(
        "--reranker",
        help="attention:MODEL; MODEL is a name of `ranklens models list`, a folder, or a hub id.",
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(help="Method: a shipped profile or a JSON file; the model's own, or icr."),
]
LongListsOption = Annotated[
    str,
    typer.Option(
        "--long-lists", help="Lists beyond the context: refuse, or anchors (several prompts)."
    ),
]
PassagesOption = Annotated[
    str | None,
    typer.Option(
        "--passages",
        metavar="HOW[:TOKENS]",
        help="Split long documents (256 tokens a passage): max or sum of the scores, or first.",
    ),
]
DocumentsOption = Annotated[
    Path | None,
    typer.Option(
        "--documents",
        metavar="FOLDER",
        help="For profiles in blocks: keep documents in FOLDER, computed once, here or by "
        "`ranklens cache build`.",
    ),
]
DepthOption = Annotated[
    int, typer.Option(callback=positive, help="Candidates to rerank per query.")
]
TopOption = Annotated[int, typer.Option("-k", callback=positive, help="Documents per query.")]
LimitOption = Annotated[
    int | None,
    typer.Option(metavar="QUERIES", callback=positive, help="Use the first QUERIES only."),
]
SampleOption = Annotated[
    int | None,
    typer.Option(
        metavar="DOCUMENTS",
        callback=positive,
        help="A quick look: use so many documents, those judged relevant before others.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; chosen if absent.")]
DtypeOption = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; chosen if absent.")
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
