"""Collections: documents, queries, judgements and candidates of one test set, by one name.

``load_collection`` understands

* a folder with a ``collection.toml`` that names its files,
* a BEIR folder (``corpus.jsonl``, ``queries.jsonl``, ``qrels/SPLIT.tsv``, plain or ``.gz``),
* an ir_datasets id: ``irds:beir/scifact/test``,
* the bundled sample: ``sample:pydocs``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ranklens.data.documents import DocumentSource, FileDocuments, read_queries
from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.data.files import sha256
from ranklens.data.qrels import Qrels, read_qrels
from ranklens.data.records import Query
from ranklens.data.runs import Run, read_run

_TOML = "collection.toml"
_TOML_KEYS = {"name", "docs", "queries", "qrels", "split", "relevance_level", "candidates"}
FORMS = (
    "a folder with a collection.toml, a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), "
    "irds:ID for an ir_datasets id, or sample:pydocs"
)


@dataclass(frozen=True)
class Collection:
    """One test set. Only what is small is held: documents stay a stream.

    ``relevance_level`` is the lowest grade that binary measures (AP, RR, P, R) count as
    relevant; ``notes`` are things the user should be told, such as queries left out.
    """

    name: str
    documents: DocumentSource
    queries: Sequence[Query]
    qrels: Qrels
    candidate_files: Mapping[str, Path] = field(default_factory=dict)
    relevance_level: int = 1
    notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    def candidates(self, name: str) -> Run:
        """Return a run that the collection brings along; MissingResourceError lists its names."""
        if name not in self.candidate_files:
            known = ", ".join(sorted(self.candidate_files)) or "none"
            raise MissingResourceError(
                f"collection {self.name!r} has no candidates named {name!r} (it has: {known}), "
                "and there is no such file"
            )
        return read_run(self.candidate_files[name])

    def fingerprint(self) -> dict[str, str]:
        """Return what identifies documents, queries and judgements: name of the part → checksum."""
        return {"documents": self.documents.fingerprint(), **self.sources}


def load_collection(spec: str) -> Collection:
    """Load a collection by the forms that the module names.

    Raises MissingResourceError when nothing answers to ``spec``, InvalidInputError for files
    that cannot be used, MissingPrerequisiteError for ``irds:`` without its extra.
    """
    if spec.startswith("irds:"):
        from ranklens.data.irds import load_irds

        return load_irds(spec.removeprefix("irds:"))
    if spec.startswith("sample:"):
        from ranklens.data.sample import load_sample

        return load_sample(spec.removeprefix("sample:"))
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        raise MissingResourceError(f"no collection {spec!r}: expected {FORMS}")
    if (folder / _TOML).is_file():
        return _from_toml(folder)
    if _beir_file(folder, "corpus.jsonl").is_file():
        return _from_beir(folder)
    raise MissingResourceError(
        f"the folder {spec!r} holds neither {_TOML} nor corpus.jsonl[.gz]: expected {FORMS}"
    )


def _from_toml(folder: Path) -> Collection:
    path = folder / _TOML
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: not valid TOML ({error})") from None
    unknown = sorted(set(settings) - _TOML_KEYS)
    if unknown:
        raise InvalidInputError(
            f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(_TOML_KEYS))}"
        )
    candidates = _setting(path, settings, "candidates", dict, default={})
    name = _setting(path, settings, "name", str, default=folder.resolve().name)
    split = _setting(path, settings, "split", str, default="")
    return _from_files(
        name=f"{name}/{split}" if split else name,
        documents=folder / _setting(path, settings, "docs", str),
        queries=folder / _setting(path, settings, "queries", str),
        qrels=folder / _setting(path, settings, "qrels", str),
        candidate_files={
            key: folder / _setting(path, candidates, key, str) for key in candidates
        },
        relevance_level=_setting(path, settings, "relevance_level", int, default=1),
    )


def _setting(
    path: Path, settings: Mapping[str, Any], key: str, kind: type, default: Any = None
) -> Any:
    value = settings.get(key, default)
    if value is None:
        raise InvalidInputError(f"{path}: the key {key!r} is missing")
    if not isinstance(value, kind):
        raise InvalidInputError(f"{path}: {key!r} must be a {kind.__name__}, got {value!r}")
    return value


def _beir_file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def _from_beir(folder: Path) -> Collection:
    # BEIR's convention: the test split is the one that is reported.
    for split in ("test", "dev", "train"):
        qrels = _beir_file(folder, f"qrels/{split}.tsv")
        if qrels.is_file():
            break
    else:
        raise MissingResourceError(f"{folder / 'qrels'}: no test.tsv, dev.tsv or train.tsv")
    return _from_files(
        name=f"{folder.resolve().name}/{split}",
        documents=_beir_file(folder, "corpus.jsonl"),
        queries=_beir_file(folder, "queries.jsonl"),
        qrels=qrels,
    )


def _from_files(
    *,
    name: str,
    documents: Path,
    queries: Path,
    qrels: Path,
    candidate_files: Mapping[str, Path] | None = None,
    relevance_level: int = 1,
) -> Collection:
    if not documents.is_file():
        raise MissingResourceError(f"no such file: {documents}")
    return assemble(
        name=name,
        documents=FileDocuments(documents),
        queries=read_queries(queries),
        qrels=read_qrels(qrels),
        candidate_files=candidate_files or {},
        relevance_level=relevance_level,
        sources={
            "queries": f"sha256:{sha256(queries)}",
            "qrels": f"sha256:{sha256(qrels)}",
        },
    )


def assemble(
    *,
    name: str,
    documents: DocumentSource,
    queries: Sequence[Query],
    qrels: Qrels,
    candidate_files: Mapping[str, Path] | None = None,
    relevance_level: int = 1,
    notes: tuple[str, ...] = (),
    sources: Mapping[str, str] | None = None,
) -> Collection:
    """Make a Collection of the queries that are judged, and note the ones that are not.

    Raises InvalidInputError when no query is judged at all.
    """
    if relevance_level < 1:
        raise UsageError(f"relevance_level must be at least 1, got {relevance_level}")
    judged = [query for query in queries if query.id in qrels]
    if not judged:
        raise InvalidInputError(
            f"collection {name!r}: no query id of the qrels (first: {next(iter(qrels))!r}) "
            f"is among the queries (first: {queries[0].id if queries else None!r})"
        )
    if len(judged) < len(queries):
        notes += (f"{len(queries) - len(judged)} queries without judgements are left out",)
    known = {query.id for query in queries}
    textless = [query_id for query_id in qrels if query_id not in known]
    if textless:
        notes += (
            f"{len(textless)} judged queries have no text (first: {textless[0]!r}) "
            "and are left out",
        )
        qrels = qrels.restricted_to(query.id for query in judged)
    return Collection(
        name=name,
        documents=documents,
        queries=judged,
        qrels=qrels,
        candidate_files=candidate_files or {},
        relevance_level=relevance_level,
        notes=notes,
        sources=sources or {},
    )
