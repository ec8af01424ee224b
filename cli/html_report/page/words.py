"""The report in one paragraph: what was compared, and what one may conclude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ranklens.cli.html_report.page.text import (
    counted,
    escaped,
    interval,
    isolated,
    number,
    p_value,
    signed,
)

Record = Mapping[str, Any]


def collection_line(content: Record) -> str:
    """Return the collection and its size."""
    collection = content["collection"]
    parts = [isolated(collection["name"]), counted(collection["queries"], "query", "queries")]
    if collection["judged_documents"]:
        parts.append(counted(collection["judged_documents"], "judgement"))
        parts.append(f"relevant from grade {collection['relevance_level']}")
    return " · ".join(parts)


def summary(content: Record) -> str:
    """Return the summary as sentences of HTML."""
    pair = main_pair(content)
    if pair is not None:
        more = len(content["runs"]) - 2
        others = f"{counted(more, 'more run')} {'is' if more == 1 else 'are'} in the table."
        parts = [_compared(content, pair), *_room(content, pair), *([others] if more > 0 else [])]
        return " ".join(parts)
    names = [isolated(run["name"]) for run in content["runs"]]
    queries = counted(content["collection"]["queries"], "query", "queries")
    shown = f"{_listed(names)} on {queries} of {isolated(content['collection']['name'])}."
    if not content["measures"]:
        return f"{shown} There are no judgements, so rankings are shown and not measured."
    return " ".join([shown, *(_value(run, content["measures"][0]) for run in content["runs"])])


def main_pair(content: Record) -> Record | None:
    """Return the comparison that the page is about: the first in the first measure."""
    for pair in content["comparisons"]:
        if pair["measure"] == content["measures"][0] and pair["difference"] is not None:
            chosen: Record = pair
            return chosen
    return None


def _compared(content: Record, pair: Record) -> str:
    values = {run["name"]: run["values"].get(pair["measure"]) for run in content["runs"]}
    before, after = values.get(pair["against"]), values.get(pair["run"])
    queries = counted(content["collection"]["queries"], "query", "queries")
    ends = interval(pair["ci95"], sign=True)
    clear = ends is not None and not pair["ci95"][0] <= 0 <= pair["ci95"][1]
    from_to = (
        f" from {number(before['value'])} to {number(after['value'])}" if before and after else ""
    )
    measure = f"<b>{escaped(pair['measure'])}</b>"
    change = f"<b>{signed(pair['difference'])}</b>"
    inside = ", ".join(
        escaped(part) for part in (ends and f"95% interval {ends}", p_value(pair["p"])) if part
    )
    sentences = [
        f"{isolated(pair['run'])} is compared with {isolated(pair['against'])} on {queries} of "
        f"{isolated(content['collection']['name'])}."
    ]
    if clear:
        verb = "rises" if pair["difference"] > 0 else "falls"
        sentences.append(f"{measure} {verb}{from_to}, by {change} ({inside}).")
    else:
        moves = "goes" + from_to if from_to else "changes"
        sentences.append(f"{measure} {moves}, by {change}" + (f" ({inside})." if inside else "."))
        if ends:
            sentences.append(
                "The interval includes 0: these queries do not show that the two differ."
            )
    verbs = [
        f"{pair[key]:,} {verb}"
        for key, verb in (("wins", "gained"), ("losses", "lost"), ("ties", "stayed the same"))
        if pair[key]
    ]
    if verbs:
        sentences.append(f"Of the queries, {_listed(verbs)}.")
    return " ".join(sentences)


def _room(content: Record, pair: Record) -> list[str]:
    """Return how much of what the candidates allow was reached."""
    runs = {run["name"]: run for run in content["runs"]}
    after, before = runs.get(pair["run"]), runs.get(pair["against"])
    measure = pair["measure"]
    if not after or not before or (after["ceiling"] or {}).get(measure) is None:
        return []
    # Two reranked runs share no room: only a first stage says where it begins.
    if before["role"] != "first stage" or measure not in before["values"]:
        return []
    best, start = after["ceiling"][measure], before["values"][measure]["value"]
    if start is None or best - start < 0.0005:
        return []
    share = pair["difference"] / (best - start)
    # A share of the room is a gain, which there has to be.
    gained = interval(pair["ci95"]) is not None and pair["ci95"][0] > 0
    used = f", so {100 * share:.0f}% of the room is used" if gained else ""
    return [f"The best order of the same candidates would reach {number(best)}{used}."]


def _value(run: Record, measure: str) -> str:
    value = run["values"].get(measure)
    if value is None:
        return ""
    ends = interval(value["ci95"])
    spread = f" (95% interval {ends})" if ends else ""
    return (
        f"{isolated(run['name'])} has {escaped(measure)} <b>{number(value['value'])}</b>{spread}."
    )


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
