"""TREC's tagged text: documents (``<DOC>``) and topics (``<top>``), read as a stream.

The files are SGML in name only: tags may lack their end, and texts hold any tag. So only the tags
that carry the structure are looked at; others are dropped from texts. A tag begins and ends on
one line. Memory holds one document at a time, and time is linear in the file.
"""

from __future__ import annotations

import contextlib
import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import Place, Report, read_lines, refuse, shown

# A letter behind the bracket: "a < b" is text. No match crosses a bracket, so a line of a million
# of them stays linear.
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9_-]*)(?![^\s/>])[^<>]*>|<[!?][^<>]*>")
_TITLES = ("title", "headline")
# WT and GOV documents: what the crawler noted, not the page.
_DOCUMENT_FIELDS = ("docno", *_TITLES, "text", "dochdr")
_TOPIC_FIELDS = ("num", "title", "desc", "narr", "head", "dom", "smry", "con", "fac", "def")
_LABEL = re.compile(r"\s*(?:Number|Topic|Title)\s*:", re.IGNORECASE)

_Fields = dict[str, list[str]]


def read_trec_documents(
    path: Path, report: Report = refuse
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield ``id``, ``title`` and ``text`` of every ``<DOC>``, with the line it begins on.

    The title is ``<TITLE>`` or else ``<HEADLINE>``; the text is what stands in ``<TEXT>``, and in
    a document without one whatever is neither id, title nor ``<DOCHDR>``. Entities are decoded.
    Reports InvalidInputError that names the line for a document without ``<DOCNO>``, one that
    is never closed, and one inside another.
    """
    for place, fields in _records(path, "doc", _DOCUMENT_FIELDS, report):
        identifier = _text(fields, "docno")
        if not identifier or "\n" in identifier:
            number = f"more than one <DOCNO>: {shown(identifier)}" if identifier else "no <DOCNO>"
            report(place.error(f"the document that begins here has {number}"))
            continue
        title = next((text for tag in _TITLES if (text := _text(fields, tag))), "")
        yield (
            place,
            {
                "id": identifier,
                "title": " ".join(title.split()),
                "text": _text(fields, "text" if "text" in fields else ""),
            },
        )


def read_trec_topics(
    path: Path, report: Report = refuse
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Yield ``id`` and ``text`` of every ``<top>``: its number as it is written, and its title.

    Fields need no end tag, and may begin with ``Number:`` or ``Topic:``. Reports
    InvalidInputError that names the line for a topic without number or title, one that is
    never closed, and one inside another.
    """
    for place, fields in _records(path, "top", _TOPIC_FIELDS, report):
        found = {tag: _LABEL.sub("", _text(fields, tag), count=1).strip() for tag in fields}
        lacking = next((tag for tag in ("num", "title") if not found.get(tag)), None)
        if lacking is not None:
            report(place.error(f"the topic that begins here has no <{lacking}>"))
            continue
        yield place, {"id": found["num"], "text": " ".join(found["title"].split())}


def _text(fields: _Fields, tag: str) -> str:
    text = "".join(fields.get(tag, ()))
    # Entities last: what they stand for is text, never a tag.
    with contextlib.suppress(ValueError):
        # A number of thousands of digits is no character.
        text = html.unescape(text)
    return text.strip()


def _records(
    path: Path, record: str, known: tuple[str, ...], report: Report
) -> Iterator[tuple[Place, _Fields]]:
    """Yield each record's fields, by tag in lower case; "" is what stands outside all of them."""
    name = record if record == "top" else record.upper()
    start: Place | None = None
    fields: _Fields = {}
    field = ""
    empty = True
    for place, line in read_lines(path, report):
        for closing, tag, text in _pieces(line):
            if tag == record and not closing:
                if start is not None:
                    report(_unclosed(start, name, f"another begins on line {place.line}"))
                start, fields, field, empty = place, {}, "", False
            elif start is None:
                if tag == record:
                    report(place.error(f"</{name}> without a <{name}> before it"))
            elif tag == record:
                yield start, fields
                start = None
            elif tag in known:
                if closing and tag == field:
                    field = ""
                # In a text, tags that bear the name of another field are the text's own.
                elif not closing and field != "text":
                    field = tag
                    fields.setdefault(tag, []).append("\n")
                else:
                    fields.setdefault(field, []).append(text)
            else:
                fields.setdefault(field, []).append(text)
    if start is not None:
        report(_unclosed(start, name, "the file ends"))
    elif empty:
        report(InvalidInputError(f"{path}: no <{name}> in the file; is it TREC text?"))


def _unclosed(start: Place, name: str, why: str) -> InvalidInputError:
    return start.error(f"the <{name}> that begins here is never closed: {why}")


def _pieces(line: str) -> Iterator[tuple[bool, str, str]]:
    """Yield ``(closing, tag, " ")`` for tags and ``(False, "", text)`` for what is between them.

    Tags are in lower case. The space is what a tag leaves in a text.
    """
    end = 0
    for match in _TAG.finditer(line):
        yield False, "", line[end : match.start()]
        end = match.end()
        yield bool(match[1]), (match[2] or "").lower(), " "
    yield False, "", f"{line[end:]}\n"
