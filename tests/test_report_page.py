"""The report's page in a real browser: what it shows, keys, colours, exports, hostile text."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from tests.report_page_fixtures import FIRST, RERANKED, report_content

from ranklens.cli.html_report.coding import Token, coded_tokens
from ranklens.cli.html_report.page.render import json_for_html, render

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return report_content()


@pytest.fixture(scope="module")
def default_file(tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(content), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser: Browser, tmp_path: Path, default_file: Path) -> Iterator[Opener]:
    """Return what opens a page; in the end none asked for anything or complained."""
    contexts = []
    complaints: list[str] = []
    asked: list[str] = []

    def start(shown: dict[str, Any] | None = None, **settings: Any) -> Page:
        path = default_file
        if shown is not None:
            path = tmp_path / "report.html"
            path.write_text(render(shown), encoding="utf-8")
        context = browser.new_context(**({"viewport": {"width": 1200, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        asked.remove(path.as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert complaints == []
    # Chromium tells of the icon, which is an empty data address.
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []


def first_ranking(page: Page) -> Locator:
    """Return the rows of the reranked list."""
    return page.locator(".column").last.locator(".row")


def seen(page: Page, name: str) -> Locator:
    return page.locator(f"section#{name}")


def contrast(page: Page, selector: str) -> float:
    """Return the WCAG contrast of an element's text with what lies behind it."""
    ratio = page.eval_on_selector(
        selector,
        """(element) => {
          const canvas = document.createElement("canvas")
            .getContext("2d", { willReadFrequently: true });
          const rgba = (colour) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return canvas.getImageData(0, 0, 1, 1).data;
          };
          const light = (colour) => {
            const [r, g, b] = [...rgba(colour)].slice(0, 3).map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          let behind = element;
          while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] < 255) {
            behind = behind.parentElement;
          }
          const one = light(getComputedStyle(element).color);
          const two = light(getComputedStyle(behind ?? document.body).backgroundColor);
          return (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        }""",
    )
    assert isinstance(ratio, float)
    return ratio


def test_all_sections_show_the_numbers_of_the_data(opened: Opener) -> None:
    page = opened()
    expect(page.locator("#summary")).to_contain_text("nDCG@10 rises from 0.506 to 0.571")
    expect(page.locator("#summary")).to_contain_text("95% interval +0.021 to +0.111, p = 0.004")
    expect(page.locator("#summary")).to_contain_text("would reach 0.801, so 22% of the room")
    row = page.locator("table.measures tbody tr").nth(1)
    expect(row).to_contain_text(RERANKED)
    expect(row.locator("td").first).to_contain_text("0.5710.501 to 0.641")
    expect(page.locator(".winloss .hit")).to_have_count(12)
    expect(page.locator("#ceiling svg")).to_have_attribute(
        "aria-label", re.compile("22% of the room")
    )
    expect(page.locator("#heads rect.read").first).to_be_visible()
    expect(page.locator("#heads rect.cell")).to_have_count(30 * 9)
    expect(page.locator("#bias figure")).to_have_count(2)
    expect(page.locator("table.confusion .same").first).to_have_text("412")
    expect(seen(page, "environment")).to_contain_text("3.11.9")
    expect(seen(page, "commands")).to_contain_text("ranklens report")
    expect(page.locator("#notice")).to_contain_text("1 warning")
    # Headings are in order, the page says its language, plots have labels on their axes.
    levels = [int(name[1]) for name in page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => h.tagName)")]  # fmt: skip
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    axis = page.locator("#differences .axis text").all_text_contents()
    assert "0.0" in axis
    assert any(text.startswith("−") for text in axis)


