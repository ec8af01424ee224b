"""The documentation as web pages: complete, without broken links, readable without a network."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import ranklens

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
NEEDS = ROOT / "docs" / "needs.md"
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The anchors and links of a page, and what a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        # A canonical or neighbouring page is named, not fetched.
        fetched = tag != "link" or given.get("rel") in ("stylesheet", "icon", "preconnect")
        if fetched and given.get(LOADED.get(tag, "")):
            self.fetched.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages; ``--strict`` makes an error of every warning."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def test_every_public_name_has_an_entry(pages: dict[str, Page]) -> None:
    described = {
        anchor for name, page in pages.items() if name.startswith("api/") for anchor in page.anchors
    }
    assert {f"ranklens.{name}" for name in ranklens.__all__} <= described


def test_every_adapter_has_an_entry(pages: dict[str, Page]) -> None:
    folder = ROOT / "rerank" / "integrations"
    adapters = {
        f"ranklens.rerank.integrations.{path.stem}.{node.name}"
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name.startswith("Ranklens")
    }
    assert len(adapters) >= 6
    assert adapters <= pages["api/integrations.html"].anchors


def test_sessions_in_docstrings_are_code(site: Path) -> None:
    page = (site / "api" / "rerank.html").read_text(encoding="utf-8")
    assert "language-pycon" in page
    assert "<blockquote>" not in page


def test_no_link_is_broken(site: Path, pages: dict[str, Page]) -> None:
    broken = [
        f"{name}: {link}" for name, link in _links(pages) if not _leads(site, pages, name, link)
    ]
    assert not broken


def _links(pages: dict[str, Page]) -> Iterator[tuple[str, str]]:
    for name, page in pages.items():
        # The page for what does not exist links from the root, wherever that is.
        for link in [] if name == "404.html" else [*page.links, *page.fetched]:
            if not urlsplit(link).scheme:
                yield name, link


def _leads(site: Path, pages: dict[str, Page], name: str, link: str) -> bool:
    parts = urlsplit(link)
    target = (site / name).parent / unquote(parts.path) if parts.path else site / name
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return False
    other = pages.get(target.resolve().relative_to(site.resolve()).as_posix())
    return not parts.fragment or other is None or unquote(parts.fragment) in other.anchors


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    assert not [url for page in pages.values() for url in page.fetched if urlsplit(url).netloc]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text(encoding="utf-8"))
    assert (site / "search" / "search_index.json").is_file()


def test_only_pages_are_published(site: Path) -> None:
    assert not list(site.rglob("*.py"))


@cache
def _tests_of(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


def _needs() -> dict[str, str]:
    """Return the sections of the page of needs by their title, number included."""
    parts = re.split(r"^## (\d+\. .+)$", NEEDS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        title: text.partition("\n## ")[0]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def _rows() -> list[list[str]]:
    lines = NEEDS.read_text(encoding="utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if re.match(r"\| \d+\. ", line)
    ]


def test_every_need_has_something_that_shows_it_or_says_not_yet() -> None:
    rows = _rows()
    assert [int(need.partition(".")[0]) for need, _, _ in rows] == list(range(1, 26))
    sections = _needs()
    assert [need for need, _, _ in rows] == list(sections)
    for need, shown, missing in rows:
        assert shown or missing, need
        assert not shown or f"\n* {shown}\n" in f"{sections[need]}\n", need


def test_what_shows_a_need_exists() -> None:
    from typer.main import get_command

    from ranklens.cli.main import app

    text = NEEDS.read_text(encoding="utf-8")
    tests = re.findall(r"`(test_\w+\.py)::(\w+)`", text)
    assert len(tests) > 50
    assert not [
        f"{file}::{test}"
        for file, test in tests
        if not (TESTS / file).is_file() or test not in _tests_of(file)
    ]
    program = get_command(app)
    for command in re.findall(r"`ranklens ([a-z -]+)`", text):
        known: Any = program
        for word in command.split():
            assert word in getattr(known, "commands", {}), command
            known = known.commands[word]


def test_what_shows_a_need_is_a_test_or_a_command() -> None:
    for title, text in _needs().items():
        for item in re.findall(r"^\* (.+)$", text, re.MULTILINE):
            shown = r"`(test_\w+\.py::test_\w+|ranklens [a-z -]+)`"
            assert re.fullmatch(shown, item), (title, item)


def test_the_command_line_page_has_every_command() -> None:
    from typer.main import get_command

    from ranklens.cli.main import app

    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^ranklens ([\w-]+)", page, re.MULTILINE))
    assert shown == set(getattr(get_command(app), "commands", {}))
