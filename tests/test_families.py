"""Model families against eager attention, and chat frames against the published strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.oracle import (
    FAMILIES,
    QUERY,
    TEXTS,
    Array,
    Eager,
    Prompt,
    Wording,
    filtered_sum,
    ranked,
    tiny_folder,
    write,
)
from transformers import (
    AutoModel,
    DiffLlamaConfig,
    DogeConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    StableLmConfig,
)

from ranklens.data.device import choose_placement
from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.frames import frame_of
from ranklens.rerank.profile import SignalChoice
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout, Tail

# Together over 256 tokens, the engine's block of rows, and over every window below.
DOCUMENTS = [*TEXTS, " ".join(TEXTS * 3), " ".join(reversed(TEXTS))]
SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Case:
    """A tiny model; ``full`` are its full layers, ``without`` what takes its peculiarity away."""

    family: str
    config: Callable[..., Any]
    changes: dict[str, Any]
    full: tuple[int, ...] = (0, 1, 2)
    without: dict[str, Any] = field(default_factory=dict)


MIXED = {"num_hidden_layers": 4, "layer_types": [SLIDING, FULL, SLIDING, FULL]}
ALL_FULL = {"layer_types": [FULL] * 4}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    "original_max_position_embeddings": 128,
}
CASES = {
    "llama": Case("llama", LlamaConfig, {}),
    "mistral-window": Case("mistral", MistralConfig, {"sliding_window": 1500}),
    "qwen2-mixed": Case(
        "chatml",
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 60, **MIXED},
        full=(1, 3),
        without=ALL_FULL,
    ),
    "qwen3": Case("chatml", Qwen3Config, {"head_dim": 24}),
    "gemma-2": Case(
        "gemma",
        Gemma2Config,
        {
            "head_dim": 16,
            "sliding_window": 60,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            **MIXED,
        },
        full=(1, 3),
        without={"attn_logit_softcapping": None},
    ),
    "gemma-3": Case(
        "gemma",
        Gemma3TextConfig,
        {"head_dim": 16, "sliding_window": 60, "query_pre_attn_scalar": 16, **MIXED},
        full=(1, 3),
        without=ALL_FULL,
    ),
    # transformers reads this setting of Gemma 3 and applies no cap; whatever it does, we do.
    "gemma-3-cap": Case(
        "gemma",
        Gemma3TextConfig,
        {
            "head_dim": 16,
            "sliding_window": 60,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 2.0,
            **MIXED,
        },
        full=(1, 3),
    ),
    "phi-3": Case("phi-4", Phi3Config, {}),
    "phi-3-longrope": Case(
        "phi-4",
        Phi3Config,
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 128},
        without={"rope_parameters": LONG_ROPE | {"long_factor": [1.0] * 8}},
    ),
    "olmo-2": Case("olmo", Olmo2Config, {}),
    "granite": Case(
        "granite",
        GraniteConfig,
        {
            "attention_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.5,
            "logits_scaling": 2.0,
        },
        without={"attention_multiplier": 1.0},
    ),
    "gpt-oss": Case(
        "harmony",
        GptOssConfig,
        {
            "head_dim": 16,
            "sliding_window": 60,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            **MIXED,
        },
        full=(1, 3),
        without=ALL_FULL,
    ),
}


def make(case: Case, folder: Path, *, bf16: bool = False, **changes: Any) -> Path:
    """Save the case's model. Sinks are drawn apart: those of a fresh model hardly matter."""
    tiny_folder(case.family, case.config, folder, bf16=bf16, **{**case.changes, **changes})
    if case.config is GptOssConfig:
        set_sinks(folder, 2.0)
    return folder


def set_sinks(folder: Path, size: float) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    random = torch.Generator().manual_seed(3)
    for name, weight in weights.items():
        if name.endswith("sinks"):
            weight.copy_(size * torch.randn(weight.shape, generator=random))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path, dtype: str = "float32") -> AttentionReranker:
    engine = AttentionEngine.from_pretrained(folder, device="cpu", dtype=dtype)
    return AttentionReranker(engine, load_profile("icr"))


def prompts(eager: Eager, case: Case) -> list[Prompt]:
    return [
        write(eager.tokenizer, FAMILIES[case.family], Wording(), DOCUMENTS, query)
        for query in (QUERY, "N/A")
    ]


def both_masses(eager: Eager, case: Case) -> Array:
    """Return heads summed, of the query and the null, [2, layers, shared]."""
    return np.stack([eager.mass(prompt).sum(1) for prompt in prompts(eager, case)])


