"""The folder of training lists: written whole or not at all, faults read with their place.

``lists`` says what its three files hold. A folder is made beside its place under another name and
renamed when it is complete; the manifest, written last, counts what is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import Place, read_json_lines, read_text, sha256, shown, write_json
from ranklens.data.pieces import without_surrogates
from ranklens.data.records import Document
from ranklens.rerank.training.lists import TrainingList, TrainingQuery

FORMAT = 1
DOCUMENTS, LISTS, MANIFEST = "documents.jsonl", "lists.jsonl", "manifest.json"
_COUNTED = ("documents", "lists", "queries")


def read_lists(folder: Path) -> list[TrainingList]:
    """Read the lists of a folder that ``write_lists`` made.

    Raises MissingResourceError where there is none, InvalidInputError naming file and line for
    what cannot be used, and for files that do not hold as much as the manifest counts.
    """
    manifest = read_manifest(folder)
    documents = _read_documents(folder / DOCUMENTS)
    lists = [_list(place, row, documents) for place, row in read_json_lines(folder / LISTS)]
    found = dict(zip(_COUNTED, _counts(len(documents), lists), strict=True))
    for name in _COUNTED:
        if manifest["counts"].get(name) != found[name]:
            raise InvalidInputError(
                f"{folder}: {found[name]} {name} where {MANIFEST} counts "
                f"{shown(manifest['counts'].get(name))}; a file is cut short or is another's"
            )
    return lists


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what lists were made from; raises as ``read_lists``."""
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingResourceError(
            f"no training lists in {str(folder)!r}: it has no {MANIFEST}; "
            "`ranklens train lists` makes such a folder"
        )
    try:
        manifest = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not JSON that can be read ({error})") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("counts"), dict):
        raise InvalidInputError(f"{path}: no manifest of training lists (it counts nothing)")
    if manifest.get("format") != FORMAT:
        raise InvalidInputError(
            f"{path}: the format is {shown(manifest.get('format'))}; this version reads {FORMAT}; "
            "make the lists again with `ranklens train lists`"
        )
    return manifest


