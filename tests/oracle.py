"""Eager attention in numpy, and tiny models to take it from. Shares no code with the engine.

A prompt is written as one string, tokenised whole, and its spans are found through the
tokenizer's offsets; attention comes from transformers' eager mode with ``output_attentions``,
one pass a query, and everything after it is numpy in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

Array = np.ndarray[Any, Any]

TEXTS = [
    "Paris is the capital of France, and has been since the tenth century.",
    "The mitochondrion is the powerhouse of the cell.",
    "Berlin is the capital of Germany; Bonn was, from 1949 to 1990.",
    "A capital is the top of a column.",
    "France borders Spain, Italy, Germany, Belgium and Switzerland.",
]
QUERY = "what is the capital of france"
LATE = "Please find information that are relevant to the following query in the paragraphs above."
LATE_QA = "Please answer the following question based on the information in the paragraphs above."


@dataclass(frozen=True)
class Family:
    """The strings around a user's turn, as published, and how a tokenizer shows its family."""

    prefix: str
    separator: str
    suffix: str
    special: tuple[str, ...]
    bos: str | None = None
    template: str | None = None


# Specification, sections 4.1 (Llama, Mistral), 5.1 (ChatML) and 6.1 (Granite, Phi-4). Gemma and
# OLMo 2 as their chat templates write a user turn, GPT-OSS as OpenAI's harmony format does.
FAMILIES = {
    "llama": Family(
        "<|start_header_id|>user<|end_header_id|>",
        " \n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
    ),
    "mistral": Family("[INST]", "\n\n", "[/INST]", ("<s>", "[INST]", "[/INST]")),
    "chatml": Family(
        "<|im_start|>user",
        "\n\n",
        "<|im_end|>\n<|im_start|>assistant",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "granite": Family(
        "<|start_of_role|>user<|end_of_role|>",
        "\n\n",
        "<|end_of_text|><|start_of_role|>assistant<|end_of_role|>",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    "phi-4": Family(
        "<|im_start|>user<|im_sep|>",
        "\n\n",
        "<|im_end|><|im_start|>assistant<|im_sep|>",
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    ),
    "gemma": Family(
        "<bos><start_of_turn>user\n",
        "\n\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        ("<bos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        template=(
            "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + m['role'] + '\n' "
            "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
        ),
    ),
    "olmo": Family(
        "<|endoftext|><|user|>\n",
        "\n\n",
        "\n<|assistant|>\n",
        ("<|endoftext|>",),
        bos="<|endoftext|>",
        template=(
            "{{ bos_token }}{% for m in messages %}{{ '<|user|>\n' + m['content'] + '\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
        ),
    ),
    "harmony": Family(
        "<|start|>user<|message|>",
        "\n\n",
        "<|end|><|start|>assistant",
        ("<|start|>", "<|message|>", "<|end|>"),
    ),
}

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    # Wide enough that attention is far from uniform.
    "initializer_range": 0.25,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def tiny_folder(
    family: str, config: Callable[..., Any], folder: Path, *, bf16: bool = False, **changes: Any
) -> Path:
    """Save a tiny random model with a family's tokenizer.

    ``bf16`` rounds the weights, still saved in float32, to what that type can hold.
    """
    strings = FAMILIES[family]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(strings.special),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, LATE, "Here are some paragraphs:\n\n"], trainer)
    names = {}
    if strings.bos is not None:
        names["bos_token"] = strings.bos
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{strings.bos} $A",
            special_tokens=[(strings.bos, tokenizer.token_to_id(strings.bos))],
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    if strings.template is not None:
        fast.chat_template = strings.template
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    settings = config(**{"vocab_size": tokenizer.get_vocab_size(), **SIZES, **changes})
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    if bf16:
        for weight in model.parameters():
            weight.data = weight.data.bfloat16().float()
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Wording:
    """What a method puts between a family's strings.

    ``rows``: what is read of the tail, from the first of two places to the second:
    ``late``, ``label`` (of the query), ``query``, ``suffix``, ``end``; or from ``last``, the last
    token. ``next_token`` lets spans and rows take the token behind them as well, as CoRe's
    inclusive ends do.
    """

    marker: str = "[{}]"
    late: str = LATE
    marker_inside: bool = True
    next_token: bool = False
    rows: tuple[str, str] = ("late", "end")
    best_last: bool = True


@dataclass(frozen=True)
class Prompt:
    """A prompt's text and tokens. Ranges are half open and count tokens.

    ``spans``: of each document, in the order of the caller. ``shared``: where the tail begins.
    """

    text: str
    ids: list[int]
    shared: int
    spans: list[tuple[int, int]]
    rows: tuple[int, int]


def write(
    tokenizer: Any,
    family: Family,
    wording: Wording,
    documents: Sequence[str],
    query: str,
    *,
    instruction: bool = True,
) -> Prompt:
    """Write a prompt over documents that come best first; without ``instruction`` a bare null."""
    text = family.prefix + " Here are some paragraphs:" + family.separator
    order = range(len(documents))
    spans: dict[int, tuple[int, int]] = {}
    for number, index in enumerate(reversed(order) if wording.best_last else order, start=1):
        start = len(text)
        text += wording.marker.format(number)
        start = start if wording.marker_inside else len(text)
        text += " " + documents[index].strip()
        spans[index] = (start, len(text))
        text += family.separator
    at = {"late": len(text)}
    if instruction:
        text += wording.late + family.separator
    at["label"] = len(text)
    text += "Query:"
    at["query"] = len(text)
    text += " " + query
    at["suffix"] = len(text)
    text += family.suffix
    at["end"] = len(text)
    own_bos = family.bos is not None and text.startswith(family.bos)
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not own_bos)
    ends = np.array(encoded["offset_mapping"])[:, 1]

    def tokens(start: int, end: int) -> tuple[int, int]:
        # By the ends: the offset of a piece may or may not begin with its white space.
        inside = np.flatnonzero((ends > start) & (ends <= end))
        return int(inside[0]), int(inside[-1]) + 1 + wording.next_token

    first, last = wording.rows
    length = len(encoded["input_ids"])
    rows = (length - 1, length) if first == "last" else tokens(at[first], at[last])
    tail = int(np.flatnonzero(ends > at["late"])[0])
    places = [tokens(*spans[index]) for index in order]
    return Prompt(text, encoded["input_ids"], tail, places, rows)


class Eager:
    """A saved model in transformers' eager mode."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=dtype
        ).eval()

    def attention(self, ids: list[int]) -> Array:
        """Return every layer's weights of one prompt, float64 [layers, heads, tokens, tokens]."""
        with torch.no_grad():
            found = self.model(torch.tensor([ids]), output_attentions=True).attentions
        assert len(found) == self.model.config.num_hidden_layers
        return np.stack([layer[0].double().numpy() for layer in found])

    def mass(self, prompt: Prompt) -> Array:
        """Return the mean over the rows read of what shared tokens get, [layers, heads, shared]."""
        first, end = prompt.rows
        read: Array = self.attention(prompt.ids)[:, :, first:end, : prompt.shared].mean(2)
        return read


def filtered_sum(tokens: Array, stds: float | None = 2.0) -> float:
    """Return ICR's document score: tokens strictly above mean − 2 · std (unbiased), summed."""
    if stds is None:
        return float(tokens.sum())
    return float(tokens[tokens > tokens.mean() - stds * tokens.std(ddof=1)].sum())


def ranked(scores: Sequence[float]) -> list[int]:
    """Return positions by score, best first; equal ones as they came."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])