@pytest.mark.parametrize("name", CASES)
def test_a_family_equals_two_eager_passes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    eager = Eager(make(case, tmp_path))
    real, null = prompts(eager, case)
    expected = both_masses(eager, case)[:, list(case.full)]
    reranker = load(tmp_path)
    records = [Document(str(i), text) for i, text in enumerate(DOCUMENTS)]
    layout = reranker.layout(QUERY, records)
    assert layout.shared + layout.tails[0].ids == real.ids
    assert layout.shared + layout.tails[1].ids == null.ids
    assert list(layout.spans) == real.spans
    assert len(layout.shared) > 256 + 60

    signal = reranker.read(layout)
    assert sorted(signal.plan.weights) == list(case.full)
    by_layer = signal.mass.numpy().transpose(1, 0, 2)
    np.testing.assert_allclose(by_layer, expected, atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(signal.total().numpy(), expected.sum(1), atol=1e-5, rtol=1e-6)

    tokens = expected[0].sum(0) - expected[1].sum(0)
    scores = [filtered_sum(tokens[start:end]) for start, end in real.spans]
    ranking = reranker.rank(QUERY, records)
    ours = {document.index: document.score for document in ranking}
    np.testing.assert_allclose([ours[i] for i in range(len(records))], scores, atol=1e-5, rtol=1e-5)
    assert [document.index for document in ranking] == ranked(scores)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.without])
def test_what_is_peculiar_to_a_family_changes_its_attention(name: str, tmp_path: Path) -> None:
    # Else the test above would pass for an engine that ignores it.
    case = CASES[name]
    with_it = both_masses(Eager(make(case, tmp_path / "with")), case)
    without = both_masses(Eager(make(case, tmp_path / "without", **case.without)), case)
    assert np.abs(with_it - without)[:, list(case.full)].max() > 1e-3


def test_sinks_change_the_attention_of_gpt_oss(tmp_path: Path) -> None:
    case = CASES["gpt-oss"]
    folder = make(case, tmp_path)
    with_sinks = both_masses(Eager(folder), case)
    set_sinks(folder, 0.0)
    assert np.abs(with_sinks - both_masses(Eager(folder), case)).max() > 1e-2


def test_branches_on_both_sides_of_a_long_rope_share_the_long_factors(tmp_path: Path) -> None:
    """A null query a few tokens shorter must not be read at other rotations than the query."""
    case = CASES["phi-3-longrope"]
    records = [Document(str(i), text) for i, text in enumerate(DOCUMENTS)]
    layout = load(make(case, tmp_path / "any")).layout(QUERY, records)
    real, null = (len(layout.shared) + len(tail.ids) for tail in layout.tails)
    assert real > null

    def read(name: str, **rope: Any) -> torch.Tensor:
        between: dict[str, Any] = {"original_max_position_embeddings": null}
        changes = between | {"rope_parameters": LONG_ROPE | between | rope}
        return load(make(case, tmp_path / name, **changes)).read(layout).mass

    found = read("between")
    everything_long = read("long", short_factor=LONG_ROPE["long_factor"])
    assert torch.equal(found, everything_long)
    everything_short = read("short", long_factor=LONG_ROPE["short_factor"])
    assert (found - everything_short).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma-2", "gemma-3", "gpt-oss", "phi-3"])
