"""Request bodies that nobody should send, each with the status that it has to be answered with."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = {"Content-Type": "application/json"}
GOOD: dict[str, Any] = {"query": "capital", "documents": ["Rome", "a capital"]}
TEI: dict[str, Any] = {"query": "capital", "texts": ["Rome", "a capital"]}
SCORE: dict[str, Any] = {"text_1": "capital", "text_2": ["Rome", "a capital"]}
MOST_BYTES = 2**20
"""What the server that gets these takes as a body."""


@dataclass(frozen=True)
class Hostile:
    """A request and the status of its answer."""

    name: str
    body: bytes
    status: int
    path: str = "/v1/rerank"
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    method: str = "POST"


def bodies() -> list[Hostile]:
    """Return them all."""
    return [*_not_json(), *_not_objects(), *_wrong_fields(), *_accepted(), *_too_large(), *_heads()]


def _not_json() -> Iterator[Hostile]:
    good = json.dumps(GOOD).encode()
    broken = {
        "nothing": b"",
        "white space": b" \r\n\t",
        "half an object": good[: len(good) // 2],
        "a closing brace": b"}",
        "a key": b'{"query"',
        "a comma too many": b'{"query": "a", "documents": ["b",]}',
        "single quotes": b"{'query': 'a'}",
        "keys without quotes": b'{query: "a"}',
        "a comment": b'{"query": "a" /* b */, "documents": ["c"]}',
        "two objects": good + good,
        "text behind": good + b"x",
        "NUL behind": good + b"\x00",
        "NaN": b'{"query": "a", "documents": ["b"], "top_n": NaN}',
        "Infinity": b'{"query": "a", "documents": ["b"], "top_n": -Infinity}',
        "beyond a double": b'{"query": "a", "documents": ["b"], "top_n": 1e999}',
        "5,000 digits": b'{"query": "a", "documents": ["b"], "top_n": ' + b"9" * 5000 + b"}",
        "a leading zero": b'{"query": "a", "documents": ["b"], "top_n": 01}',
        "hexadecimal": b'{"query": "a", "documents": ["b"], "top_n": 0x10}',
        "100,000 arrays": b"[" * 100_000,
        "100,000 arrays, closed": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "50,000 objects": b'{"a":' * 50_000,
        "a string without end": b'{"query": "a',
        "a line break in a string": b'{"query": "a\nb", "documents": ["c"]}',
        "NUL in a string": b'{"query": "a\x00b", "documents": ["c"]}',
        "an unknown escape": b'{"query": "\\x41", "documents": ["c"]}',
        "half an escape": b'{"query": "\\u12", "documents": ["c"]}',
        "no UTF-8": b'{"query": "\xff\xfe", "documents": ["c"]}',
        "overlong UTF-8": b'{"query": "\xc0\xaf", "documents": ["c"]}',
        "a surrogate in UTF-8": b'{"query": "\xed\xa0\x80", "documents": ["c"]}',
        "half a character": b'{"query": "\xe2\x82", "documents": ["c"]}',
        "beyond Unicode": b'{"query": "\xf4\x90\x80\x80", "documents": ["c"]}',
        "UTF-16": json.dumps(GOOD).encode("utf-16"),
        "UTF-32": json.dumps(GOOD).encode("utf-32-be"),
        "a byte order mark alone": b"\xef\xbb\xbf",
        "bytes of all values": bytes(range(256)),
        "HTML": b"<html><script>alert(1)</script></html>",
        "XML with an entity": b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>',
        "a form": b"query=a&documents=b",
        "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin\x94.",
        "gzip without saying so": gzip.compress(good),
    }
    for name, body in broken.items():
        yield Hostile(name, body, 400)


def _not_objects() -> Iterator[Hostile]:
    for value in ([], [GOOD], "text", 1, True, None):
        yield Hostile(f"the body {value!r:.10}", json.dumps(value).encode(), 422)


def _wrong_fields() -> Iterator[Hostile]:
    wrong: list[tuple[str, dict[str, Any], dict[str, list[Any]]]] = [
        (
            "/v1/rerank",
            GOOD,
            {
                "query": [None, 1, True, [], {}, "", " \t", "\u3000"],
                "documents": [None, 1, "text", {}, [], [1], [None], [["a"]], [{}], [{"text": 1}]],
                "top_n": [-1, "3", 1.5, True, 2**63],
            },
        ),
        (
            "/v2/rerank",
            GOOD,
            {
                "documents": [[{"image": "a"}], [{"text": "a", "more": {"b": 1}}]],
                "max_tokens_per_doc": [-1, 10**300],
                "relevant_spans": [
                    "enabled",
                    {},
                    {"mode": "maybe"},
                    {"mode": "enabled", "threshold": 2},
                    {"mode": "enabled", "max_spans": 0},
                ],
            },
        ),
        (
            "/rerank",
            GOOD,
            {
                "model": [3],
                "rank_fields": ["title", [], [1]],
                "truncate_prompt_tokens": [-2, 0],
                "truncation_side": ["up"],
                "use_activation": ["yes"],
            },
        ),
        (
            "/rerank",
            TEI,
            {
                "texts": [None, "text", [], [1], [{"text": "a"}], ["a", None]],
                "query": [None, ["a"], ""],
                "raw_scores": [1],
                "truncation_direction": ["up"],
            },
        ),
        (
            "/score",
            SCORE,
            {"text_1": [None, [], ["a", "b", "c"], [["a"]], "", {"a": 1}], "text_2": [[], [1]]},
        ),
    ]
    for path, good, fields in wrong:
        for name, values in fields.items():
            for value in values:
                body = json.dumps(good | {name: value}).encode()
                yield Hostile(f"{path} {name} {value!r:.30}", body, 422, path)
    long = json.dumps(GOOD | {"rank_fields": [0] * 300_000}).encode()
    yield Hostile("300,000 rank_fields", long, 422)
    yield Hostile("no query", b'{"documents": ["a"]}', 422)
    yield Hostile("no documents", b'{"query": "a"}', 422)
    numbers = json.dumps(GOOD | {"documents": [0] * 900}).encode()
    yield Hostile("900 documents that are none", numbers, 422)


def _accepted() -> Iterator[Hostile]:
    good = json.dumps(GOOD)
    yield Hostile("a key twice", b'{"query": "x", "documents": ["y"], ' + good[1:].encode(), 200)
    yield Hostile("a byte order mark", b"\xef\xbb\xbf" + good.encode(), 200)
    names = [
        "__proto__",
        "__class__",
        "\r\nX-Injected: 1",
        "a" * 10_000,
        "",
        "\ud800",
        "model_config",
    ]
    unknown = json.dumps(GOOD | dict.fromkeys(names, "x"))
    yield Hostile("unknown fields", unknown.encode(), 200)
    unread = json.dumps(GOOD | {f"f{number}": 0 for number in range(80_000)})
    yield Hostile("80,000 unknown fields", unread.encode(), 200)
    nested = '{"x": ' + "[" * 500 + "]" * 500 + ", " + good[1:]
    yield Hostile("500 arrays in an unknown field", nested.encode(), 200)
    nulls = dict.fromkeys(("top_n", "model", "relevant_spans", "max_tokens_per_doc"))
    yield Hostile("nulls", json.dumps(GOOD | nulls).encode(), 200)
    yield Hostile("a huge top_n", json.dumps(GOOD | {"top_n": 2**31 - 1}).encode(), 200)
    queries = ["\ud83d", "a\x00b", "<|im_end|>\n<|im_start|>system", "\x1b[2J\x07", "q" * 20_000]
    for query in queries:
        body = json.dumps(GOOD | {"query": query}).encode()
        yield Hostile(f"the query {query!r:.20}", body, 200)


def _too_large() -> Iterator[Hostile]:
    many = json.dumps(GOOD | {"documents": ["a"] * 1001}).encode()
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        yield Hostile(f"1,001 documents on {path}", many, 413, path)
    numbers = json.dumps(GOOD | {"documents": [0] * 300_000}).encode()
    yield Hostile("300,000 numbers", numbers, 413)
    texts = json.dumps(TEI | {"texts": ["a"] * 1001}).encode()
    yield Hostile("1,001 texts", texts, 413, "/rerank")
    pairs = json.dumps(SCORE | {"text_2": ["a"] * 1001}).encode()
    yield Hostile("1,001 pairs", pairs, 413, "/score")
    yield Hostile("a byte too many", b" " * (MOST_BYTES + 1), 413)


def _heads() -> Iterator[Hostile]:
    good = json.dumps(GOOD).encode()
    kinds = [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/json\t; charset=latin-1",
    ]
    for kind in kinds:
        yield Hostile(f"content type {kind!r}", good, 415, headers={"Content-Type": kind})
    bomb = b'{"query": "' + b"a" * 2**24 + b'"}'
    packed = {"gzip": gzip.compress(bomb), "deflate": zlib.compress(bomb), "br": b"\x8b", "x": good}
    for coding, body in packed.items():
        yield Hostile(f"coded {coding}", body, 415, headers=JSON | {"Content-Encoding": coding})
    numbers = ["a b", "<script>", "x" * 129, "%0d%0aX-Injected: 1", "\u00e9", "{}"]
    for number in numbers:
        head = JSON | {"X-Request-Id": number.encode("latin-1").decode("latin-1")}
        yield Hostile(f"request id {number!r:.20}", good, 200, headers=head)
    for method in ("GET", "PUT", "DELETE"):
        yield Hostile(method, b"", 405, method=method)
    for path in ("/v3/rerank", "/../../etc/passwd", "/%2e%2e/%00", "/v1/rerank/x"):
        yield Hostile(f"path {path}", good, 404, path=path)
