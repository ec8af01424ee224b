"""Every shipped method and every choice of a profile, computed anew from eager attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracle import (
    FAMILIES,
    LATE_QA,
    QUERY,
    TEXTS,
    Array,
    Eager,
    Family,
    Prompt,
    Wording,
    filtered_sum,
    ranked,
    tiny_folder,
    write,
)
from transformers import Gemma2Config, LlamaConfig, Phi3Config, Qwen3Config

from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.heads.features import every_head
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import load_profile, shipped_profiles

LAYERS = 4
DOCUMENTS = [
    Document("a", TEXTS[0], title="Paris"),
    Document("b", TEXTS[1]),
    # Over 300 words, where some methods stop.
    Document("c", TEXTS[2] + " the" * 320, title="Berlin"),
    Document("d", TEXTS[3], title=" Columns "),
    Document("e", TEXTS[4]),
]
HEADS = {"0-1": 1.0, "1-3": 1.0, "2-0": 1.0, "2-2": 1.0}
LEARNED = {"0-1": 0.5, "1-3": 2.0, "3-0": -1.0, "3-2": 1.5}


@dataclass(frozen=True)
class Method:
    """What the specification says of a method (sections 4.1, 5.1, 6.1, 7 and 12).

    ``log_ratio``: our learned profiles' Σ weight · log(mass of the document / with the null).
    """

    family: str
    wording: Wording
    titles: bool = True
    words: int | None = 300
    separator: str | None = None
    frame: tuple[str, str] | None = None
    heads: dict[str, float] | None = None
    layers: tuple[int, int] | None = None
    nulls: tuple[str, ...] = ("N/A",)
    stds: float | None = 2.0
    log_ratio: bool = False

    @property
    def strings(self) -> Family:
        family = FAMILIES[self.family]
        prefix, suffix = self.frame or (family.prefix, family.suffix)
        separator = self.separator or family.separator
        return dataclasses.replace(family, prefix=prefix, suffix=suffix, separator=separator)

    def profile(self, name: str) -> Profile:
        """Return the shipped profile, reading what the tiny model has in place of its own."""
        shipped = load_profile(name)
        assert (shipped.signal.heads is None) == (self.heads is None)
        assert (shipped.signal.layers is None) == (self.layers is None)
        signal = dataclasses.replace(shipped.signal, heads=self.heads, layers=self.layers)
        return dataclasses.replace(shipped, signal=signal)

    def text(self, document: Document) -> str:
        text = " ".join(document.text.split(" ")[: self.words])
        return document.title + "\n" + text if document.title and self.titles else text


def qrhead(family: str) -> Method:
    return Method(family, Wording(best_last=False), words=None, heads=HEADS)


def core(family: str) -> Method:
    # On Mistral an offset of one cancels the spill, of spans and of rows.
    wording = Wording(
        marker="[document {}]",
        marker_inside=False,
        next_token=family != "mistral",
        rows=("late", "suffix"),
        best_last=False,
    )
    return Method(family, wording, titles=False, separator="\n\n", heads=HEADS)


METHODS = {
    "icr": Method("llama", Wording()),
    "icr-qa": Method("mistral", Wording(late=LATE_QA)),
    "attention-sorting": Method("chatml", Wording(rows=("last", "end")), nulls=(), stds=None),
    "selective-icr-qwen3-0.6b": Method(
        "chatml",
        Wording(rows=("query", "suffix")),
        separator=" \n\n",
        frame=("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        layers=(1, 2),
    ),
    "qrhead-qwen2.5-7b": qrhead("chatml"),
    "core-granite-3.2-8b": core("granite"),
    "core-llama-3.1-8b": core("llama"),
    "core-mistral-7b-v0.2": core("mistral"),
    "core-phi-4": core("phi-4"),
}
METHODS |= {name: qrhead("llama") for name in shipped_profiles() if name.startswith("qrhead-llama")}
METHODS |= {
    name: Method("chatml", Wording(), heads=LEARNED, stds=None, log_ratio=True)
    for name in shipped_profiles()
    if name.endswith("-learned")
}


def test_every_shipped_profile_has_a_method_here() -> None:
    # Those in block layout are in test_blocks and test_blockrank.
    causal = {n for n in shipped_profiles() if load_profile(n).layout.attend == "causal"}
    assert causal == set(METHODS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny Llama for each family's tokenizer."""
    families = {method.family for method in METHODS.values()}
    return {
        family: tiny_folder(
            family, LlamaConfig, tmp_path_factory.mktemp(family), num_hidden_layers=LAYERS
        )
        for family in families
    }