def test_bfloat16_is_at_most_twice_as_far_off_as_eager_bfloat16(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder = make(case, tmp_path, bf16=True)
    full = list(case.full)
    exact = both_masses(Eager(folder), case)[:, full]
    theirs = both_masses(Eager(folder, torch.bfloat16), case)[:, full]
    reranker = load(folder, "bfloat16")
    layout = reranker.layout(QUERY, [Document(str(i), t) for i, t in enumerate(DOCUMENTS)])
    ours = reranker.read(layout).mass.numpy().transpose(1, 0, 2)

    def error(found: Array) -> float:
        return float(np.sqrt(np.mean((found - exact) ** 2)))

    assert error(theirs) > 0
    assert error(ours) <= 2 * error(theirs)


def test_a_window_shorter_than_the_prompt_is_a_context_overflow(tmp_path: Path) -> None:
    # Every layer of Phi-3 slides, so beyond the window no layer would reach all documents.
    records = [Document(str(i), text) for i, text in enumerate(DOCUMENTS)]
    folder = tiny_folder("phi-4", Phi3Config, tmp_path / "narrow", sliding_window=120)
    reranker = load(folder)
    assert reranker.engine.context == 120
    with pytest.raises(InvalidInputError, match=r"do not fit the model's context of 120 tokens"):
        reranker.rank(QUERY, records)
    full = load(make(CASES["phi-3"], tmp_path / "full"))
    with pytest.raises(InvalidInputError, match=r"exceeds the context of 120"):
        reranker.read(full.layout(QUERY, records))
    # Where documents can be cut to fit the window, nothing of the prompt slides out of sight.
    roomy = load(tiny_folder("phi-4", Phi3Config, tmp_path / "roomy", sliding_window=250))
    layout = roomy.layout(QUERY, records)
    assert layout.length <= 250
    assert sum(layout.tokens_cut) == full.layout(QUERY, records).length - layout.length


def test_first_layers_that_all_slide_do_not_pass_for_a_model_without_full_ones(
    tmp_path: Path,
) -> None:
    folder = make(CASES["gemma-3"], tmp_path)
    with pytest.raises(InvalidInputError, match=r"first 1 layers .* slid.* full layers are 1, 3"):
        AttentionEngine.from_pretrained(folder, device="cpu", layers=1)
    engine = AttentionEngine.from_pretrained(folder, device="cpu", layers=2)
    assert engine.context == 2048


SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
RECURRENT: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "mamba": (MambaConfig, {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1}),
    "recurrent_gemma": (
        RecurrentGemmaConfig,
        {**SMALL, "num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 64},
    ),
    "qwen3_next": (
        Qwen3NextConfig,
        {
            **SMALL,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    "lfm2": (Lfm2Config, {**SMALL, "full_attn_idxs": [1]}),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_a_family_that_mixes_tokens_otherwise_is_refused_by_name(name: str) -> None:
    config, changes = RECURRENT[name]
    model = AutoModel.from_config(config(**changes))
    with pytest.raises(InvalidInputError, match=f"'{name}' model .*use a"):
        AttentionEngine(model, SimpleNamespace(), choose_placement("cpu", "float32"))


STRANGE: dict[str, tuple[Callable[..., Any], str]] = {
    "differential": (DiffLlamaConfig, r"DiffLlamaAttention attends more than once in layer 0"),
    "own-mask": (DogeConfig, r"DogeAttention makes a mask of its own"),
    "drops-arguments": (StableLmConfig, r"StableLmAttention got no AttentionRun"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_attention_that_is_not_one_causal_softmax_is_refused(name: str) -> None:
    config, message = STRANGE[name]
    model = AutoModel.from_config(config(**SMALL | {"num_key_value_heads": 2}))
    with pytest.raises(InvalidInputError, match=message):
        AttentionEngine(model, SimpleNamespace(), choose_placement("cpu", "float32"))


def test_an_option_of_attention_that_is_not_known_is_refused() -> None:
    # As sparse attention passes which keys count.
    model = AutoModel.from_config(LlamaConfig(**SMALL))
    engine = AttentionEngine(model, SimpleNamespace(), choose_placement("cpu", "float32"))
    plain = model.layers[0].self_attn.forward
    model.layers[0].self_attn.forward = lambda *a, **o: plain(*a, **o, indices=torch.zeros(1))
    layout = PromptLayout([1, 2, 3], (Tail([4], (0, 1)),), 1, ((1, 3),), (0,))
    with pytest.raises(InvalidInputError, match=r"LlamaAttention attends by 'indices'"):
        engine.read(layout, engine.plan(SignalChoice(rows="last")))


# Shortened from the families' own templates: what marks the family, and how a turn is written.
TEMPLATES = {
    "granite": (
        "{%- set date = strftime_now('%B %d, %Y') %}{% for m in messages %}"
        "{{ '<|start_of_role|>' + m['role'] + '<|end_of_role|>' + m['content'] }}"
        "{{ '<|end_of_text|>\n' }}{% endfor %}"
    ),
    "phi-4": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] "
        "+ '<|im_end|>' }}{% endfor %}"
    ),
    "llama-3": (
        "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ '<|start_header_id|>' + "
        "m['role'] + '<|end_header_id|>\n\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
    ),
    "mistral": "{% for m in messages %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}",
    # Qwen and SmolLM2 bring a system turn of their own, which ICR's frame does without.
    "chatml": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI "
        "assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + "
        "'<|im_end|>\n' }}{% endfor %}"
    ),
    "harmony": (
        "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
        "{% for m in messages %}{{ '<|start|>user<|message|>' + m['content'] + '<|end|>' }}"
        "{% endfor %}"
    ),
}


def tokenizer_with(template: str | None, *special: str) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), additional_special_tokens=list(special)
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_family_is_known_by_its_template_or_its_tokens(name: str) -> None:
    strings = FAMILIES[{"llama-3": "llama"}.get(name, name)]
    expected = (name, strings.prefix, strings.suffix, strings.separator)
    for tokenizer in (tokenizer_with(TEMPLATES[name]), tokenizer_with(None, *strings.special)):
        frame = frame_of(tokenizer)
        assert (frame.name, frame.prefix, frame.suffix, frame.separator) == expected


@pytest.mark.parametrize("family", ["gemma", "olmo"])
def test_other_families_are_framed_by_their_own_template(family: str) -> None:
    strings = FAMILIES[family]
    tokenizer = tokenizer_with(strings.template, *strings.special)
    tokenizer.bos_token = strings.bos
    frame = frame_of(tokenizer)
    assert (frame.name, frame.prefix, frame.suffix, frame.separator) == (
        "chat-template",
        strings.prefix,
        strings.suffix,
        "\n\n",
    )


def test_a_base_model_has_no_frame() -> None:
    frame = frame_of(tokenizer_with(None))
    assert (frame.name, frame.prefix, frame.suffix) == ("plain", "", "")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ strftime_now('%Y') }}{{ messages[0]['content'] }}", "today's date"),
        ("{{ messages[0]['content'] | length }}", "does not reproduce the user's message"),
        ("{{ raise_exception('no user turn') }}", "does not work: no user turn"),
        ("{% if %}", "does not work"),
    ],
)
def test_a_template_that_cannot_frame_documents(template: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        frame_of(tokenizer_with(template))
