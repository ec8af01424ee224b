"""The examples of docs/server.md: each request is sent, and its answer has the printed shape."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.dialect_servers import served, tiny_reranker

from ranklens.rerank.profile_file import load_profile

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "server.md").read_text("utf-8")


def examples() -> list[tuple[list[str], Any]]:
    """Return each curl command of the page, in words, with the JSON printed below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for command, printed in re.findall(
            r"^\$ (curl .*?}')\n(.*?)(?=^\$ |\Z)", block, re.DOTALL | re.MULTILINE
        ):
            found.append((shlex.split(command), json.loads(printed)))
    return found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(lambda: tiny_reranker(load_profile("icr-block")), model="tiny") as address:
        yield address


def shape(value: object) -> object:
    """Return a value's keys and kinds; lists of alike values by their first."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0]), len(value)] if value else []
    return type(value).__name__


def without_spans(answer: Any) -> Any:
    """Return an answer without what depends on the model: how many spans a document has."""
    if isinstance(answer, dict):
        for result in answer.get("results", ()):
            result.pop("relevant_spans", None)
    return answer


def test_the_page_has_an_example_for_each_dialect() -> None:
    paths = [urlsplit(words[2]).path for words, _ in examples()]
    assert {"/v2/rerank", "/v1/rerank", "/rerank", "/score"} <= set(paths)
    assert len(examples()) == PAGE.count("$ curl") == 7


@pytest.mark.parametrize(("words", "printed"), examples())
def test_examples_are_answered_in_the_printed_shape(
    url: str, words: list[str], printed: Any
) -> None:
    curl, silent, address, _, header, _, body = words
    assert (curl, silent) == ("curl", "-s")
    name, value = header.split(": ")
    answer = httpx.post(
        url + urlsplit(address).path, content=body.encode(), headers={name: value}
    ).json()
    if "relevant_spans" in body:
        assert all(result["relevant_spans"] for result in printed["results"])
    assert shape(without_spans(answer)) == shape(without_spans(printed))


def test_every_metric_is_on_the_page(url: str) -> None:
    metrics = httpx.get(f"{url}/metrics").text
    names = set(re.findall(r"^# TYPE (ranklens_\w+) ", metrics, re.MULTILINE))
    # What the client library adds to each counter and histogram: when it was made.
    ours = {name for name in names if not name.endswith("_created")}
    assert len(ours) > 8
    assert {name for name in ours if name not in PAGE} == set()


def test_openapi_describes_every_path_and_refers_to_nothing_that_is_not_there(url: str) -> None:
    description = httpx.get(f"{url}/openapi.json").json()
    for path in ("/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score"):
        operation = description["paths"][path]["post"]
        asked = operation["requestBody"]["content"]["application/json"]["schema"]
        answered = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert shape(asked) != shape(answered) != {}
    assert "$defs" not in json.dumps(description)


def test_python_examples_are_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        compile(block, "docs/server.md", "exec")