def load(folder: Path, profile: Profile, layers: int | None = None) -> AttentionReranker:
    engine = AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32", layers=layers)
    return AttentionReranker(engine, profile)


def weights_of(method: Method) -> Array:
    """Return what each head counts, [layers, heads]."""
    weights = np.ones((LAYERS, 4)) if method.heads is None else np.zeros((LAYERS, 4))
    if method.layers is not None:
        first, last = method.layers
        weights[:first], weights[last + 1 :] = 0, 0
    for name, weight in (method.heads or {}).items():
        layer, head = map(int, name.split("-"))
        weights[layer, head] = weight
    return weights


def scores_of(ranking: Any) -> list[float]:
    by_index = {document.index: document.score for document in ranking}
    return [by_index[index] for index in range(len(by_index))]


@pytest.mark.parametrize("name", METHODS)
def test_a_shipped_profile_is_the_published_method(name: str, folders: dict[str, Path]) -> None:
    method = METHODS[name]
    eager = Eager(folders[method.family])
    texts = [method.text(document) for document in DOCUMENTS]
    prompts = [
        write(eager.tokenizer, method.strings, method.wording, texts, query)
        for query in (QUERY, *method.nulls)
    ]
    reranker = load(folders[method.family], method.profile(name))
    layout = reranker.layout(QUERY, DOCUMENTS)

    assert len(layout.tails) == len(prompts)
    for tail, prompt in zip(layout.tails, prompts, strict=True):
        ids = layout.shared + tail.ids
        assert ids == prompt.ids
        decoded = str(eager.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        assert decoded.removeprefix(FAMILIES[method.family].bos or "") == prompt.text
        shared = len(layout.shared)
        assert (tail.rows[0] + shared, tail.rows[1] + shared) == prompt.rows
    assert list(layout.spans) == prompts[0].spans

    weights = weights_of(method)
    by_head = [eager.mass(prompt) for prompt in prompts]
    mass = [np.einsum("lh,lhs->s", weights, one) for one in by_head]
    total = reranker.read(layout).total().numpy()
    np.testing.assert_allclose(total, np.stack(mass), atol=1e-5, rtol=1e-6)

    tokens = mass[0] - mass[1] if method.nulls else mass[0]
    expected = [filtered_sum(tokens[a:b], method.stds) for a, b in prompts[0].spans]
    if method.log_ratio:
        of, to = by_head
        expected = [
            float((weights * np.log(of[..., a:b].sum(-1) / to[..., a:b].sum(-1))).sum())
            for a, b in prompts[0].spans
        ]
    ranking = reranker.rank(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores_of(ranking), expected, atol=1e-5, rtol=1e-5)
    assert [document.index for document in ranking] == ranked(expected)


# What follows reads this: weighted heads, one negative, of a Llama with the ICR prompt.
WEIGHTED = LEARNED
NULLS = ("N/A", "nothing", "the")


class Reference:
    """Eager masses per head of the ICR prompt on the tiny Llama, and formulas over them."""

    def __init__(self, folder: Path) -> None:
        self.eager = Eager(folder)
        self.texts = [METHODS["icr"].text(document) for document in DOCUMENTS]
        self.heads = [(int(layer), int(head)) for layer, head in (n.split("-") for n in WEIGHTED)]
        self.weights = np.array(list(WEIGHTED.values()))

    def prompt(self, query: str, *, instruction: bool = True) -> Prompt:
        return write(
            self.eager.tokenizer,
            FAMILIES["llama"],
            Wording() if instruction else Wording(rows=("label", "end")),
            self.texts,
            query,
            instruction=instruction,
        )

    def attention(self, prompt: Prompt) -> Array:
        """Return weights of the rows read, [heads read, rows, tokens]."""
        layers = self.eager.attention(prompt.ids)
        rows = slice(*prompt.rows)
        return np.stack([layers[layer, head, rows] for layer, head in self.heads])

    def logits(self, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> Array:
        """Return scaled products of the rows read with all keys, [heads read, rows, tokens]."""
        from transformers.models.llama import modeling_llama

        found: list[Array] = []
        plain = modeling_llama.eager_attention_forward

        def watched(module: Any, query: Any, key: Any, *rest: Any, **options: Any) -> Any:
            q, k = query[0].double().numpy(), key[0].double().numpy()
            k = np.repeat(k, q.shape[0] // k.shape[0], axis=0)
            found.append(q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]))
            return plain(module, query, key, *rest, **options)

        with monkeypatch.context() as patched:
            patched.setattr(modeling_llama, "eager_attention_forward", watched)
            weights = self.attention(prompt)
        rows = slice(*prompt.rows)
        logits = np.stack([found[layer][head, rows] for layer, head in self.heads])
        # These are what the weights are the softmax of.
        seen = np.tril(np.ones((len(prompt.ids), len(prompt.ids))))[rows]
        powers = np.exp(logits - logits.max(-1, keepdims=True)) * seen
        np.testing.assert_allclose(powers / powers.sum(-1, keepdims=True), weights, atol=1e-5)
        return logits

    def by_head(self, query: str, *, instruction: bool = True) -> Array:
        """Return mean attention, [heads read, shared]."""
        prompt = self.prompt(query, instruction=instruction)
        mass: Array = self.attention(prompt).mean(1)[:, : prompt.shared]
        return mass

    def summed(self, query: str, *, instruction: bool = True) -> Array:
        total: Array = self.weights @ self.by_head(query, instruction=instruction)
        return total


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> Reference:
    return Reference(folders["llama"])


def variant(part: str, **changes: Any) -> Profile:
    """Return ICR with weighted heads and one part of the profile changed."""
    profile = load_profile("icr")
    signal = dataclasses.replace(profile.signal, heads=WEIGHTED)
    profile = dataclasses.replace(profile, signal=signal)
    return dataclasses.replace(
        profile, **{part: dataclasses.replace(getattr(profile, part), **changes)}
    )


def check(reranker: AttentionReranker, expected: Sequence[float]) -> None:
    ranking = reranker.rank(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores_of(ranking), expected, atol=1e-5, rtol=1e-5)
    assert [document.index for document in ranking] == ranked(expected)


def pooled(reference: Reference, tokens: Array) -> list[float]:
    return [filtered_sum(tokens[a:b]) for a, b in reference.prompt(QUERY).spans]


def test_logits(
    folders: dict[str, Path], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    masses = []
    for query in (QUERY, "N/A"):
        prompt = reference.prompt(query)
        logits = reference.logits(prompt, monkeypatch)
        masses.append(reference.weights @ logits.mean(1)[:, : prompt.shared])
    reranker = load(folders["llama"], variant("signal", values="logits"))
    total = reranker.read(reranker.layout(QUERY, DOCUMENTS)).total().numpy()
    np.testing.assert_allclose(total, np.stack(masses), atol=1e-5, rtol=1e-5)
    check(reranker, pooled(reference, masses[0] - masses[1]))


@pytest.mark.parametrize("over", ["without-sink", "documents"])
def test_what_the_softmax_runs_over(
    over: str, folders: dict[str, Path], reference: Reference
) -> None:
    masses = []
    for query in (QUERY, "N/A"):
        prompt = reference.prompt(query)
        weights = reference.attention(prompt)
        # A softmax over some of the keys is the weights of these, made to sum to one.
        counted = list(range(1, len(prompt.ids)))
        if over == "documents":
            counted = [j for start, end in prompt.spans for j in range(start, end)]
        weights = weights / weights[:, :, counted].sum(-1, keepdims=True)
        masses.append(reference.weights @ weights.mean(1)[:, : prompt.shared])
    reranker = load(folders["llama"], variant("signal", over=over))
    layout = reranker.layout(QUERY, DOCUMENTS)
    total = reranker.read(layout).total().numpy()
    inside = [j for start, end in layout.spans for j in range(start, end)]
    np.testing.assert_allclose(total[:, inside], np.stack(masses)[:, inside], atol=1e-5, rtol=1e-6)
    if over == "documents":
        np.testing.assert_allclose(total[:, inside].sum(1), sum(WEIGHTED.values()), atol=1e-5)
    check(reranker, pooled(reference, masses[0] - masses[1]))


def test_heads_combined_by_documents(folders: dict[str, Path], reference: Reference) -> None:
    tokens = reference.by_head(QUERY) - reference.by_head("N/A")
    by_head = np.array([pooled(reference, head) for head in tokens])
    expected = reference.weights @ by_head
    reranker = load(folders["llama"], variant("signal", combine="documents"))
    mass = reranker.read(reranker.layout(QUERY, DOCUMENTS)).mass.numpy()
    np.testing.assert_allclose(mass[:, 0], reference.by_head(QUERY), atol=1e-5)
    check(reranker, [float(score) for score in expected])
    together = pooled(reference, reference.weights @ tokens)
    assert np.abs(expected - together).max() > 1e-4, "the filter sees heads apart"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("nulls", [NULLS[:1], NULLS])
def test_content_free_queries_with_and_without_the_instruction(
    nulls: tuple[str, ...], share: float, folders: dict[str, Path], reference: Reference
) -> None:
    told = np.mean([reference.summed(null) for null in nulls], 0)
    bare = np.mean([reference.summed(null, instruction=False) for null in nulls], 0)
    expected = pooled(reference, reference.summed(QUERY) - share * told - (1 - share) * bare)
    profile = variant("calibration", nulls=nulls, instruction_share=share)
    check(load(folders["llama"], profile), expected)


def log_ratio(heads: dict[str, float], combine: Any, temperature: float | None) -> Profile:
    """Return ICR by ratios of whole documents, without the filter."""
    icr = load_profile("icr")
    return dataclasses.replace(
        icr,
        signal=dataclasses.replace(icr.signal, heads=heads, combine=combine),
        calibration=dataclasses.replace(
            icr.calibration, compare="log-ratio", temperature=temperature
        ),
        pooling=dataclasses.replace(icr.pooling, drop_below_stds=None),
    )


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_log_ratio(
    temperature: float | None, folders: dict[str, Path], reference: Reference
) -> None:
    real, null = (reference.by_head(query) for query in (QUERY, "N/A"))
    spans = reference.prompt(QUERY).spans

    def ratios(of: Array, to: Array) -> Array:
        return np.array([np.log(of[a:b].sum() / to[a:b].sum()) for a, b in spans])

    def scores(found: Array) -> list[float]:
        powers = found if temperature is None else np.exp(found / temperature)
        return list(powers if temperature is None else powers / powers.sum())

    # A sum of attention has a logarithm where no weight is negative.
    weights = np.abs(reference.weights)
    heads = dict(zip(WEIGHTED, map(float, weights), strict=True))
    reranker = load(folders["llama"], log_ratio(heads, "tokens", temperature))
    check(reranker, scores(ratios(weights @ real, weights @ null)))
    apart = np.array([ratios(one, other) for one, other in zip(real, null, strict=True)])
    reranker = load(folders["llama"], log_ratio(WEIGHTED, "documents", temperature))
    check(reranker, scores(reference.weights @ apart))


def test_temperature_on_differences(folders: dict[str, Path], reference: Reference) -> None:
    scores = np.array(pooled(reference, reference.summed(QUERY) - reference.summed("N/A")))
    powers = np.exp((scores - scores.max()) / 0.2)
    profile = variant("calibration", temperature=0.2)
    check(load(folders["llama"], profile), list(powers / powers.sum()))


QUERIES = ["what is the capital of france", "cells", "which countries does France border, and why?"]


def test_several_queries_in_one_pass_equal_one_pass_each(folders: dict[str, Path]) -> None:
    profile = variant("calibration", nulls=NULLS, instruction_share=0.5)
    for each in (load_profile("icr"), profile):
        reranker = load(folders["llama"], each)
        together = reranker.rank_queries(QUERIES, DOCUMENTS)
        for ranking, query in zip(together, QUERIES, strict=True):
            alone = reranker.rank(query, DOCUMENTS)
            assert ranking.ids == alone.ids
            np.testing.assert_allclose(scores_of(ranking), scores_of(alone), atol=1e-5, rtol=1e-6)


def test_several_tails_in_one_forward_equal_one_forward_each(folders: dict[str, Path]) -> None:
    profile = variant("calibration", nulls=NULLS, instruction_share=0.5)
    reranker = load(folders["llama"], profile)
    layout = reranker.layout(QUERIES, DOCUMENTS)
    assert len(layout.tails) == len(QUERIES) + 2 * len(NULLS)
    together = reranker.read(layout).mass
    for number, tail in enumerate(layout.tails):
        alone = reranker.read(dataclasses.replace(layout, tails=(tail,), queries=1)).mass
        torch.testing.assert_close(together[:, [number]], alone, atol=1e-5, rtol=1e-6)


# A family whose projections are apart, one with norms of queries and keys, one with windows,
# and one whose projections are fused and so are not trimmed.
EARLY: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "llama": ("llama", LlamaConfig, {"num_hidden_layers": 5}),
    "qwen3": ("chatml", Qwen3Config, {"num_hidden_layers": 5, "head_dim": 24}),
    "gemma-2": (
        "gemma",
        Gemma2Config,
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 60,
            "attn_logit_softcapping": 20.0,
            "layer_types": ["full_attention", "full_attention", "full_attention"]
            + ["sliding_attention"] * 2,
        },
    ),
    "phi-4": ("phi-4", Phi3Config, {"num_hidden_layers": 5}),
}