def test_a_bar_opens_its_query(opened: Opener, content: dict[str, Any]) -> None:
    page = opened()
    bar = page.locator('.winloss .hit[data-query="q4"]')
    bar.hover()
    expect(page.locator("#differences .readout")).to_contain_text("q4")
    bar.click()
    expect(page.locator("#query-heading")).to_have_text(content["queries"][3]["text"])
    expect(page.locator("#query-heading")).to_be_focused()
    expect(bar).to_have_class(re.compile("chosen"))
    expect(page.locator('.queries [data-query="q4"]')).to_have_attribute("aria-selected", "true")
    rows = first_ranking(page)
    wanted = [entry["doc"] for entry in content["queries"][3]["lists"][RERANKED]]
    assert page.locator(".column").last.locator("li").evaluate_all(
        "(items) => items.map((item) => item.dataset.doc)") == wanted  # fmt: skip
    # Movement is the difference of places in the two lists.
    before = [entry["doc"] for entry in content["queries"][3]["lists"][FIRST]]
    for i, doc in enumerate(wanted):
        up = before.index(doc) - i if doc in before else None
        mark = "new" if up is None else f"▲{up}" if up > 0 else f"▼{-up}" if up else "="
        expect(rows.nth(i).locator(".move")).to_have_text(mark)
    assert page.locator(".lines path").count() == len(set(before) & set(wanted))


