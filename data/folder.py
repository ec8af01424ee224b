"""Collections in files: a ``collection.toml`` that names them, BEIR's layout, or requests."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ranklens.data.collection import Collection, assemble
from ranklens.data.documents import FileDocuments, read_queries
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import read_text, sha256
from ranklens.data.presets import Preset, find_folder_preset
from ranklens.data.qrels import read_qrels
from ranklens.data.requests import RequestDocuments, request_queries, request_run
from ranklens.data.rows import FORMATS
from ranklens.data.runs import read_run

_TOML = "collection.toml"
_KINDS = {str: "a string", int: "an integer", dict: "a table"}
_TOML_KEYS = {
    "name", "docs", "docs_format", "queries", "queries_format", "requests", "qrels", "split",
    "relevance_level", "candidates",
}  # fmt: skip
REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class CollectionFiles:
    """The files of one collection, not yet read.

    ``documents`` may be a folder. A request file is both documents and queries, and a candidate
    run named ``requests``. Without ``qrels`` nothing is judged.
    """

    name: str
    documents: Path
    queries: Path
    qrels: Path | None = None
    documents_format: str | None = None
    queries_format: str | None = None
    requests: bool = False
    candidates: Mapping[str, Path] = field(default_factory=dict)
    relevance_level: int = 1
    preset: Callable[[int, int], Preset] | None = None
    """What is known of the set, by its numbers of judged queries and of judgements."""

    def source(self) -> FileDocuments | RequestDocuments:
        """Return the documents, not yet read; raises where there is no file, or of no format."""
        if self.requests:
            return RequestDocuments(self.documents)
        return FileDocuments(self.documents, self.documents_format)

    def load(self) -> Collection:
        """Read queries and judgements; raises as their readers and ``assemble`` do."""
        documents = self.source()
        runs = {name: partial(read_run, path) for name, path in self.candidates.items()}
        if self.requests:
            queries = request_queries(self.queries)
            runs[REQUESTS] = partial(request_run, self.queries)
        else:
            queries = read_queries(self.queries, self.queries_format)
        sources = {"queries": f"sha256:{sha256(self.queries)}"}
        known = Preset(ids="", relevance_level=self.relevance_level)
        if self.qrels is not None:
            judged = read_qrels(self.qrels)
            if self.preset is not None:
                known = self.preset(len(judged), sum(map(len, judged.values())))
            sources["qrels"] = f"sha256:{sha256(self.qrels)}"
        return assemble(
            name=self.name,
            documents=documents,
            queries=queries,
            qrels=None if self.qrels is None else judged,
            candidate_runs=runs,
            relevance_level=known.relevance_level,
            remove_query=known.remove_query,
            notes=known.notes,
            sources=sources,
        )


def collection_files(path: Path) -> CollectionFiles:
    """Return the files of a folder with a ``collection.toml``, of a BEIR folder, or of requests.

    BEIR: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``, each plain or ``.gz``;
    the test split, else dev, else train; without a folder ``qrels`` nothing is judged. A file is
    one of requests (``.jsonl``). Raises MissingResourceError for absent files,
    InvalidInputError naming the key for what cannot be used.
    """
    if path.is_file():
        return _from_requests(path)
    if (path / _TOML).is_file():
        return _from_toml(path)
    if _beir_file(path, "corpus.jsonl").is_file():
        return _from_beir(path)
    raise MissingResourceError(
        f"the folder {str(path)!r} holds neither {_TOML} nor corpus.jsonl[.gz]"
    )


def _from_requests(path: Path) -> CollectionFiles:
    stem = path.name.removesuffix(".gz")
    if not stem.endswith(".jsonl"):
        raise InvalidInputError(
            f"{path} is no collection: of files, only requests in JSONL (.jsonl, .jsonl.gz) are "
            "one; else give a folder"
        )
    name = stem.removesuffix(".jsonl")
    return CollectionFiles(name=name, documents=path, queries=path, requests=True)


def _from_toml(folder: Path) -> CollectionFiles:
    path = folder / _TOML
    text = read_text(path)
    try:
        settings = tomllib.loads(text)
    except RecursionError:
        raise InvalidInputError(f"{path}: not valid TOML (it is nested too deep)") from None
    except ValueError as error:
        # Not TOML, or an integer of thousands of digits.
        raise InvalidInputError(f"{path}: not valid TOML ({error})") from None
    unknown = sorted(set(settings) - _TOML_KEYS)
    if unknown:
        raise InvalidInputError(
            f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(_TOML_KEYS))}"
        )
    requests = REQUESTS in settings
    excluded = sorted({"docs", "docs_format", "queries", "queries_format"} & set(settings))
    if requests and excluded:
        raise InvalidInputError(
            f"{path}: 'requests' holds documents and queries; leave out {excluded[0]!r}"
        )
    candidates = _setting(path, settings, "candidates", dict, default={})
    if requests and REQUESTS in candidates:
        raise InvalidInputError(f"{path}: the candidates 'requests' are those of the requests")
    name = _setting(path, settings, "name", str, default=folder.resolve().name)
    split = _setting(path, settings, "split", str, default="")
    qrels = _setting(path, settings, "qrels", str, default="")
    return CollectionFiles(
        name=f"{name}/{split}" if split else name,
        documents=folder / _setting(path, settings, REQUESTS if requests else "docs", str),
        queries=folder / _setting(path, settings, REQUESTS if requests else "queries", str),
        qrels=folder / qrels if qrels else None,
        documents_format=_format(path, settings, "docs_format"),
        queries_format=_format(path, settings, "queries_format"),
        requests=requests,
        candidates={key: folder / _setting(path, candidates, key, str) for key in candidates},
        relevance_level=_setting(path, settings, "relevance_level", int, default=1),
    )


def _format(path: Path, settings: Mapping[str, Any], key: str) -> str | None:
    value: str = _setting(path, settings, key, str, default="")
    if value and value not in FORMATS:
        raise InvalidInputError(f"{path}: {key!r} is {value!r}; choose {', '.join(FORMATS)}")
    return value or None


def _setting(
    path: Path, settings: Mapping[str, Any], key: str, kind: type, default: Any = None
) -> Any:
    value = settings.get(key, default)
    if value is None:
        raise InvalidInputError(f"{path}: the key {key!r} is missing")
    # A bool is an int to Python, not to TOML.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidInputError(f"{path}: {key!r} must be {_KINDS[kind]}, got {value!r}")
    return value


def _beir_file(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def _from_beir(folder: Path) -> CollectionFiles:
    name, qrels, preset = folder.resolve().name, None, None
    if (folder / "qrels").is_dir():
        # BEIR's convention: the test split is the one that is reported.
        for split in ("test", "dev", "train"):
            qrels = _beir_file(folder, f"qrels/{split}.tsv")
            if qrels.is_file():
                name = f"{name}/{split}"
                preset = partial(find_folder_preset, _beir_name(folder.resolve()), split)
                break
        else:
            raise MissingResourceError(f"{folder / 'qrels'}: no test.tsv, dev.tsv or train.tsv")
    return CollectionFiles(
        name=name,
        documents=_beir_file(folder, "corpus.jsonl"),
        queries=_beir_file(folder, "queries.jsonl"),
        qrels=qrels,
        preset=preset,
    )


def _beir_name(folder: Path) -> str:
    # The twelve parts of CQADupStack lie in a folder of that name.
    parent = folder.parent.name
    return f"{parent}/{folder.name}" if parent == "cqadupstack" else folder.name
