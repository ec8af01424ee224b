"""The model card of a trained model: README.md with what stands in training.json."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

_MARKUP = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


def model_card(name: str, manifest: Mapping[str, Any], licence: str | None) -> str:
    """Return the card as Markdown; texts out of manifests cannot be markup.

    ``manifest`` is what ``export`` returns.
    """
    base, settings = manifest["base"], manifest["settings"]
    header = {"base_model": base["model"], "library_name": "ranklens", "tags": ["reranker"]}
    if licence is not None:
        header["license"] = licence.lower()
    cut = manifest["cut_to_rank"]
    rank = settings["lora"] if cut is None else cut
    changed = "all weights of its layers" if rank is None else f"a LoRA adapter of rank {rank}"
    parts = [
        "---",
        # JSON is YAML, whatever a name holds.
        *(f"{key}: {json.dumps(value)}" for key, value in header.items()),
        "---",
        "",
        f"# {plain(name)}",
        "",
        f"{plain(base['model'])} (revision {plain(base['revision'])}), with {changed} trained by "
        "ranklens so that its attention points at the documents that answer a query. It is read "
        "with profile.json, and gives scores, not text:",
        "",
        "```",
        "ranklens rerank COLLECTION RUN --reranker attention:./FOLDER -o OUT",
        "```",
        "",
        "## Licence",
        "",
        _licence(licence),
        "",
        *runs_of(manifest),
        "## Limits",
        "",
        "It was trained to be read with this prompt, these layers and these heads; other profiles "
        "read something else. It knows the kind of queries and documents above. Scores compare "
        "within one ranking only, and are no probabilities.",
        "",
    ]
    return "\n".join(parts)


def plain(value: object) -> str:
    """Return a text on one line, without characters that cannot be seen and without markup."""
    text = "".join(
        " " if character.isspace() else character
        for character in str(value)
        if character.isspace() or not unicodedata.category(character).startswith("C")
    )
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def runs_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the sections of what was learned from and how, for every training there was."""
    runs: list[Mapping[str, Any]] = []
    run: Mapping[str, Any] | None = manifest
    while run is not None:
        runs.insert(0, run)
        run = run.get("trained_before")
    lines = []
    known: dict[str, int] = {}
    for number, one in enumerate(runs, start=1):
        of = f" of run {number} of {len(runs)}" if len(runs) > 1 else ""
        if not one:
            lines += [f"## Training{of}", "", "Not recorded: the adapter had no manifest.", ""]
            continue
        settings = one["settings"]
        data = _data(one["lists"], settings["lists"])
        first = known.setdefault(settings["lists"], number)
        if first < number:
            data = [f"The same lists as those of run {first}."]
        how = _training(settings, one["cut_to_rank"])
        lines += [
            f"## Training data{of}", "", *data, "",
            f"## Training{of}", "", *(f"* {label}: {plain(value)}" for label, value in how), "",
            f"## Figures{of}", "", *_figures(one), "",
        ]  # fmt: skip
    return lines


def _licence(licence: str | None) -> str:
    if licence is None:
        return (
            "Not known to ranklens: that of the base model holds, and see the training data's "
            "below."
        )
    return f"{plain(licence)}, the base model's; see also the training data's below."


def _data(lists: Mapping[str, Any], digest: str) -> list[str]:
    counts = lists.get("counts") or {}
    said = ", ".join(f"{plain(counts[key])} {plain(key)}" for key in counts)
    found = [f"{said or 'Lists'} ({plain(digest)}), made from:", ""]
    sources = lists.get("collections")
    if not isinstance(sources, list) or not sources:
        return [*found, "* not recorded in the manifest of the lists"]
    return found + [f"* {_source(source)}" for source in sources]


def _source(source: object) -> str:
    if not isinstance(source, Mapping):
        return plain(source)
    said = plain(source.get("name", "a collection without a name"))
    facts = [
        f"{key}: {plain(source[key])}" for key in ("origin", "licence", "license") if
        source.get(key)
    ]  # fmt: skip
    return f"{said} ({'; '.join(facts)})" if facts else f"{said} (origin and licence not recorded)"


def _training(settings: Mapping[str, Any], cut: int | None) -> list[tuple[str, object]]:
    schedule = settings["schedule"]
    weights = "all weights of the layers" if settings["lora"] is None else "LoRA"
    if settings.get("going_on") is not None:
        weights = f"{weights}, from the adapter {settings['going_on']} on"
    return [
        ("trained", weights if cut is None else f"{weights}; what they learned was then cut to "
         f"rank {cut}"),
        ("objective", settings["objective"]),
        ("steps", f"at most {settings['steps']}, of {settings['accumulate']} lists"),
        ("learning rate", f"{settings['learning_rate']} (head weights "
         f"{settings['head_learning_rate']}), {schedule['kind']}, {schedule['warmup']} steps of "
         "warm up"),
        ("optimiser", f"AdamW, weight decay {settings['weight_decay']}, gradients clipped to a "
         f"norm of {settings['clip']}"),
        ("computed in", f"{settings['dtype']} on {settings['device']}, seed {settings['seed']}"),
    ]  # fmt: skip


def _figures(manifest: Mapping[str, Any]) -> list[str]:
    figures = manifest["figures"]
    if manifest["measured"] is None:
        return ["No lists were held out to validate on, so that this training measured nothing."]
    rows = [f"| {plain(key)} | {_number(value)} |" for key, value in figures.items()]
    return [
        "| figure | value |", "|---|---|", *rows, "",
        f"Measured: {plain(manifest['measured'])}. The best step was chosen by these lists, so "
        "that the figure is a little too good; measure on others.",
    ]  # fmt: skip


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
