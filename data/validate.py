"""A collection's parts as streams for its inspection: loaded, or from files however broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ranklens.data.collection import Collection
from ranklens.data.documents import query_places
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import Place, Report
from ranklens.data.findings import Findings
from ranklens.data.folder import REQUESTS, CollectionFiles, collection_files
from ranklens.data.inspection import Inspection, Sources, inspect
from ranklens.data.load import existing, load_collection
from ranklens.data.qrels import judgement_places
from ranklens.data.records import Document, Judgement, Query, ScoredDoc
from ranklens.data.requests import read_requests
from ranklens.data.runs import Run, RunLine, run_lines

_Record = TypeVar("_Record")


def validate(spec: str, runs: Sequence[Path], findings: Findings) -> tuple[str, Inspection]:
    """Return a collection's name and what is in it, with every problem noted in ``findings``.

    What cannot be read is noted and left out, whether a line, a file's end or a whole file.
    ``runs`` are run files, checked beside the collection's own. Raises as
    ``load_collection`` does where no collection can be made out at all, and, for ``irds:`` and
    ``sample:``, where theirs cannot be loaded; MissingResourceError for a run that is not there.
    """
    for path in runs:
        if not path.is_file():
            raise MissingResourceError(f"no such run file: {path}")
    if spec.startswith(("irds:", "sample:")):
        collection = load_collection(spec)
        return collection.name, inspect(_of_collection(collection, runs, findings), findings)
    files = collection_files(existing(spec))
    if files.relevance_level < 1:
        level = str(files.relevance_level)
        findings.add("error", "qrels", "relevance_level must be at least 1", level)
    return files.name, inspect(_of_files(files, runs, findings), findings)


def look_into(collection: Collection, findings: Findings) -> Inspection:
    """Return what is in a loaded collection; raises what reading its parts raises."""
    return inspect(_of_collection(collection, (), findings), findings)


def _of_collection(collection: Collection, runs: Sequence[Path], findings: Findings) -> Sources:
    own = {name: _run_records(collection.candidates(name)) for name in collection.candidate_runs}
    return Sources(
        documents=((None, document) for document in collection.documents),
        queries=((None, query) for query in collection.queries),
        judgements=(
            (
                (None, Judgement(query_id, doc_id, grade))
                for query_id, grades in collection.qrels.items()
                for doc_id, grade in grades.items()
            )
            if collection.qrels
            else None
        ),
        runs={**own, **_run_files(runs, findings)},
        relevance_level=collection.relevance_level,
    )


def _of_files(files: CollectionFiles, runs: Sequence[Path], findings: Findings) -> Sources:
    def documents(report: Report) -> Iterator[tuple[Place, Document]]:
        # What the source says of its files when it is made is noted too.
        return files.source().read(report)

    queries = partial(query_places, files.queries, files.queries_format)
    found = {name: partial(run_lines, path) for name, path in files.candidates.items()}
    if files.requests:
        queries = partial(_request_queries, files.queries)
        found[REQUESTS] = partial(_request_lines, files.queries)
    judgements = None if files.qrels is None else partial(judgement_places, files.qrels)
    return Sources(
        documents=_noted("documents", documents, findings),
        queries=_noted("queries", queries, findings),
        judgements=None if judgements is None else _noted("qrels", judgements, findings),
        runs={
            **{name: _noted(f"run {name}", read, findings) for name, read in found.items()},
            **_run_files(runs, findings),
        },
        relevance_level=files.relevance_level,
    )


def _run_files(
    paths: Sequence[Path], findings: Findings
) -> dict[str, Iterator[tuple[Place, RunLine]]]:
    return {str(p): _noted(f"run {p}", partial(run_lines, p), findings) for p in paths}


def _noted(
    part: str, read: Callable[[Report], Iterator[_Record]], findings: Findings
) -> Iterator[_Record]:
    """Yield what is read, and note what stops it."""
    try:
        yield from read(findings.reporter(part))
    except (InvalidInputError, MissingResourceError) as error:
        findings.add("error", part, "cannot be read", str(error))


def _request_queries(path: Path, report: Report) -> Iterator[tuple[Place, Query]]:
    # The same lines are the documents, and what is wrong with them is said there.
    return ((place, request.query) for place, request in read_requests(path, _silent))


def _request_lines(path: Path, report: Report) -> Iterator[tuple[Place, RunLine]]:
    for place, request in read_requests(path, _silent):
        for line in _lines(request.query.id, request.candidates):
            yield place, line


def _silent(error: InvalidInputError) -> None:
    pass


def _lines(query_id: str, docs: Iterable[ScoredDoc]) -> Iterator[RunLine]:
    for rank, doc in enumerate(docs, start=1):
        yield RunLine(query_id, doc.doc_id, rank, doc.score, REQUESTS)


def _run_records(run: Run) -> Iterator[tuple[None, RunLine]]:
    for query_id, docs in run.items():
        for line in _lines(query_id, docs):
            yield None, line
