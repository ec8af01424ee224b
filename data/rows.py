"""Rows of fields from the file formats that carry documents and queries.

    JSONL    .jsonl .ndjson .json      an object a line
    TSV      .tsv .txt                 id<TAB>text
    TREC     .trec .trectext .sgml .sgm    <DOC> … </DOC>, <top> … </top>
    Parquet  .parquet                  columns with the names of JSONL's fields

All but Parquet also as ``.gz``. The name's suffix says which it is, unless the caller does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import Place, Report, read_json_lines, read_lines, refuse, shown
from ranklens.data.trec import read_trec_documents, read_trec_topics

Rows = Iterator[tuple[Place, Mapping[str, Any]]]

_SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "tsv": (".tsv", ".txt"),
    "trec": (".trec", ".trectext", ".sgml", ".sgm"),
    "parquet": (".parquet",),
}
FORMATS = tuple(_SUFFIXES)
# An id is never empty, a text may be.
_MAY_BE_EMPTY = ("text", "contents", "title", "query")


def file_format(path: Path, part: str) -> str:
    """Return one of FORMATS by a file's name, with or without ``.gz``.

    Raises InvalidInputError for another suffix, with those that are read; ``part`` is what the
    file holds (docs, queries).
    """
    name = path.name.removesuffix(".gz").lower()
    for form, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes):
            return form
    suffix = Path(name).suffix
    known = "; ".join(f"{' '.join(suffixes)} ({form})" for form, suffixes in _SUFFIXES.items())
    raise InvalidInputError(
        f"{path}: {f'the suffix {suffix!r}' if suffix else 'a name without a suffix'} does not say "
        f"how to read it; known are {known}; or name the format in a collection.toml: "
        f'{part}_format = "trec"'
    )


def document_rows(path: Path, form: str, report: Report = refuse) -> Rows:
    """Yield the rows of a documents file; InvalidInputError names the line."""
    return _read(path, form, read_trec_documents, report)


def query_rows(path: Path, form: str, report: Report = refuse) -> Rows:
    """Yield the rows of a queries file; InvalidInputError names the line."""
    return _read(path, form, read_trec_topics, report)


def _read(path: Path, form: str, trec: Callable[[Path, Report], Rows], report: Report) -> Rows:
    if form == "trec":
        return trec(path, report)
    if form == "tsv":
        return _read_tsv(path, report)
    if form == "parquet":
        return read_parquet(path, report)
    return read_json_lines(path, report)


def _read_tsv(path: Path, report: Report) -> Rows:
    for place, line in read_lines(path, report):
        identifier, tab, text = line.partition("\t")
        if tab and identifier.strip():
            yield place, {"id": identifier.strip(), "text": text}
        else:
            report(place.error(f"expected id<TAB>text, got {shown(line)}"))


def read_parquet(path: Path, report: Report = refuse) -> Rows:
    """Yield the rows of a Parquet file, one row group after the other.

    Nested columns and times are left out. Raises MissingPrerequisiteError without the extra and
    MissingResourceError without the file; reports InvalidInputError for a file that is no
    Parquet, or not to its end.
    """
    from importlib import import_module

    from ranklens.data.extras import require

    if not path.is_file():
        raise MissingResourceError(f"no such file: {path}")
    require("parquet", "pyarrow")
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            # Vectors beside the texts can be larger than those, and times beyond what Python has.
            kinds = arrow.types
            plain = [
                column.name
                for column in table.schema_arrow
                if not kinds.is_nested(column.type) and not kinds.is_temporal(column.type)
            ]
            for batch in table.iter_batches(batch_size=1024, columns=plain):
                for row in batch.to_pylist():
                    number += 1
                    yield Place(path, number, "row"), row
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().partition("\n")[0]
        report(Place(path, number + 1, "row").error(f"not a sound Parquet file ({reason})"))


def text_field(
    place: Place, record: Mapping[str, Any], keys: tuple[str, ...], default: str | None = None
) -> str:
    """Return the first of these fields that a row has, as text.

    Integers are accepted (MS MARCO ids are often written bare). Raises InvalidInputError that
    names file and line when none is there or the value is something else.
    """
    for key in keys:
        if record.get(key) is not None:
            value = record[key]
            if isinstance(value, int) and not isinstance(value, bool):
                value = str(value)
            if not isinstance(value, str):
                raise place.error(f"the field {key!r} must be text, got {shown(value)}")
            if not value.strip() and key not in _MAY_BE_EMPTY:
                raise place.error(f"the field {key!r} is empty")
            return value
    if default is None:
        found = sorted(key for key, value in record.items() if value is not None)
        raise place.error(f"no field {' or '.join(map(repr, keys))}; found {found}")
    return default