def lists_digest(folder: Path) -> str:
    """Return ``sha256:`` and a hash of documents and lists: what a model can learn from.

    The manifest, which says how they came about, has no part in it.
    """
    read_manifest(folder)
    digest = hashlib.sha256()
    for name in (DOCUMENTS, LISTS):
        if not (folder / name).is_file():
            raise MissingResourceError(f"no such file: {folder / name}")
        digest.update(f"{name}\t{sha256(folder / name)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def joined_digest(folders: Sequence[Path]) -> str:
    """Return the ``lists_digest`` of a folder, or a hash of those of several, in their order."""
    each = [lists_digest(folder) for folder in folders]
    if len(each) == 1:
        return each[0]
    return f"sha256:{hashlib.sha256(chr(10).join(each).encode()).hexdigest()}"


def joined_manifest(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the manifest of a folder, or one of several: every collection once, counts added.

    ``parts`` are then the manifests themselves. A document that is in two folders counts twice, a
    folder that is given twice, so that its lists are visited as often, once.
    """
    known = {folder: read_manifest(folder) for folder in folders}
    each = [known[folder] for folder in folders]
    if len(each) == 1:
        return each[0]
    collections = [found for part in each for found in part.get("collections") or ()]
    once = {json.dumps(found, sort_keys=True): found for found in collections}
    counts = {name: sum(part["counts"][name] for part in known.values()) for name in _COUNTED}
    return {"counts": counts, "collections": list(once.values()), "parts": each}


def write_lists(
    folder: Path,
    lists: Iterable[TrainingList],
    manifest: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> dict[str, int]:
    """Write lists as they come, and return how many documents, lists and queries they have.

    ``manifest`` is what JSON can carry; ``format`` and ``counts`` are added. Lone surrogates of
    texts, which no file in UTF-8 can carry, become U+FFFD. Raises InvalidInputError for no list,
    for one id with two texts, and for a folder that has something in it, unless that is lists and
    they may be written over. Nothing is left behind when it fails.
    """
    check_new(folder, overwrite=overwrite)
    with _new_folder(folder) as made:
        known: dict[str, bytes] = {}
        written = queries = 0
        with _stream(made / DOCUMENTS) as documents_file, _stream(made / LISTS) as lists_file:
            for one in lists:
                for document in one.documents:
                    _add(document, known, documents_file)
                _line(lists_file, _list_row(one))
                written += 1
                queries += len(one.queries)
        if not written:
            raise InvalidInputError(f"there are no lists to write into {folder}")
        counts = dict(zip(_COUNTED, (len(known), written, queries), strict=True))
        write_json(made / MANIFEST, {**manifest, "format": FORMAT, "counts": counts})
    return counts


def check_new(folder: Path, *, overwrite: bool = False) -> None:
    """Raise InvalidInputError where ``write_lists`` would not write, before the work."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"cannot write {folder}: it is a file; give a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    names = {entry.name for entry in folder.iterdir()}
    ours = {DOCUMENTS, LISTS, MANIFEST}
    if not ours.issuperset(names) or MANIFEST not in names:
        stranger = min(names - ours, default=min(names))
        raise InvalidInputError(f"{folder} holds other files ({stranger}); give a new folder")
    if not overwrite:
        raise InvalidInputError(
            f"{folder} has training lists already; give another folder, or --overwrite"
        )


def _counts(documents: int, lists: list[TrainingList]) -> tuple[int, int, int]:
    return documents, len(lists), sum(len(one.queries) for one in lists)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside ``folder`` that takes its place when the block ends well."""
    folder = folder.absolute()
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    made, old = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("tmp", "old"))
    try:
        made.mkdir(parents=True)
    except OSError as error:
        raise InvalidInputError(f"cannot write {folder}: {error.strerror}") from None
    try:
        yield made
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    with contextlib.suppress(OSError):
        shutil.rmtree(old)


@contextmanager
def _stream(path: Path) -> Iterator[IO[str]]:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _line(stream: IO[str], row: Mapping[str, Any]) -> None:
    stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _add(document: Document, known: dict[str, bytes], stream: IO[str]) -> None:
    row = {
        "id": _id("document", document.id),
        "title": without_surrogates(document.title),
        "text": without_surrogates(document.text),
    }
    # The hash: all texts together may be large.
    content = hashlib.sha256(f"{row['title']}\0{row['text']}".encode()).digest()
    if document.id not in known:
        known[document.id] = content
        _line(stream, row)
    elif known[document.id] != content:
        raise InvalidInputError(
            f"document id {document.id!r} has two texts in these lists; give ids that tell "
            "documents apart"
        )


def _id(kind: str, value: str) -> str:
    if without_surrogates(value) != value:
        raise InvalidInputError(f"{kind} id {value!r} has lone surrogates; no file can carry it")
    return value


def _list_row(one: TrainingList) -> dict[str, Any]:
    ids = [document.id for document in one.documents]
    if len(set(ids)) < len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise InvalidInputError(f"document {twice!r} occurs twice in one training list")
    for query in one.queries:
        if not query.text.strip():
            raise InvalidInputError(f"query {query.id!r} has no text")
    return {
        "documents": ids,
        "queries": [
            {
                "id": _id("query", query.id),
                "text": without_surrogates(query.text),
                "grades": None if query.grades is None else list(query.grades),
                "teachers": {name: list(query.teachers[name]) for name in sorted(query.teachers)},
            }
            for query in one.queries
        ],
    }


def _read_documents(path: Path) -> dict[str, Document]:
    documents: dict[str, Document] = {}
    for place, row in read_json_lines(path):
        _only(place, row, ("id", "title", "text"))
        values = [row[key] for key in ("id", "text", "title")]
        if not all(isinstance(value, str) for value in values) or not row["id"]:
            raise place.error("id, title and text of a document must be text, the id not empty")
        if row["id"] in documents:
            raise place.error(f"document id {shown(row['id'])} occurs twice")
        documents[row["id"]] = Document(*values)
    return documents


def _list(place: Place, row: dict[str, Any], documents: Mapping[str, Document]) -> TrainingList:
    _only(place, row, ("documents", "queries"))
    ids, queries = row["documents"], row["queries"]
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise place.error("'documents' must be a list of ids")
    if len(set(ids)) < len(ids):
        raise place.error("'documents' has an id twice")
    for one in ids:
        if one not in documents:
            raise place.error(f"the document {shown(one)} is not in {DOCUMENTS}")
    if not isinstance(queries, list) or not queries or not ids:
        raise place.error("a training list needs documents and queries")
    return TrainingList(
        tuple(documents[one] for one in ids),
        tuple(_query(place, query, len(ids)) for query in queries),
    )


def _query(place: Place, row: object, documents: int) -> TrainingQuery:
    if not isinstance(row, dict):
        raise place.error(f"a query must be a JSON object, got {shown(row)}")
    _only(place, row, ("id", "text", "grades", "teachers"))
    name, text, grades, teachers = (row[key] for key in ("id", "text", "grades", "teachers"))
    if not isinstance(name, str) or not name or not isinstance(text, str) or not text.strip():
        raise place.error(f"query {shown(name)} needs an id and a text")
    where = f"of query {shown(name)}"
    if grades is not None:
        _full(place, grades, documents, f"grades {where}")
        for grade in grades:
            if grade is not None and type(grade) is not int:
                raise place.error(f"a grade {where} is {shown(grade)}; expected an int or null")
    if not isinstance(teachers, dict):
        raise place.error(f"teachers {where} must be a JSON object, got {shown(teachers)}")
    for teacher, scores in teachers.items():
        _full(place, scores, documents, f"scores by {shown(teacher)} {where}")
        for score in scores:
            if type(score) not in (int, float) or not _finite(score):
                raise place.error(f"a score by {shown(teacher)} {where} is {shown(score)}")
    return TrainingQuery(
        name,
        text,
        None if grades is None else tuple(grades),
        {teacher: tuple(map(float, scores)) for teacher, scores in teachers.items()},
    )


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer beyond the largest float.
        return False


def _full(place: Place, values: object, documents: int, what: str) -> None:
    if not isinstance(values, list) or len(values) != documents:
        found = len(values) if isinstance(values, list) else shown(values)
        raise place.error(f"{what}: {found} for {documents} documents")


def _only(place: Place, row: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if set(row) != set(keys):
        wrong = sorted(set(row) ^ set(keys))[0]
        state = "is missing" if wrong in keys else "is unknown"
        raise place.error(f"the field {shown(wrong)} {state}; the fields are {', '.join(keys)}")
