"""Collections by one name, whatever they are made of."""

from __future__ import annotations

from pathlib import Path

from ranklens.data.collection import Collection
from ranklens.data.errors import MissingResourceError
from ranklens.data.folder import collection_files

FORMS = (
    "a folder with a collection.toml, a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), "
    "a file of requests (.jsonl), "
    "irds:ID for an ir_datasets id, or sample:pydocs"
)


def load_collection(spec: str) -> Collection:
    """Load a collection by folder, request file, ``irds:ID`` or ``sample:NAME``.

    Raises MissingResourceError when nothing answers to ``spec``, InvalidInputError for files
    that cannot be used, MissingPrerequisiteError for ``irds:`` without its extra.
    """
    kind, colon, name = spec.partition(":")
    if colon and kind == "irds":
        from ranklens.data.irds import load_irds

        return load_irds(name)
    if colon and kind == "sample":
        from ranklens.data.sample import load_sample

        return load_sample(name)
    return collection_files(existing(spec)).load()


def existing(spec: str) -> Path:
    """Return a collection's folder or file; MissingResourceError, with the forms, if absent."""
    path = Path(spec).expanduser()
    if not path.exists():
        raise MissingResourceError(f"no collection {spec!r}: expected {FORMS}")
    return path
