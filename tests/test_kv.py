"""Documents computed once: what is read over them is what a pass with all of them reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_blocks import DOCUMENTS, MODELS, QUERY, SHARED, blocked
from transformers import AutoModel, DynamicCache

from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.kv.cache import DocumentCache
from ranklens.rerank.kv.entry import Entry, entry
from ranklens.rerank.kv.memory import Memory
from ranklens.rerank.kv.reading import CachedReading
from ranklens.rerank.profile import LayoutChoice, Profile
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout

MakeModel = Callable[..., Path]
MOVED = LayoutChoice("block", "moved")


def plain(layout: LayoutChoice = SHARED) -> Profile:
    """Return ICR in blocks whose documents hold no number."""
    return blocked(layout, marker="Document: ")


def load(
    folder: Path,
    cache: DocumentCache | None = None,
    profile: Profile | None = None,
    dtype: str = "float32",
) -> AttentionReranker:
    return AttentionReranker.from_pretrained(
        folder, profile=profile or plain(), device="cpu", dtype=dtype, documents=cache
    )


def steady(reranker: AttentionReranker, layout: PromptLayout) -> torch.Tensor:
    """Return what a single pass over everything reads, with nothing kept."""
    return reranker.engine.read(layout, reranker.plan, steady=True).mass


def entries_of(reranker: AttentionReranker, layout: PromptLayout) -> list[Entry]:
    """Return what is kept of a layout's prefix and documents."""
    reading = CachedReading(reranker.engine, DocumentCache(), reranker.profile, reranker.model)
    return reading.keep(layout, reranker.plan)


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: MODELS[name] for name in ("llama", "qwen3", "gemma2")},
    # Query, key and value projections in one.
    "phi3": ("phi3", {"num_hidden_layers": 2, "pad_token_id": None}),
}


