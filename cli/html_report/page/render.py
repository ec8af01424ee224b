"""The report's one HTML file: template, styles, scripts and the content as JSON.

Nothing of the content becomes markup. Tables are escaped; the JSON value cannot end its element,
as ``<``, ``>`` and ``&`` are written as escapes; scripts make elements and set their text. The
page's policy (a meta element, as the file is opened from a disk) lets it load nothing, and runs
the one script and the one style sheet whose hashes it names: Content Security Policy Level 3,
https://www.w3.org/TR/CSP3/.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ranklens.cli.html_report.page.tables import (
    agreement_tables,
    command_list,
    environment_table,
    measures_table,
    warning_list,
)
from ranklens.cli.html_report.page.text import escaped
from ranklens.cli.html_report.page.words import collection_line, summary

# In this order: a script uses those before it.
SCRIPTS = (
    "dom.js", "data.js", "plot.js", "choice.js", "winloss.js", "ceiling.js", "tokens.js",
    "rankings.js", "browser.js", "heads.js", "bias.js", "export.js", "main.js",
)  # fmt: skip
STYLES = ("document.css", "plots.css", "browser.css", "print.css")

_MARK = re.compile(r"\{\{(\w+)\}\}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPES = {
    "<": "\\u003c",
    ">": "\\u003e",
    "&": "\\u0026",
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}


def render(content: Mapping[str, Any]) -> str:
    """Return the page that shows ``content``, the value of ``Content.as_json``.

    The text has no lone surrogates, so that it can be written as UTF-8.
    """
    script = '(() => {\n"use strict";\n' + _joined("scripts", SCRIPTS) + "})();\n"
    style = _joined("styles", STYLES)
    parts = {
        "policy": _policy(script, style),
        "title": escaped(content["title"]),
        "style": style,
        "script": script,
        "data": json_for_html(content),
        "made_with": escaped(content["made_with"]),
        "collection": collection_line(content),
        "summary": summary(content),
        "measures": _section("measures", "Measures", measures_table(content)),
        "agreement": _section("agreement", "Judge agreement", agreement_tables(content)),
        "environment": _section("environment", "Environment", environment_table(content)),
        "warnings": _section("warnings", "Warnings", warning_list(content)),
        "commands": _section("commands", "Commands", command_list(content)),
    }
    # In one pass: what is put in may hold the marks of others.
    return _MARK.sub(lambda mark: parts[mark[1]], _file("report.html"))


def json_for_html(value: object) -> str:
    """Return JSON that can stand in a script element; what is not finite is null."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    text = _SURROGATE.sub("\ufffd", text)
    return re.sub("[<>&\u2028\u2029]", lambda found: _ESCAPES[found[0]], text)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _section(name: str, heading: str, body: str) -> str:
    return f'<section id="{name}"><h2>{heading}</h2>{body}</section>' if body else ""


def _policy(script: str, style: str) -> str:
    """Return the policy: nothing is loaded, sent or run but this script and this style."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _joined(folder: str, names: tuple[str, ...]) -> str:
    return "\n".join(_file(f"{folder}/{name}") for name in names)


def _file(name: str) -> str:
    # A parser of HTML reads CR LF as LF, which the hashes would not be of.
    text = files("ranklens.cli.html_report.page").joinpath(name).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")