def early(name: str, folder: Path) -> tuple[AttentionReranker, AttentionReranker, Profile]:
    """Return a whole model that reads every layer, and one that has and reads layers 1 and 2."""
    family, config, changes = EARLY[name]
    tiny_folder(family, config, folder, **changes)
    every = load_profile("icr")
    signal = dataclasses.replace(every.signal, layers=(1, 2))
    some = dataclasses.replace(every, signal=signal)
    assert signal.layers_needed == 3
    return load(folder, every), load(folder, some, layers=signal.layers_needed), some


@pytest.mark.parametrize("name", EARLY)
def test_an_early_exit_equals_the_same_layers_of_a_full_run(name: str, tmp_path: Path) -> None:
    full, short, some = early(name, tmp_path)
    layout = full.layout(QUERY, DOCUMENTS)
    assert short.layout(QUERY, DOCUMENTS) == layout
    every = full.read(layout)
    wanted = every.mass[[sorted(every.plan.weights).index(layer) for layer in (1, 2)]]
    found = short.read(layout).mass
    assert torch.equal(found, wanted)
    # Nor does it matter whether the layers behind are there.
    unread = AttentionReranker(full.engine, some)
    assert torch.equal(unread.read(layout).mass, found)
    assert unread.rank(QUERY, DOCUMENTS) == short.rank(QUERY, DOCUMENTS)


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_learned_profile_reads_what_a_full_run_reads(dtype: str) -> None:
    """The layers behind its exit are not there, and not a bit of what it reads is different."""
    learned = load_profile("smollm2-135m-learned")
    short = AttentionReranker.from_pretrained("smollm2-135m", profile=learned, dtype=dtype)
    full = AttentionReranker.from_pretrained(
        "smollm2-135m", profile=every_head(learned), dtype=dtype
    )
    assert len(short.engine.model.layers) < len(full.engine.model.layers) == 30
    every, found = (one.read(one.layout(QUERY, DOCUMENTS)) for one in (full, short))
    places = {head: place for place, head in enumerate(every.plan.heads)}
    assert torch.equal(found.mass, every.mass[[places[head] for head in found.plan.heads]])