@pytest.mark.parametrize("positions", ["shared", "far", "moved"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_kept_documents_give_the_same_bits(
    name: str, dtype: str, positions: str, tiny_model: MakeModel
) -> None:
    kind, settings = FAMILIES[name]
    layout = {"shared": SHARED, "far": LayoutChoice("block", "shared", 1500), "moved": MOVED}[
        positions
    ]
    cache = DocumentCache()
    ours = load(tiny_model(kind=kind, **settings), cache, plain(layout), dtype)
    whole = ours.layout([QUERY, "what is a cell"], DOCUMENTS)
    expected = steady(ours, whole)
    assert expected.isfinite().all()
    assert expected.abs().max() > 1e-2
    # Two of them computed alone, others beside them, then all kept.
    ours.rank(QUERY, [DOCUMENTS[3], DOCUMENTS[1]])
    some = cache.counts.computed
    assert torch.equal(ours.read(whole).mass, expected)
    assert cache.counts.computed == some + len(DOCUMENTS) - 3, "one of them stands twice"
    every = cache.counts.computed
    assert torch.equal(ours.read(whole).mass, expected)
    assert cache.counts.computed == every
    # And a fast pass, without a cache, differs by rounding at most.
    fast = ours.engine.read(whole, ours.plan).mass
    if dtype == "float32":
        torch.testing.assert_close(fast, expected, atol=1e-5, rtol=1e-5)
    scores = {one.id: one.score for one in ours.rank("what is a cell", DOCUMENTS)}
    again = {one.id: one.score for one in ours.rank("what is a cell", DOCUMENTS)}
    assert scores == again


def test_experts_that_group_tokens_round_with_their_neighbours(tiny_model: MakeModel) -> None:
    kind, settings = MODELS["gpt-oss"]
    ours = load(tiny_model(kind=kind, **settings), DocumentCache())
    layout = ours.layout(QUERY, DOCUMENTS)
    ours.rank(QUERY, DOCUMENTS[2:5])
    torch.testing.assert_close(ours.read(layout).mass, steady(ours, layout), atol=1e-6, rtol=1e-5)


def turned(keys: torch.Tensor, by: Sequence[int], theta: float) -> torch.Tensor:
    """Return keys [..., tokens, D] a number of positions later, as complex numbers."""
    half = keys.shape[-1] // 2
    angles = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones(len(by), half).double(), torch.tensor(by)[:, None] * angles)
    pairs = torch.complex(keys[..., :half].double(), keys[..., half:].double()) * turn
    return torch.cat([pairs.real, pairs.imag], dim=-1).float()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_moved_documents_equal_a_cache_whose_keys_were_turned(
    kind: str, tiny_model: MakeModel
) -> None:
    """Every document prefilled alone by transformers, its keys turned to its place, then tails."""
    folder = tiny_model(kind=kind, num_hidden_layers=3)
    ours = load(folder, DocumentCache(), plain(MOVED))
    layout = ours.layout(QUERY, DOCUMENTS)
    assert layout.places == tuple(range(len(layout.shared)))
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    theta = model.config.rope_parameters["rope_theta"]
    prefix = layout.blocks[0][0]
    parts: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for start, end in [(0, prefix), *layout.blocks]:
        ids = layout.shared[:prefix] + (layout.shared[start:end] if start else [])
        with torch.no_grad():
            past = model.eval()(torch.tensor([ids]), use_cache=True).past_key_values
        own = slice(prefix, None) if start else slice(0, prefix)
        by = [start - prefix if start else 0] * (end - start)
        parts.append(
            [
                (turned(each.keys[0, :, own], by, theta), each.values[0, :, own])
                for each in past.layers
            ]
        )
    for number, tail in enumerate(layout.tails):
        cache = DynamicCache()
        for layer in range(3):
            keys, values = (
                torch.cat([part[layer][which] for part in parts], dim=1)[None] for which in (0, 1)
            )
            cache.update(keys, values, layer)
        first = len(layout.shared)
        with torch.no_grad():
            attentions = model(
                torch.tensor([tail.ids]),
                past_key_values=cache,
                position_ids=torch.arange(first, first + len(tail.ids))[None],
                output_attentions=True,
            ).attentions
        rows = slice(*tail.rows)
        expected = torch.stack([a[0, :, rows, :first].mean(1).sum(0) for a in attentions])
        found = ours.read(layout).mass[:, number]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    # At shared positions it is another signal.
    side_by_side = ours.engine.read(dataclasses.replace(layout, places=None), ours.plan).mass
    assert (side_by_side - ours.read(layout).mass).abs().max() > 1e-3


def test_keys_of_other_rotations_are_not_moved(tiny_model: MakeModel) -> None:
    kind, settings = "gemma3_text", {"num_hidden_layers": 6, "head_dim": 8, "sliding_window": 48}
    ours = load(tiny_model(kind=kind, **settings), None, plain(MOVED))
    with pytest.raises(InvalidInputError, match="turns keys to other positions"):
        ours.rank(QUERY, DOCUMENTS)
    # One that pairs neighbouring channels is found out by moving a key.
    llama = load(tiny_model(), None, plain(MOVED))
    rotary = llama.engine.model.rotary_emb
    llama.engine.frequencies()
    llama.engine._frequencies = None
    inverse = rotary.inv_freq.clone()

    def otherwise(states: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> Any:
        angles = (position_ids[..., None] * inverse).repeat_interleave(2, -1)
        return angles.cos().to(states.dtype), angles.sin().to(states.dtype)

    rotary.forward = otherwise
    with pytest.raises(InvalidInputError, match="rotates its keys otherwise than Llama"):
        llama.engine.frequencies()


def test_layers_without_rotation_are_not_moved(tiny_model: MakeModel) -> None:
    """SmolLM3 leaves every fourth layer without positions: turning its keys would be wrong."""
    settings = {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 1], "pad_token_id": None}
    ours = load(tiny_model(kind="smollm3", **settings), None, plain(MOVED))
    with pytest.raises(InvalidInputError, match="layer 2 of a 'smollm3' model rotates"):
        ours.rank(QUERY, DOCUMENTS)


def test_a_window_is_one_way_for_all_blocks_of_a_length(tiny_model: MakeModel) -> None:
    """Lengths are rounded up for a batch; a window between two of them must not tell them apart."""
    kind, settings = MODELS["gemma2"]
    ours = load(tiny_model(kind=kind, **(settings | {"sliding_window": 41})), DocumentCache())
    documents = [Document(str(n), " ".join(["bread"] * n + ["soil"])) for n in range(14)]
    for document in documents[::2]:
        ours.rank(QUERY, [document])
    layout = ours.layout(QUERY, documents)
    assert torch.equal(ours.read(layout).mass, steady(ours, layout))


def test_int8_is_off_by_half_a_step_of_its_channel() -> None:
    generator = torch.Generator().manual_seed(3)
    keys = torch.randn(2, 3, 7, 8, generator=generator) * torch.logspace(-3, 3, 8)
    keys[0, 0, :, 1] = 0
    values = torch.randn(2, 3, 7, 8, generator=generator)
    last = torch.randn(1, 7, 8, generator=generator)
    kept = entry(keys, values, last, "int8")
    for name, states in (("keys", keys), ("values", values)):
        for layer in range(2):
            back = kept.get(name, layer, torch.float32)
            step = states[layer].abs().amax(-2, keepdim=True) / 127
            assert ((back - states[layer]).abs() <= step / 2 + 1e-7 * step).all()
    assert (kept.get("last", None, torch.float32) - last).abs().max() > 0
    exact = entry(keys, values, last, "exact")
    assert kept.nbytes < exact.nbytes / 2
    assert torch.equal(exact.get("keys", 1, torch.float32), keys[1])
    half = entry(keys, values, last, "bfloat16")
    assert torch.equal(half.get("keys", 1, torch.float32), keys[1].bfloat16().float())


@pytest.mark.parametrize(
    ("storage", "least", "most"), [("bfloat16", 1e-7, 0.01), ("int8", 1e-7, 0.03)]
)
def test_fewer_bits_cost_little_and_are_used_at_once(
    storage: Any, least: float, most: float, tiny_model: MakeModel
) -> None:
    folder = tiny_model(num_hidden_layers=3)
    cache = DocumentCache(storage=storage)
    ours = load(folder, cache)
    layout = ours.layout(QUERY, DOCUMENTS)
    exact = steady(ours, layout)
    first = ours.read(layout).mass
    assert cache.counts.computed > 0
    # What is computed is read as it is stored, or the second time would be another ranking.
    assert torch.equal(ours.read(layout).mass, first)
    error = float((first - exact).abs().max() / exact.abs().max())
    assert least < error < most


def test_pruned_documents_are_read_at_their_kept_tokens(tiny_model: MakeModel) -> None:
    """Against an eager pass whose tails do not see the tokens that were left out."""
    folder = tiny_model(num_hidden_layers=3)
    cache = DocumentCache(keep_tokens=5)
    ours = load(folder, cache)
    layout = ours.layout(QUERY, DOCUMENTS)
    signal = ours.read(layout).mass
    assert torch.equal(ours.read(layout).mass, signal)
    shared = len(layout.shared)
    seen = signal[0, 0] != 0
    assert seen[: layout.blocks[0][0]].all()
    assert [int(seen[a:b].sum()) for a, b in layout.blocks] == [
        min(5, b - a) for a, b in layout.blocks
    ]
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    alone = load(folder)
    for number, tail in enumerate(layout.tails):
        ids = [*layout.shared, *tail.ids]
        start = layout.tail_start or 0
        positions = [*(layout.positions or ()), *range(start, start + len(tail.ids))]
        visible = torch.ones(len(ids), len(ids)).tril() > 0
        for first, end in layout.blocks:
            visible[first:end, layout.blocks[0][0] : first] = False
        visible[shared:, :shared] &= seen
        mask = torch.zeros(1, 1, *visible.shape).masked_fill(
            ~visible, torch.finfo(torch.float32).min
        )
        with torch.no_grad():
            attentions = model.eval()(
                torch.tensor([ids]), attention_mask=mask, output_attentions=True,
                position_ids=torch.tensor([positions]),
            ).attentions  # fmt: skip
        rows = slice(shared + tail.rows[0], shared + tail.rows[1])
        expected = torch.stack([a[0, :, rows, :shared].mean(1).sum(0) for a in attentions])
        torch.testing.assert_close(signal[:, number], expected, atol=1e-5, rtol=1e-5)
    # Kept are those to which the content-free query pays most over the document alone.
    start, end = layout.blocks[-1]
    long = max(DOCUMENTS, key=lambda document: len(document.text))
    paid = alone.read(alone.layout(QUERY, [long])).mass[:, 1].sum(0)[layout.blocks[0][0] :]
    assert sorted(paid.topk(5).indices.tolist()) == [
        place - start for place in range(start, end) if seen[place]
    ]


def test_pruning_says_what_it_costs(tiny_model: MakeModel) -> None:
    folder = tiny_model()
    lost = []
    for keep in (4, 12, 1000):
        cache = DocumentCache(keep_tokens=keep)
        load(folder, cache).keep(DOCUMENTS)
        lost.append(cache.counts.lost / cache.counts.computed)
    assert 1 > lost[0] > lost[1] > lost[2] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"heads": {"0-1": 2.0, "1-0": -0.5}},
        {"heads": {"0-1": -0.1, "1-0": 3.0}},
        {"values": "logits"},
        {"over": "without-sink"},
        {"combine": "documents"},
    ],
    ids=str,
)
def test_what_is_pruned_by_another_signal_is_not_shared(
    change: dict[str, Any], tiny_model: MakeModel
) -> None:
    """Which tokens are kept depends on weights, values and softmax, not on names of heads."""
    folder = tiny_model(num_hidden_layers=2)
    signal = dataclasses.replace(plain().signal, heads={"0-1": 1.0, "1-0": 1.0})
    first = dataclasses.replace(plain(), signal=signal)
    second = dataclasses.replace(plain(), signal=dataclasses.replace(signal, **change))
    expected = load(folder, DocumentCache(keep_tokens=5), second).rank(QUERY, DOCUMENTS)
    cache = DocumentCache(keep_tokens=5)
    load(folder, cache, first).rank(QUERY, DOCUMENTS)
    before = cache.counts.computed
    assert load(folder, cache, second).rank(QUERY, DOCUMENTS) == expected
    assert cache.counts.computed == 2 * before