def test_keys_alone_reach_everything(opened: Opener, content: dict[str, Any]) -> None:
    page = opened()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#results")).to_be_focused()
    heading = page.locator("#query-heading")
    order = page.locator(".queries li").evaluate_all("(all) => all.map((one) => one.dataset.query)")
    texts = {query["id"]: query["text"] for query in content["queries"]}
    page.keyboard.press("j")
    expect(heading).to_have_text(texts[order[1]])
    page.keyboard.press("k")
    expect(heading).to_have_text(texts[order[0]])
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("flea")
    expect(page.locator(".queries li")).to_have_count(1)
    expect(page.locator(".found")).to_have_text("1 of 12 queries")
    page.keyboard.press("Enter")
    expect(heading).to_have_text("how long is life cycle of flea")
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.locator(".queries li")).to_have_count(12)
    expect(page.locator(".queries")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    expect(heading).to_have_text(texts[order[1]])
    # From the list on: two steps, two of the colours' switch, then the first ranking's rows.
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.row')"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.locator(".row[aria-expanded=true]")).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.locator(".token:focus")).to_have_count(1)
    page.keyboard.press("ArrowRight")
    expect(page.locator(".body .readout")).to_contain_text("calibrated")
    expect(page.locator(".tokens .token").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(".row[aria-expanded=true]")).to_have_count(0)
    expect(page.locator(".row:focus")).to_have_count(1)
    page.keyboard.press("?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    # Bars are one stop of Tab, arrows move among them.
    assert page.locator('.winloss .hit[tabindex="0"]').count() == 1
    page.locator('.winloss .hit[tabindex="0"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(heading).to_have_text(texts[order[1]])


def test_queries_are_filtered_and_sorted(opened: Opener, content: dict[str, Any]) -> None:
    page = opened()
    shown = page.locator(".queries li")
    ids = "(items) => items.map((item) => item.dataset.query)"
    change = {
        query["id"]: query["values"][RERANKED]["nDCG@10"] - query["values"][FIRST]["nDCG@10"]
        for query in content["queries"]
    }
    assert shown.evaluate_all(ids) == sorted(change, key=lambda name: -change[name])
    page.get_by_label("Sort by").select_option(label="largest loss first")
    assert shown.evaluate_all(ids) == sorted(change, key=lambda name: change[name])
    page.get_by_label("Sort by").select_option(label="id")
    assert shown.evaluate_all(ids) == [f"q{n}" for n in range(1, 13)]
    page.locator("#search").fill("no such words")
    expect(shown).to_have_count(0)
    expect(page.locator(".found")).to_have_text("0 of 12 queries")
    # Another measure: plot and list follow.
    page.locator("#search").fill("")
    page.get_by_role("combobox", name="Measure").select_option(label="AP(rel=2)")
    expect(page.locator("#differences .label").first).to_have_text("Difference in AP(rel=2)")
    expect(page.locator("#differences figcaption")).to_contain_text("+0.030")


def test_tokens_are_coloured_by_value(opened: Opener, content: dict[str, Any]) -> None:
    page = opened()
    query = page.locator(".queries li").first.get_attribute("data-query")
    first_ranking(page).first.click()
    doc = page.locator(".column").last.locator("li").first.get_attribute("data-doc")
    assert query is not None
    assert doc is not None
    tokens = content["attention"]["documents"][query][doc]["tokens"]
    record = content["documents"][doc]
    block = page.locator(".tokens")
    text = (record["title"] + "\n" if record["title"] else "") + record["text"]
    assert block.evaluate("(node) => node.textContent") == text
    spans = block.locator(".token")
    expect(spans).to_have_count(len(tokens))
    paint = "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
    calibrated = spans.evaluate_all(paint)
    strong = max(range(len(tokens)), key=lambda i: abs(tokens[i][2]))
    weak = min(range(len(tokens)), key=lambda i: abs(tokens[i][2]))
    assert calibrated[strong] != calibrated[weak]
    sign = "+" if tokens[strong][2] > 0 else "−"
    value = f"calibrated {sign}{abs(tokens[strong][2]) / 255:.2f}"
    assert value in (spans.nth(strong).get_attribute("title") or "")
    spans.nth(strong).hover()
    expect(page.locator(".body .readout")).to_contain_text(value)
    expect(page.locator(".body .readout")).to_contain_text(f"raw {tokens[strong][3] / 255:.2f}")
    page.get_by_role("radio", name="raw").check()
    raw = spans.evaluate_all(paint)
    assert raw != calibrated
    assert not spans.locator("xpath=self::*[contains(@class, 'less')]").count()
    page.get_by_role("radio", name="off").check()
    assert len(set(spans.evaluate_all(paint))) == 1
    # The choice holds for what is opened later.
    first_ranking(page).nth(1).click()
    assert len(set(page.locator(".tokens .token").evaluate_all(paint))) == 1


def test_tokens_may_be_coded_and_count_code_points(opened: Opener) -> None:
    shown = report_content(queries=1, depth=1)
    doc = shown["queries"][0]["lists"][RERANKED][0]["doc"]
    shown["documents"][doc] = {"title": "", "text": "a😀b  naïve 漢字", "cut": True}
    tokens = (
        Token(0, 2, 255, 3),
        Token(2, 3, -200, 255),
        Token(5, 10, 127, 130),
        Token(10, 13, 0, 0),
    )
    seen_document = shown["attention"]["documents"]["q1"][doc]
    seen_document["tokens"] = coded_tokens(tokens, raw=True)
    page = opened(shown)
    first_ranking(page).first.click()
    assert page.locator(".tokens .token").all_text_contents() == ["a😀", "b", "naïve", "漢字"]
    titles = page.locator(".tokens .token").evaluate_all("(all) => all.map((one) => one.title)")
    assert titles[:2] == ["calibrated +1.00, raw 0.01", "calibrated −0.78, raw 1.00"]
    assert titles[2] == "calibrated +0.50, raw 0.51"
    expect(page.locator(".body")).to_contain_text(["it is cut here"])
    assert page.locator(".tokens").evaluate("(node) => node.textContent") == "a😀b  naïve 漢字"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(opened: Opener, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 26)") == (scheme == "dark")
    first_ranking(page).first.click()
    strongest = "(all) => { all.forEach((one) => one.style.setProperty('--w', '100%')); }"
    page.locator(".tokens .token").evaluate_all(strongest)
    for selector in (
        "#summary", ".collection", "td small", "figcaption", "nav a", ".facts", ".readout", ".id",
        ".move.up", ".move.down", ".delta.win", ".delta.loss", ".tokens .token.more",
        ".tokens .token.less", ".grade.high", ".grade.relevant", ".grade.zero", ".grade.unjudged",
        ".switch input:checked + span", "td.s8", ".exports", ".label", ".environment dt",
        ".queries [aria-selected=true] .id", "footer p",
    ):  # fmt: skip
        assert contrast(page, selector) >= 4.5, selector
    # The switch overrides what the system asks for.
    page.get_by_role("radio", name="light" if scheme == "dark" else "dark").check()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_phone(opened: Opener) -> None:
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, reduced_motion="reduce")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    columns = page.locator(".column")
    expect(columns.last).to_be_visible()
    expect(columns.first).to_be_hidden()
    page.locator(".tabs label").first.tap()
    expect(columns.first).to_be_visible()
    expect(columns.last).to_be_hidden()
    columns.first.locator(".row").first.tap()
    expect(page.locator(".tokens")).to_be_visible()
    page.locator(".winloss .hit").nth(3).click()
    expect(page.locator("#query-heading")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = page.locator(".scrolls").first
    assert wide.evaluate("(node) => node.scrollWidth > node.clientWidth")
    assert wide.get_attribute("tabindex") == "0"


def test_exports_hold_the_data(opened: Opener, content: dict[str, Any]) -> None:
    page = opened()

    def saved(button: str) -> str:
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        return Path(download.value.path()).read_bytes().decode()

    rows = list(csv.DictReader(io.StringIO(saved("values by query as CSV"), newline="")))
    assert len(rows) == 24
    wanted = {
        (query["id"], run): values
        for query in content["queries"]
        for run, values in query["values"].items()
    }
    for row in rows:
        values = wanted[row["query"], row["run"]]
        assert {m: float(row[m]) for m in content["measures"]} == values
    table = list(csv.DictReader(io.StringIO(saved("table as CSV"), newline="")))
    assert table[0] == {"run": FIRST, "measure": "nDCG@10", "value": "0.5058", "low95": "0.4358",
                        "high95": "0.5758", "ceiling": "0.8011"}  # fmt: skip
    latex = saved("table as LaTeX")
    assert r"attention:smollm2-135m & \textbf{0.5713} & \textbf{0.7811}" in latex
    assert latex.count(r"\\") == 3


HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "<img src=x onerror=window.hacked=1>",
    "javascript:window.hacked=1",
    '" onfocus=window.hacked=1 x="',
    "{{data}}{{script}}",
    "]]>&lt;b&gt;\u2028\u2029",
    "\u202eright to left\u202c",
    "nul\x00 esc\x1b[31m",
    "__proto__",
    "<svg onload=window.hacked=1>",
    "<style>*{display:none}</style>",
    "a\r\nb",
)


def hostile_content() -> dict[str, Any]:
    """Return content whose every text is an attack, and whose last document is one long word."""
    shown = report_content(queries=len(HOSTILE), depth=2, words=8)
    everything = " ".join(HOSTILE)
    ids = {}
    documents = {}
    for query, text in zip(shown["queries"], HOSTILE, strict=True):
        ids[query["id"]] = text
        query["text"] = everything + text
        for listed in query["lists"].values():
            for place, entry in enumerate(listed):
                entry["doc"] = text if place == 0 else "long" + text
        documents[text] = {"title": text, "text": everything, "cut": False}
        documents["long" + text] = {"title": "", "text": "x" * 100_000, "cut": False}
        query["id"] = text
    shown["documents"] = documents
    attention = {"score": None, "tokens_cut": 0, "tokens": [[0, 3, 200, 1], [4, 9, -90, 2]]}
    shown["attention"]["documents"] = {text: {text: attention} for text in HOSTILE}
    shown["attention"]["what"] = shown["heads"]["what"] = shown["bias"]["what"] = everything
    for key in ("title", "made_with"):
        shown[key] = everything
    shown["collection"]["name"] = everything
    shown["environment"] = [[text, text] for text in HOSTILE]
    shown["warnings"] = shown["commands"] = list(HOSTILE)
    shown["agreement"]["labels"][0]["name"] = everything
    names = {FIRST: "</script>one", RERANKED: '<img src="y" onerror="window.hacked=1">'}
    for run in shown["runs"]:
        run["name"] = names[run["name"]]
    for pair in shown["comparisons"]:
        pair["run"], pair["against"] = names[pair["run"]], names[pair["against"]]
    for query in shown["queries"]:
        for key in ("values", "lists", "ceiling"):
            query[key] = {names[run]: held for run, held in query[key].items()}
    shown["attention"]["run"] = names[RERANKED]
    return shown


def test_hostile_text_is_text(opened: Opener) -> None:
    page = opened(hostile_content(), viewport={"width": 360, "height": 740})
    for place, text in enumerate(HOSTILE):
        page.evaluate(
            "(id) => [...document.querySelectorAll('.queries li')]"
            ".find((item) => item.dataset.query === id).click()", text,
        )  # fmt: skip
        assert page.locator("#query-heading").evaluate("(node) => node.textContent") == (
            " ".join(HOSTILE) + text
        )
        first_ranking(page).first.click()
        body = page.locator(".tokens").evaluate("(node) => node.textContent")
        assert body == text + "\n" + " ".join(HOSTILE), place
        if place == 0:
            first_ranking(page).nth(1).click()
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main style, main script, main form, main iframe").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("({}).polluted") is None


def test_lone_surrogates_and_numbers_that_are_none(opened: Opener) -> None:
    shown = report_content(queries=3, depth=2, words=5)
    shown["title"] = "a\ud800b"
    shown["queries"][0]["text"] = "\udfff question"
    shown["queries"][0]["values"][RERANKED]["nDCG@10"] = float("nan")
    shown["queries"][1]["lists"][RERANKED][0]["score"] = float("-inf")
    shown["comparisons"][0]["ci95"] = [None, None]
    shown["comparisons"][0]["p"] = None
    shown["runs"][0]["values"]["nDCG@10"]["ci95"] = [None, None]
    shown["queries"][2]["lists"][FIRST] = []
    page = opened(shown)
    expect(page.locator("h1")).to_have_text("a\ufffdb")
    expect(page.locator(".winloss .hit")).to_have_count(2)
    expect(page.locator(".queries li").last).to_contain_text("\ufffd question")
    page.locator('.queries [data-query="q3"]').click()
    expect(page.locator(".empty")).to_have_text("This run has no documents for this query.")


def test_any_two_of_three_runs_are_compared(opened: Opener) -> None:
    shown = report_content(queries=4, depth=3, words=5)
    third = "listwise:a-long-name/of-a-model-with-many-parts"
    shown["runs"].append(shown["runs"][1] | {"name": third})
    for query in shown["queries"]:
        query["values"][third] = {"nDCG@10": 0.5}
        query["lists"][third] = query["lists"][RERANKED][:1]
    page = opened(shown, viewport={"width": 360, "height": 740})
    expect(page.locator("#summary")).to_contain_text("1 more run is in the table.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # Both have the same candidates, and so one ceiling.
    assert page.locator("table.measures .aside").count() == 1
    page.get_by_role("combobox", name=re.compile("^Run")).select_option(label=third)
    expect(page.locator("#differences figcaption")).to_contain_text(f"{third} minus {FIRST}")
    expect(page.locator(".column").last.locator(".row")).to_have_count(1)
    first = shown["queries"][0]
    change = 0.5 - first["values"][FIRST]["nDCG@10"]
    bar = page.locator(f'.winloss .hit[data-query="{first["id"]}"]')
    assert f"{abs(change):.3f}" in (bar.get_attribute("aria-label") or "")
    # The run that is compared with takes the place of the other when it is chosen for it.
    page.get_by_role("combobox", name=re.compile("^Run")).select_option(label=FIRST)
    expect(page.locator("#differences figcaption")).to_contain_text(f"{FIRST} minus {third}")


def test_what_is_not_there_is_not_shown(opened: Opener) -> None:
    shown = report_content(queries=2, depth=3, words=5)
    for key in ("attention", "heads", "bias", "agreement"):
        shown[key] = None
    shown |= {"measures": [], "comparisons": [], "environment": [], "warnings": [], "commands": []}
    shown["runs"] = [run | {"values": {}, "ceiling": None} for run in shown["runs"]]
    for query in shown["queries"]:
        query |= {"values": {}, "ceiling": {}}
        for listed in query["lists"].values():
            for entry in listed:
                entry["grade"] = None
    page = opened(shown)
    expect(page.locator("#summary")).to_contain_text("no judgements")
    visible = page.locator("main > section:visible").evaluate_all("(all) => all.map((s) => s.id)")
    assert visible == ["browser"]
    assert page.locator(".colours, .grade, .exports").count() == 0
    first_ranking(page).first.click()
    expect(page.locator(".tokens")).to_be_visible()
    assert page.locator(".token").count() == 0


def test_one_run(opened: Opener) -> None:
    shown = report_content(queries=3, depth=3, words=90)
    shown["runs"] = shown["runs"][1:]
    shown["comparisons"] = []
    for query in shown["queries"]:
        for key in ("values", "lists"):
            del query[key][FIRST]
    blank, untitled, *_ = shown["queries"][0]["lists"][RERANKED]
    blank["score"] = -0.25
    shown["documents"][untitled["doc"]]["title"] = ""
    shown["documents"][blank["doc"]] = {"title": " ", "text": "\n\t", "cut": False}
    page = opened(shown, viewport={"width": 700, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    row = page.locator(".row").first
    expect(row.locator(".name")).to_have_text(blank["doc"])
    row.click()
    expect(page.locator(".body .facts").first).to_contain_text("score \N{MINUS SIGN}0.25")
    expect(page.locator("#summary")).to_contain_text(
        "has nDCG@10 0.571 (95% interval 0.501 to 0.641)"
    )
    expect(page.locator("#differences")).to_be_hidden()
    expect(page.locator(".column")).to_have_count(1)
    expect(page.locator("#ceiling")).to_be_visible()


def test_without_scripts_tables_are_there(opened: Opener) -> None:
    page = opened(java_script_enabled=False)
    expect(page.locator("table.measures")).to_be_visible()
    expect(page.get_by_text("Without scripts")).to_be_visible()
    expect(page.locator("table.confusion")).to_be_visible()
    expect(seen(page, "browser")).to_be_hidden()


def test_policy_lets_nothing_else_run(
    browser: Browser, tmp_path: Path, content: dict[str, Any]
) -> None:
    attack = (
        '<script>window.hacked = 1</script><img src="https://example.org/x.png" '
        'onerror="window.hacked = 1"><h4 id="styled" style="color: rgb(1, 2, 3)">x</h4>'
        '<form action="https://example.org/"><button id="send">x</button></form>'
    )
    path = tmp_path / "report.html"
    path.write_text(render(content).replace("</main>", attack + "</main>"), encoding="utf-8")
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.goto(path.as_uri())
    expect(page.locator(".queries li")).to_have_count(12)
    assert page.evaluate("window.hacked") is None
    colour = page.evaluate("getComputedStyle(document.getElementById('styled')).color")
    assert colour != "rgb(1, 2, 3)"
    with page.expect_console_message(lambda message: "form-action" in message.text):
        page.evaluate("document.getElementById('send').click()")
    for directive in ("script-src", "img-src", "style-src"):
        assert any(directive in text for text in refused), directive
    assert not [
        url for url in sent if url.startswith("http") and url != "https://example.org/x.png"
    ]
    page.close()


def test_interval_with_zero_is_said_to_show_nothing(content: dict[str, Any]) -> None:
    changed = report_content(queries=2, depth=1, words=4)
    changed["comparisons"][0] |= {"difference": 0.012, "ci95": [-0.02, 0.044], "p": 0.41}
    page = render(changed)
    assert "do not show that the two differ" in page
    assert "rises" not in page.split("</header>")[0]
    changed["comparisons"][0] |= {"difference": -0.05, "ci95": [-0.09, -0.01], "p": 0.0001}
    page = render(changed).split("</header>")[0]
    assert "falls" in page
    assert "p\u00a0&lt;\u00a00.001" in page
    assert "of the room is used" not in page


def test_page_without_data_is_small() -> None:
    empty = report_content(queries=0, depth=1)
    assert len(render(empty).encode()) - len(json_for_html(empty)) < 80_000
    assert json_for_html({"a": "</script>&\u2028\ud800", "b": float("nan")}) == (
        '{"a":"\\u003c/script\\u003e\\u0026\\u2028\ufffd","b":null}'
    )
