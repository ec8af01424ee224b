"""The engine against an oracle that shares no code with it (``oracle.py``).

Each model is run twice in eager fp32 with ``output_attentions``, once with the query and once
with N/A; ICR's formula (arXiv 2410.02642, section 3) is computed from that in numpy.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracle import (
    FAMILIES,
    QUERY,
    TEXTS,
    Eager,
    Wording,
    filtered_sum,
    ranked,
    tiny_folder,
    write,
)
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from ranklens.data.models import pull
from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile_file import load_profile


def check(folder: Path, family: str, documents: list[str], query: str = QUERY) -> None:
    eager = Eager(folder)
    kept = [" ".join(document.split(" ")[:300]) for document in documents]
    real, null = (
        write(eager.tokenizer, FAMILIES[family], Wording(), kept, q) for q in (query, "N/A")
    )
    assert null.ids[: real.shared] == real.ids[: real.shared]
    assert null.spans == real.spans
    mass, null_mass = (eager.mass(prompt).sum((0, 1)) for prompt in (real, null))
    tokens = [mass[start:end] - null_mass[start:end] for start, end in real.spans]
    expected = [filtered_sum(document) for document in tokens]

    reranker = AttentionReranker(
        AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32"), load_profile("icr")
    )
    records = [Document(f"d{i}", text) for i, text in enumerate(documents)]
    layout = reranker.layout(query, records)
    assert layout.shared + layout.tails[0].ids == real.ids, "prompt tokens differ"
    assert len(layout.shared) == real.shared
    assert list(layout.spans) == real.spans

    total = reranker.read(layout).total().numpy()
    # A separator of a 30-layer model can draw a mass of 15, where single precision alone is 1e-6.
    np.testing.assert_allclose(total[0], mass, atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(total[1], null_mass, atol=1e-5, rtol=1e-6)
    for (start, end), theirs in zip(real.spans, tokens, strict=True):
        ours = total[0, start:end] - total[1, start:end]
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)

    ranking = reranker.rank(query, records)
    scores = {document.index: document.score for document in ranking}
    # A document sums up to 300 tokens, each within 1e-5; measured differences are near 1e-6.
    np.testing.assert_allclose(
        [scores[i] for i in range(len(documents))], expected, atol=1e-5, rtol=1e-5
    )
    assert [document.index for document in ranking] == ranked(expected)


CONFIGS: dict[str, tuple[str, Callable[..., Any], dict[str, Any]]] = {
    "llama-gqa": ("llama", LlamaConfig, {"num_key_value_heads": 2}),
    "llama-mqa-bias": ("llama", LlamaConfig, {"num_key_value_heads": 1, "attention_bias": True}),
    "mistral-full": ("mistral", MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
    "mistral-window": ("mistral", MistralConfig, {"num_key_value_heads": 4, "sliding_window": 600}),
    "qwen2": ("chatml", Qwen2Config, {"num_key_value_heads": 2}),
    "qwen3": ("chatml", Qwen3Config, {"num_key_value_heads": 2, "head_dim": 24}),
}


def tiny(name: str, folder: Path) -> tuple[Path, str]:
    family, config, changes = CONFIGS[name]
    return tiny_folder(family, config, folder, **changes), family


@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_models_equal_two_eager_passes(name: str, tmp_path: Path) -> None:
    folder, family = tiny(name, tmp_path)
    check(folder, family, TEXTS)


def test_one_document_and_empty_and_equal_documents(tmp_path: Path) -> None:
    folder, family = tiny("llama-gqa", tmp_path)
    check(folder, family, TEXTS[:1])
    check(folder, family, ["a b c", "", "a b c", "word " * 350])


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Sum as with the threads that the tolerance was set for: with one, eager is 1.5e-5 off."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def smollm2() -> Path:
    return pull("smollm2-135m")


@pytest.mark.model
@pytest.mark.usefixtures("two_threads")
def test_smollm2_on_its_own_texts() -> None:
    check(smollm2(), "chatml", TEXTS)


@pytest.mark.model
@pytest.mark.usefixtures("two_threads")
def test_smollm2_on_trec_dl_2019_passages(shared_collection: Callable[[str], Path]) -> None:
    folder = shared_collection("trec-dl-2019")
    qid, query = (folder / "topics.judged.tsv").read_text().splitlines()[0].split("\t")
    lines = (folder / "candidates/BM25.top100.run").read_text().splitlines()
    wanted = [line.split()[2] for line in lines if line.split()[0] == qid][:12]
    with gzip.open(folder / "passages.jsonl.gz", "rt", encoding="utf-8") as stream:
        texts = {r["id"]: r["text"] for r in map(json.loads, stream) if r["id"] in set(wanted)}
    check(smollm2(), "chatml", [texts[doc_id] for doc_id in wanted], query)