@pytest.mark.parametrize("nulls", [("N/A",), ("N/A", "none at all", "what")])
def test_out_of_memory_prunes_as_ever(
    nulls: tuple[str, ...], tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration = dataclasses.replace(plain().calibration, nulls=nulls)
    profile = dataclasses.replace(plain(), calibration=calibration)
    folder = tiny_model(num_hidden_layers=2)
    expected = load(folder, DocumentCache(keep_tokens=5), profile).rank(QUERY, DOCUMENTS)
    cache = DocumentCache(keep_tokens=5)
    ours = load(folder, cache, profile)
    read = ours.engine.read

    def small(layout: PromptLayout, plan: Any, *, held: Any = None, steady: bool = False) -> Any:
        # A tail of its own for each document is computed as it is; a prompt takes one at a time.
        if held is not None and len(layout.tails) > 1:
            raise torch.OutOfMemoryError
        return read(layout, plan, held=held, steady=steady)

    monkeypatch.setattr(ours.engine, "read", small)
    found = ours.rank(QUERY, DOCUMENTS)
    assert found.ids == expected.ids
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-6)
    assert cache.counts.computed == len(DOCUMENTS) - 1


def test_entries_hold_their_own_memory_only(tiny_model: MakeModel) -> None:
    """One key head, one layer before the last: what is cut out of a batch would be a view of it."""
    ours = load(tiny_model(num_hidden_layers=2, num_key_value_heads=1), DocumentCache())
    layout = ours.layout(QUERY, DOCUMENTS)
    for one in entries_of(ours, layout):
        for name, tensor in one.tensors.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_a_model_that_is_changed_has_other_documents(tiny_model: MakeModel) -> None:
    folder = tiny_model(num_hidden_layers=2)
    cache = DocumentCache()
    ours = load(folder, cache)
    layout = ours.layout(QUERY, DOCUMENTS)
    ours.read(layout)
    ours.engine.model.bfloat16()
    assert torch.equal(ours.read(layout).mass, steady(ours, layout))
    assert cache.counts.computed == 2 * (len(DOCUMENTS) - 1)