@pytest.mark.parametrize("name", EARLY)
def test_layers_behind_the_last_one_read_are_not_loaded(name: str, tmp_path: Path) -> None:
    full, short, _ = early(name, tmp_path)
    layers = full.engine.model.layers
    behind = sum(weight.numel() for layer in layers[3:] for weight in layer.parameters())
    sizes = [
        sum(weight.numel() for weight in reranker.engine.model.parameters())
        for reranker in (full, short)
    ]
    assert behind > 0
    assert sizes[1] == sizes[0] - behind


@pytest.mark.parametrize("name", EARLY)
def test_what_runs_of_a_model_read_up_to_layer_2(name: str, tmp_path: Path) -> None:
    full, _, some = early(name, tmp_path)
    reranker = AttentionReranker(full.engine, some)
    layout = reranker.layout(QUERY, DOCUMENTS)
    # What both tails begin with is computed once.
    tails = [one.ids for one in layout.tails]
    common = next(n for n in range(100) if len({tuple(ids[: n + 1]) for ids in tails}) > 1)
    assert common > 0
    tail = sum(map(len, tails)) - common
    length = len(layout.shared) + tail
    rows: dict[str, list[int]] = {}

    def count(module: str) -> Any:
        def hook(_: Any, arguments: tuple[Any, ...], options: dict[str, Any], out: Any) -> None:
            given = arguments[0] if arguments else options["hidden_states"]
            rows.setdefault(module, []).append(given.shape[1])

        return hook

    for module, part in full.engine.model.named_modules():
        if ".self_attn." in module or module.endswith((".mlp", "embed_tokens")):
            part.register_forward_hook(count(module), with_kwargs=True)
    reranker.read(layout)

    assert rows["embed_tokens"] == [length]
    assert not any(module.startswith(("layers.3.", "layers.4.")) for module in rows)
    for layer in (0, 1):
        assert rows[f"layers.{layer}.self_attn.o_proj"] == [length]
        assert rows[f"layers.{layer}.mlp"] == [length]
    assert "layers.2.self_attn.o_proj" not in rows
    assert "layers.2.mlp" not in rows
    if name == "phi-4":
        assert rows["layers.2.self_attn.qkv_proj"] == [length]
        return
    # The tail's queries have a product of their own, as in the last layer: alike to the last bit.
    assert rows["layers.1.self_attn.q_proj"] == [length, tail]
    assert rows["layers.1.self_attn.v_proj"] == [length]
    assert rows["layers.2.self_attn.q_proj"] == [tail]
    assert rows["layers.2.self_attn.k_proj"] == [length]
    assert rows["layers.2.self_attn.v_proj"] == [0]
