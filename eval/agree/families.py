"""Which family of models a name speaks of: a judge's, a reranker's id, a run's tag.

A family is what shares pretrained weights or a maker's line of models, so a fine-tune counts
with its base: Vicuna and RankLLaMA with llama, Zephyr with mistral, monoT5 with t5, Rank1 with
qwen. Names are all there is to go by: one that has none of these words has no family here, and
a model whose base its name does not tell is not recognised.
"""

from __future__ import annotations

import re

# Words that may follow digits or signs, not letters: llama70b, Meta-Llama-3, RankLLaMA.
_WORDS = {
    "claude": "claude",
    "command": "command-?r|command-?a|cohere|rank_?command",
    "deepseek": "deepseek",
    "gemini": "gemini",
    "gemma": "(rank)?gemma|paligemma",
    "gpt": "(chat|rank)?gpt|(text-)?davinci",
    "llama": "(code|rank|rep|meta|tiny)?llama|(rank)?vicuna|alpaca|tulu",
    "mistral": "mistral|mixtral|ministral|(rank)?zephyr",
    "olmo": "olmo",
    "phi": "phi(?![a-z])",
    "qwen": "(rank)?qwen|qwq|rank1(?![0-9])",
    "smollm": "smollm",
    "t5": "(flan|mono|duo|list|lit|fly)?-?t5",
}
_PATTERNS = {family: re.compile(rf"(?<![a-z])({words})") for family, words in _WORDS.items()}
_REASONERS = re.compile(r"(?<![a-z0-9])o[134](?![a-z0-9])")
_NOT_PLAIN = re.compile(r"[^a-z0-9]+")


def families_of(name: str) -> frozenset[str]:
    """Return the families that a name speaks of: none, one, or several (a distilled model's)."""
    text = name.lower().replace("_", "-")
    found = {family for family, pattern in _PATTERNS.items() if pattern.search(text)}
    if _REASONERS.search(text):
        found.add("gpt")
    return frozenset(found)


def names_model(name: str, model: str) -> bool:
    """Return whether a name has a model's own name in it, as whole words.

    Of a hub id only the part after the last ``/`` counts; upper case and signs between letters
    and digits make no difference.
    """
    wanted = _plain(model.rstrip("/").rpartition("/")[2])
    return bool(wanted.strip()) and wanted in _plain(name)


def _plain(name: str) -> str:
    return f" {_NOT_PLAIN.sub(' ', name.lower()).strip()} "