def test_layers_of_different_shapes_are_refused(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load(tiny_model(num_hidden_layers=2), DocumentCache())
    monkeypatch.setattr(ours.engine.config, "num_key_value_heads", 1)
    with pytest.raises(InvalidInputError, match=r"same key heads in every layer.*has 2 of size 8"):
        ours.rank(QUERY, DOCUMENTS)


def test_only_heads_that_are_read_are_kept_of_the_last_layer(tiny_model: MakeModel) -> None:
    folder = tiny_model(num_hidden_layers=3)
    signal = dataclasses.replace(plain().signal, heads={"0-1": 1.0, "1-3": 2.0})
    ours = load(folder, DocumentCache(), dataclasses.replace(plain(), signal=signal))
    layout = ours.layout(QUERY, DOCUMENTS)
    first = ours.read(layout)
    assert torch.equal(first.mass, steady(ours, layout))
    one = entries_of(ours, layout)[1]
    # Four heads share two key heads; the last layer has keys of one, and no values.
    assert one.tensors["keys"].shape[:2] == (1, 2)
    assert one.tensors["values"].shape[:2] == (1, 2)
    assert one.tensors["last"].shape[0] == 1


def test_memory_keeps_what_was_asked_for_last() -> None:
    one = entry(torch.zeros(1, 1, 8, 4), torch.zeros(1, 1, 8, 4), torch.zeros(1, 8, 4), "exact")
    memory = Memory(3 * one.nbytes)
    for name in "abc":
        memory.put(name, one)
    assert memory.get("a") is one
    memory.put("d", one)
    assert [name for name in "abcd" if memory.get(name) is not None] == ["a", "c", "d"]
    assert memory.held == 3 * one.nbytes
    memory.put("d", one)
    assert memory.held == 3 * one.nbytes
    big = entry(torch.zeros(9, 1, 8, 4), torch.zeros(9, 1, 8, 4), torch.zeros(1, 8, 4), "exact")
    memory.put("big", big)
    assert memory.get("big") is None
    assert len(memory) == 3


def test_a_budget_too_small_for_a_prompt_changes_nothing_but_time(tiny_model: MakeModel) -> None:
    folder = tiny_model()
    cache = DocumentCache(memory=20_000)
    ours, unlimited = load(folder, cache), load(folder, DocumentCache())
    expected = unlimited.rank(QUERY, DOCUMENTS)
    for _ in range(2):
        assert ours.rank(QUERY, DOCUMENTS) == expected
    assert 0 < cache.held <= 20_000
    assert cache.counts.computed > len(DOCUMENTS)
    nothing = DocumentCache(memory=0)
    assert load(folder, nothing).rank(QUERY, DOCUMENTS) == expected
    assert nothing.held == 0


def test_two_rerankers_share_a_cache_and_not_their_documents(tiny_model: MakeModel) -> None:
    cache = DocumentCache()
    folder = tiny_model(num_hidden_layers=3)
    late = load(folder, cache)
    early = load(
        folder, cache, dataclasses.replace(
            plain(), signal=dataclasses.replace(plain().signal, layers=(0, 1))
        ),
    )  # fmt: skip
    other_words = dataclasses.replace(plain().prompt, introduction=" Some texts:")
    other = load(folder, cache, dataclasses.replace(plain(), prompt=other_words))
    narrow = load(folder, cache, dtype="bfloat16")
    for one in (late, early, other, narrow):
        before = cache.counts.computed
        layout = one.layout(QUERY, DOCUMENTS)
        assert torch.equal(one.read(layout).mass, steady(one, layout))
        assert cache.counts.computed == before + len(DOCUMENTS) - 1, "one stands twice"
        one.read(layout)
        assert cache.counts.computed == before + len(DOCUMENTS) - 1


def test_documents_are_kept_ahead_of_a_query(tiny_model: MakeModel) -> None:
    cache = DocumentCache()
    ours = load(tiny_model(), cache)
    ours.keep(DOCUMENTS)
    computed = cache.counts.computed
    assert computed == len(DOCUMENTS) - 1
    assert ours.rank(QUERY, DOCUMENTS) == load(tiny_model(), DocumentCache()).rank(QUERY, DOCUMENTS)
    assert cache.counts.computed == computed
    with pytest.raises(InvalidInputError, match="nothing to keep documents in"):
        load(tiny_model()).keep(DOCUMENTS)


def test_a_document_that_gives_nan_is_named(tiny_model: MakeModel) -> None:
    ours = load(tiny_model(), DocumentCache())
    layout = ours.layout(QUERY, DOCUMENTS)
    of = [set(layout.shared[start:end]) for start, end in layout.spans]
    token = min(of[1].difference(*of[:1], *of[2:], layout.shared[: layout.blocks[0][0]]))
    with torch.no_grad():
        ours.engine.model.embed_tokens.weight[token] = torch.inf
    with pytest.raises(NumericalError, match=r"layer 0 .* document 1 \(counted from 0\)"):
        ours.read(layout)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layout": LayoutChoice()}, "layout.attend 'causal'"),
        ({"layout": LayoutChoice("block")}, "'shared' and 'moved' compute them behind the prefix"),
        ({"prompt": {"marker": "[{number}]"}}, "hold their number in the prompt"),
        ({"signal": {"values": "rollout"}}, "a rollout goes through whole layers"),
    ],
)
def test_profiles_without_documents_to_keep(
    change: dict[str, Any], said: str, tiny_model: MakeModel
) -> None:
    profile = plain()
    for part, value in change.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(profile, part), **value)
        profile = dataclasses.replace(profile, **{part: value})
    with pytest.raises(InvalidInputError, match="no documents to keep") as caught:
        load(tiny_model(), DocumentCache(), profile)
    assert said in str(caught.value)


