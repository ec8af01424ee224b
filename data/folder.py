"""Collections in folders: a ``collection.toml`` that names the files, or BEIR's layout."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ranklens.data.collection import Collection, assemble
from ranklens.data.documents import FileDocuments, read_queries
from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import sha256
from ranklens.data.presets import Preset, find_folder_preset
from ranklens.data.qrels import read_qrels
from ranklens.data.runs import Run, read_run

_TOML = "collection.toml"
_KINDS = {str: "a string", int: "an integer", dict: "a table"}
_TOML_KEYS = {"name", "docs", "queries", "qrels", "split", "relevance_level", "candidates"}


def load_folder(folder: Path) -> Collection:
    """Load a folder with a ``collection.toml``, or a BEIR folder.

    BEIR: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``, each plain or ``.gz``;
    the test split, else dev, else train. Raises MissingResourceError for absent files,
    InvalidInputError naming file and line or key for what cannot be used.
    """
    if (folder / _TOML).is_file():
        return _from_toml(folder)
    if _beir_file(folder, "corpus.jsonl").is_file():
        return _from_beir(folder)
    raise MissingResourceError(
        f"the folder {str(folder)!r} holds neither {_TOML} nor corpus.jsonl[.gz]"
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
        candidate_runs={
            key: partial(read_run, folder / _setting(path, candidates, key, str))
            for key in candidates
        },
        relevance_level=_setting(path, settings, "relevance_level", int, default=1),
    )


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
        preset=partial(find_folder_preset, _beir_name(folder.resolve()), split),
    )


def _beir_name(folder: Path) -> str:
    # The twelve parts of CQADupStack lie in a folder of that name.
    parent = folder.parent.name
    return f"{parent}/{folder.name}" if parent == "cqadupstack" else folder.name


def _from_files(
    *,
    name: str,
    documents: Path,
    queries: Path,
    qrels: Path,
    candidate_runs: Mapping[str, Callable[[], Run]] | None = None,
    relevance_level: int = 1,
    preset: Callable[[int, int], Preset] | None = None,
) -> Collection:
    if not documents.is_file():
        raise MissingResourceError(f"no such file: {documents}")
    read = read_queries(queries)
    judgements = read_qrels(qrels)
    pairs = sum(map(len, judgements.values()))
    known = Preset(ids="", relevance_level=relevance_level)
    found = preset(len(judgements), pairs) if preset else known
    return assemble(
        name=name,
        documents=FileDocuments(documents),
        queries=read,
        qrels=judgements,
        candidate_runs=candidate_runs or {},
        relevance_level=found.relevance_level,
        remove_query=found.remove_query,
        notes=found.notes,
        sources={
            "queries": f"sha256:{sha256(queries)}",
            "qrels": f"sha256:{sha256(qrels)}",
        },
    )
