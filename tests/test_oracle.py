"""The engine against an oracle that shares no code with it.

The oracle writes the prompt as one string, tokenises it whole, finds spans through the
tokenizer's offsets, runs the model twice in eager fp32 with ``output_attentions`` (once with
the query, once with N/A) and computes ICR's formula (arXiv 2410.02642, section 3) in numpy.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from ranklens.data.models import pull
from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile_file import load_profile

TEXTS = [
    "Paris is the capital of France, and has been since the tenth century.",
    "The mitochondrion is the powerhouse of the cell.",
    "Berlin is the capital of Germany; Bonn was, from 1949 to 1990.",
    "A capital is the top of a column.",
    "France borders Spain, Italy, Germany, Belgium and Switzerland.",
]
QUERY = "what is the capital of france"
LATE = "Please find information that are relevant to the following query in the paragraphs above."

# prefix, separator, suffix of spec section 4.1 (Llama, Mistral) and 5.1 (ChatML).
FRAMES = {
    "llama": (
        "<|start_header_id|>user<|end_header_id|>",
        " \n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
    ),
    "mistral": ("[INST]", "\n\n", "[/INST]"),
    "chatml": ("<|im_start|>user", "\n\n", "<|im_end|>\n<|im_start|>assistant"),
}
SPECIAL = {
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "mistral": ["<s>", "[INST]", "[/INST]"],
    "chatml": ["<|im_start|>", "<|im_end|>"],
}


@dataclass
class Oracle:
    ids: list[int]
    query_start: int
    spans: list[tuple[int, int]]
    mass: np.ndarray[Any, Any]
    null_mass: np.ndarray[Any, Any]
    scores: list[float]


def oracle(folder: Path, family: str, documents: list[str], query: str = QUERY) -> Oracle:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    prefix, separator, suffix = FRAMES[family]

    def one_pass(q: str) -> tuple[list[int], int, list[tuple[int, int]], np.ndarray[Any, Any]]:
        text = prefix + " Here are some paragraphs:" + separator
        places: dict[int, tuple[int, int]] = {}
        # Best document last: the list is reversed, and numbered as it stands.
        for number, index in enumerate(reversed(range(len(documents))), start=1):
            body = f"[{number}] " + " ".join(documents[index].split(" ")[:300]).strip()
            places[index] = (len(text), len(text) + len(body))
            text += body + separator
        late_at = len(text)
        text += LATE + separator + "Query: " + q + suffix
        encoded = tokenizer(text, return_offsets_mapping=True)
        offsets = np.array(encoded["offset_mapping"])

        def tokens(start: int, end: int) -> tuple[int, int]:
            # By the ends: the offset of a piece may or may not begin with its white space.
            inside = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 1] <= end))
            return int(inside[0]), int(inside[-1]) + 1

        row = tokens(late_at, len(text))[0]
        with torch.no_grad():
            out = model(torch.tensor([encoded["input_ids"]]), output_attentions=True)
        assert len(out.attentions) == model.config.num_hidden_layers
        per_layer = [a[0].double().numpy()[:, row:, :].mean(1).sum(0) for a in out.attentions]
        spans = [tokens(*places[i]) for i in range(len(documents))]
        return encoded["input_ids"], row, spans, np.sum(per_layer, 0)

    ids, row, spans, mass = one_pass(query)
    null_ids, null_row, null_spans, null_mass = one_pass("N/A")
    assert null_ids[:row] == ids[:row]
    assert (null_row, null_spans) == (row, spans)
    scores = []
    for start, end in spans:
        c = mass[start:end] - null_mass[start:end]
        scores.append(float(c[c > c.mean() - 2 * c.std(ddof=1)].sum()))
    return Oracle(ids, row, spans, mass[:row], null_mass[:row], scores)


def check(folder: Path, family: str, documents: list[str], query: str = QUERY) -> None:
    expected = oracle(folder, family, documents, query)
    reranker = AttentionReranker(
        AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32"), load_profile("icr")
    )
    records = [Document(f"d{i}", text) for i, text in enumerate(documents)]
    layout = reranker.layout(query, records)
    assert layout.shared + layout.tails[0].ids == expected.ids, "prompt tokens differ"
    assert len(layout.shared) == expected.query_start
    assert list(layout.spans) == expected.spans

    total = reranker.read(layout).total().numpy()
    # A separator of a 30-layer model can draw a mass of 15, where single precision alone is 1e-6.
    np.testing.assert_allclose(total[0], expected.mass, atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(total[1], expected.null_mass, atol=1e-5, rtol=1e-6)
    for start, end in expected.spans:
        ours = total[0, start:end] - total[1, start:end]
        theirs = expected.mass[start:end] - expected.null_mass[start:end]
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)

    ranking = reranker.rank(query, records)
    scores = {ranked.index: ranked.score for ranked in ranking}
    # A document sums up to 300 tokens, each within 1e-5; measured differences are near 1e-6.
    np.testing.assert_allclose(
        [scores[i] for i in range(len(documents))], expected.scores, atol=1e-5, rtol=1e-5
    )
    assert [ranked.index for ranked in ranking] == sorted(
        range(len(documents)), key=lambda i: -expected.scores[i]
    )


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
    # Wide enough that attention is far from uniform.
    "initializer_range": 0.25,
}
CONFIGS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "llama-gqa": ("llama", LlamaConfig, {"num_key_value_heads": 2}),
    "llama-mqa-bias": ("llama", LlamaConfig, {"num_key_value_heads": 1, "attention_bias": True}),
    "mistral-full": ("mistral", MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
    "mistral-window": ("mistral", MistralConfig, {"num_key_value_heads": 4, "sliding_window": 600}),
    "qwen2": ("chatml", Qwen2Config, {"num_key_value_heads": 2}),
    "qwen3": ("chatml", Qwen3Config, {"num_key_value_heads": 2, "head_dim": 24}),
}


def tiny_folder(name: str, folder: Path) -> tuple[Path, str]:
    family, config, extra = CONFIGS[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL[family],
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, LATE, "Here are some paragraphs:\n\n"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(7)
    settings = config(vocab_size=tokenizer.get_vocab_size(), **SIZES, **extra)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    model.save_pretrained(folder)
    return folder, family


@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_models_equal_two_eager_passes(name: str, tmp_path: Path) -> None:
    folder, family = tiny_folder(name, tmp_path)
    check(folder, family, TEXTS)


def test_one_document_and_empty_and_equal_documents(tmp_path: Path) -> None:
    folder, family = tiny_folder("llama-gqa", tmp_path)
    check(folder, family, TEXTS[:1])
    check(folder, family, ["a b c", "", "a b c", "word " * 350])


def smollm2() -> Path:
    return pull("smollm2-135m")


@pytest.mark.model
def test_smollm2_on_its_own_texts() -> None:
    check(smollm2(), "chatml", TEXTS)


@pytest.mark.model
def test_smollm2_on_trec_dl_2019_passages(shared_collection: Callable[[str], Path]) -> None:
    folder = shared_collection("trec-dl-2019")
    qid, query = (folder / "topics.judged.tsv").read_text().splitlines()[0].split("\t")
    lines = (folder / "candidates/BM25.top100.run").read_text().splitlines()
    wanted = [line.split()[2] for line in lines if line.split()[0] == qid][:12]
    with gzip.open(folder / "passages.jsonl.gz", "rt", encoding="utf-8") as stream:
        texts = {r["id"]: r["text"] for r in map(json.loads, stream) if r["id"] in set(wanted)}
    check(smollm2(), "chatml", [texts[doc_id] for doc_id in wanted], query)