def test_other_refusals(tiny_model: MakeModel, tmp_path: Path) -> None:
    blockrank = load_profile("blockrank")
    signal = dataclasses.replace(blockrank.signal, layers=(0, 0))
    with pytest.raises(InvalidInputError, match="they see the query, which stands before them"):
        load(tiny_model(), DocumentCache(), dataclasses.replace(blockrank, signal=signal))
    without = dataclasses.replace(
        plain(), calibration=dataclasses.replace(plain().calibration, nulls=())
    )
    with pytest.raises(InvalidInputError, match=r"has none \(calibration.nulls\)"):
        load(tiny_model(), DocumentCache(keep_tokens=4), without)
    engine = load(tiny_model()).engine
    with pytest.raises(InvalidInputError, match="by the model's revision"):
        AttentionReranker(engine, plain(), documents=DocumentCache(folder=tmp_path))
    assert (
        len(AttentionReranker(engine, plain(), documents=DocumentCache()).rank("a", ["b", "c"]))
        == 2
    )
    for settings, message in (
        ({"storage": "int4"}, "choose exact, bfloat16, int8"),
        ({"memory": -1}, "memory must be at least 0: -1"),
        ({"keep_tokens": 0}, "keep_tokens must be at least 1: 0"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            DocumentCache(**settings)


def test_long_lists_of_documents_are_computed_in_parts(tiny_model: MakeModel) -> None:
    many = [Document(str(n), f"Document {n} is about bread. " * (1 + n % 9)) for n in range(150)]
    cache = DocumentCache()
    ours = load(tiny_model(), cache)
    layout = ours.layout(QUERY, many)
    assert len(layout.shared) > 2 * 4096
    assert torch.equal(ours.read(layout).mass, steady(ours, layout))
    assert cache.counts.computed == 150
