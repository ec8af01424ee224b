"""The engine with the kernels in place of torch: the same signal, cold and over kept documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.kernel_cases import DEVICE
from tests.test_blocks import MODELS, SHARED

from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.frames import Frame
from ranklens.rerank.kernels.dispatch import choose
from ranklens.rerank.kv.cache import DocumentCache
from ranklens.rerank.profile import LayoutChoice, Profile
from ranklens.rerank.profile_file import load_profile

pytest_plugins = ["kernel_fixtures"]
MakeModel = Callable[..., Path]

QUERY = "capital"
DOCUMENTS = [
    Document("paris", "Paris is a capital."),
    Document("empty", ""),
    Document("cell", "The cell is small, and it has a wall or has none."),
    Document("again", "Paris is a capital."),
]


def brief(layout: LayoutChoice) -> Profile:
    """Return ICR with few words: the interpreter takes its time for every tile."""
    icr = load_profile("icr")
    frame = Frame("brief", prefix="U", suffix="A", separator="\n")
    prompt = dataclasses.replace(
        icr.prompt, introduction=" Texts", marker="T:", instruction="Find:", query_label="Q:",
        frame=frame,
    )  # fmt: skip
    return dataclasses.replace(icr, prompt=prompt, layout=layout)


PROFILES: dict[str, Profile] = {
    "shared": brief(SHARED),
    "moved": brief(LayoutChoice("block", "moved")),
    "causal": brief(LayoutChoice()),
}


def load(folder: Path, profile: Profile, cache: DocumentCache | None = None) -> AttentionReranker:
    return AttentionReranker.from_pretrained(
        folder, profile=profile, device=DEVICE, dtype="float32", documents=cache
    )


def both(ours: AttentionReranker, queries: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mass that torch finds, and that the kernels find."""
    layout = ours.layout(queries, DOCUMENTS)
    ours.engine.backend = "torch"
    expected = ours.read(layout).mass
    ours.engine.backend = "triton"
    return expected, ours.read(layout).mass


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize(
    ("name", "how"),
    [
        # GPT-OSS has yarn rotations, which are not moved.
        (name, how)
        for name in ("llama", "gemma2", "gpt-oss")
        for how in PROFILES
        if (name, how) != ("gpt-oss", "moved")
    ],
)
def test_the_signal_is_the_same(name: str, how: str, tiny_model: MakeModel) -> None:
    """Grouped heads; windows and soft caps; sinks."""
    kind, settings = MODELS[name]
    settings = {**settings, "num_hidden_layers": 2}
    if "sliding_window" in settings:
        settings["sliding_window"] = 16
    ours = load(tiny_model(kind=kind, **settings), PROFILES[how])
    expected, found = both(ours, [QUERY, "cell"])
    assert expected.max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize(
    "change",
    [
        {"heads": {"0-1": 2.0, "1-0": -0.5, "1-2": 0.0}, "combine": "documents"},
        {"heads": {"0-3": 1.0, "1-1": 0.5}},
        {"over": "documents"},
        {"over": "without-sink"},
        {"values": "logits"},
        {"values": "rollout"},
    ],
    ids=str,
)
def test_other_signals_are_the_same(change: dict[str, Any], tiny_model: MakeModel) -> None:
    profile = PROFILES["shared"]
    signal = dataclasses.replace(profile.signal, **change)
    ours = load(tiny_model(num_hidden_layers=2), dataclasses.replace(profile, signal=signal))
    expected, found = both(ours, [QUERY])
    if change.get("over") is not None:
        # What does not count has no mass by the kernels; torch scales it like the rest.
        spans = ours.layout(QUERY, DOCUMENTS).spans
        inside = torch.cat([torch.arange(start, end) for start, end in spans])
        expected, found = expected[..., inside], found[..., inside]
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("how", ["shared", "moved"])
def test_kept_documents_give_the_same_bits_by_the_kernels(how: str, tiny_model: MakeModel) -> None:
    cache = DocumentCache()
    ours = load(tiny_model(num_hidden_layers=2), PROFILES[how], cache)
    ours.engine.backend = "triton"
    layout = ours.layout(QUERY, DOCUMENTS)
    expected = ours.engine.read(layout, ours.plan, steady=True).mass
    ours.rank(QUERY, DOCUMENTS[2:4])
    assert torch.equal(ours.read(layout).mass, expected)
    computed = cache.counts.computed
    assert torch.equal(ours.read(layout).mass, expected)
    assert cache.counts.computed == computed


def test_the_engine_takes_what_the_device_is_for(tiny_model: MakeModel) -> None:
    ours = load(tiny_model(num_hidden_layers=2), PROFILES["shared"])
    assert ours.engine.backend == choose(DEVICE).name
    assert choose("cpu").name == "torch"
