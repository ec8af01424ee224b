"""Block layout against dense masks of an eager model, and what it promises: order is nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from ranklens.data.errors import InvalidInputError
from ranklens.data.records import Document
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.profile import LayoutChoice, Profile
from ranklens.rerank.profile_file import load_profile, save_profile, shipped_profiles
from ranklens.rerank.prompt import PromptLayout

MakeModel = Callable[..., Path]
QUERY = "what is the capital of france"
DOCUMENTS = [
    Document("paris", "Paris is the capital of France.", title="Paris"),
    Document("cell", "The mitochondrion is the powerhouse of the cell."),
    Document("empty", ""),
    Document("long", "A capital is the top of a column. " * 9),
    Document("berlin", "Berlin is the capital of Germany."),
    Document("one", "x"),
    Document("again", "Berlin is the capital of Germany."),
]
SHARED = LayoutChoice("block", "shared")
LAYOUTS = {
    "shared": SHARED,
    "sequential": LayoutChoice("block"),
    "far": LayoutChoice("block", "shared", tail_position=1500),
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_hidden_layers": 3}),
    "qwen3": ("qwen3", {"num_hidden_layers": 2, "head_dim": 24}),
    # Windows shorter than a document, and soft caps.
    "gemma2": (
        "gemma2",
        {"num_hidden_layers": 4, "head_dim": 8, "sliding_window": 48, "query_pre_attn_scalar": 8},
    ),
    # A logit per head that takes attention and is no token.
    "gpt-oss": (
        "gpt_oss",
        {"head_dim": 8, "sliding_window": 48, "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
}


def blocked(layout: LayoutChoice = SHARED, marker: str = "Document: ") -> Profile:
    """Return ICR in block layout."""
    icr = load_profile("icr")
    prompt = dataclasses.replace(icr.prompt, marker=marker)
    return dataclasses.replace(icr, prompt=prompt, layout=layout)


def reranker(folder: Path, profile: Profile, dtype: str = "float32") -> AttentionReranker:
    return AttentionReranker.from_pretrained(folder, profile=profile, device="cpu", dtype=dtype)


def positions_of(layout: PromptLayout, choice: LayoutChoice, tail: int) -> list[int]:
    """Return the positions of shared tokens and a tail, counted anew."""
    prefix = layout.blocks[0][0]
    if choice.positions == "sequential":
        return list(range(len(layout.shared) + tail))
    found = list(range(prefix))
    for start, end in layout.blocks:
        found += range(prefix, prefix + end - start)
    first = choice.tail_position or max(found) + 1
    return found + list(range(first, first + tail))


def dense(
    folder: Path, layout: PromptLayout, choice: LayoutChoice, dtype: torch.dtype = torch.float32
) -> list[Any]:
    """Return what each tail's rows pay, [layers, shared], one eager pass each, dense masks."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=dtype)
    window = getattr(model.config, "sliding_window", None)
    found = []
    for tail in layout.tails:
        ids = [*layout.shared, *tail.ids]
        positions = torch.tensor(positions_of(layout, choice, len(tail.ids)))
        seen = torch.ones(len(ids), len(ids)).tril() > 0
        for start, end in layout.blocks:
            # Whatever stands between the prefix and a block is out of its sight.
            seen[start:end, layout.blocks[0][0] : start] = False
        near = seen & (positions[:, None] - positions[None] < (window or 10**9))
        masks = {
            name: torch.zeros(1, 1, *one.shape, dtype=dtype).masked_fill(
                ~one, torch.finfo(dtype).min
            )
            for name, one in (("full_attention", seen), ("sliding_attention", near))
        }
        mixed = "sliding_attention" in (getattr(model.config, "layer_types", None) or ())
        with torch.no_grad():
            out = model.eval()(
                torch.tensor([ids]),
                attention_mask=masks if mixed else masks["full_attention"],
                position_ids=positions[None],
                output_attentions=True,
            )
        first, end = (len(layout.shared) + row for row in tail.rows)
        found.append(
            np.stack(
                [a[0, :, first:end, : len(layout.shared)].double().mean(1).sum(0).numpy()
                 for a in out.attentions]
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_the_signal_equals_dense_masks(name: str, how: str, tiny_model: MakeModel) -> None:
    kind, settings = MODELS[name]
    folder, choice = tiny_model(kind=kind, **settings), LAYOUTS[how]
    ours = reranker(folder, blocked(choice))
    layout = ours.layout([QUERY, "what is a cell"], DOCUMENTS)
    assert [start for start, _ in layout.blocks[1:]] == [end for _, end in layout.blocks[:-1]]
    assert layout.blocks[-1][1] == len(layout.shared)
    signal = ours.read(layout)
    found = signal.mass.numpy().transpose(1, 0, 2)
    expected = np.stack(dense(folder, layout, choice))[:, sorted(signal.plan.weights)]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-6)
    assert expected.max() > 1e-2
    # And it is another signal than the causal layout's.
    causal = dataclasses.replace(layout, blocks=())
    assert np.abs(ours.read(causal).mass.numpy().transpose(1, 0, 2) - expected).max() > 1e-4


@pytest.mark.parametrize(
    "name", [n for n in shipped_profiles() if load_profile(n).layout == SHARED]
)
def test_a_shipped_profile_in_blocks_is_what_it_says(name: str, tiny_model: MakeModel) -> None:
    """Query minus null, ICR's filter, sums, over the dense computation."""
    folder, profile = tiny_model(), load_profile(name)
    if profile.signal.heads:
        signal = dataclasses.replace(profile.signal, heads=None, combine="tokens")
        profile = dataclasses.replace(profile, signal=signal)
    ours = reranker(folder, profile)
    layout = ours.layout(QUERY, DOCUMENTS)
    text = ours.engine.tokenizer.decode(layout.shared)
    assert text.startswith("<|im_start|>user Here are some paragraphs:\n\n")
    assert text.count("Paragraph:") == len(DOCUMENTS)
    real, null = (mass.sum(0) for mass in dense(folder, layout, SHARED))
    np.testing.assert_allclose(ours.read(layout).total()[0], real, atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(ours.read(layout).total()[1], null, atol=1e-5, rtol=1e-6)
    if name == "icr-block":
        scores = {}
        for document, (start, end) in zip(DOCUMENTS, layout.spans, strict=True):
            tokens = (real - null)[start:end]
            kept = tokens > tokens.mean() - 2 * tokens.std(ddof=1)
            scores[document.id] = float(tokens[kept].sum())
        found = {one.id: one.score for one in ours.rank(QUERY, DOCUMENTS)}
        assert found == pytest.approx(scores, abs=1e-5)


def test_in_any_order_the_scores_have_the_same_bits(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(num_hidden_layers=3), blocked())
    first = {ranked.id: ranked.score for ranked in ours.rank(QUERY, DOCUMENTS)}
    assert len(set(first.values())) >= 5
    assert first["berlin"] == first["again"]
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(DOCUMENTS))
        ranking = ours.rank(QUERY, [DOCUMENTS[place] for place in order])
        assert {ranked.id: ranked.score for ranked in ranking} == first
    causal = reranker(tiny_model(num_hidden_layers=3), dataclasses.replace(
        blocked(), layout=LayoutChoice()))  # fmt: skip
    turned = {ranked.id: ranked.score for ranked in causal.rank(QUERY, DOCUMENTS[::-1])}
    assert turned != {ranked.id: ranked.score for ranked in causal.rank(QUERY, DOCUMENTS)}


def test_documents_do_not_see_each_other(tiny_model: MakeModel) -> None:
    """What is read before a softmax, a document's own logits, stays when others are changed."""
    # Tails at one place, or the longest document would move the query.
    profile = blocked(LAYOUTS["far"])
    signal = dataclasses.replace(profile.signal, values="logits")
    calibration = dataclasses.replace(profile.calibration, nulls=())
    ours = reranker(
        tiny_model(), dataclasses.replace(profile, signal=signal, calibration=calibration)
    )

    def keys_seen(documents: list[Document]) -> torch.Tensor:
        layout = ours.layout(QUERY, documents)
        start, end = layout.spans[0]
        # In the first layer the query's rows have seen no document yet.
        return ours.read(layout).mass[0, 0, start:end]

    alone = keys_seen([DOCUMENTS[0], Document("other", "Paris is the city of light, it is said.")])
    beside = keys_seen([DOCUMENTS[0], Document("other", "y")])
    torch.testing.assert_close(alone, beside, atol=1e-4, rtol=1e-4)


def test_the_context_limits_documents_and_not_their_number(tiny_model: MakeModel) -> None:
    folder = tiny_model(max_position_embeddings=300)
    many = [Document(str(n), f"Document {n} is about bread and soil.") for n in range(200)]
    ours = reranker(folder, blocked())
    layout = ours.layout(QUERY, many)
    assert len(layout.shared) > 2000
    assert layout.length <= 300
    assert len(ours.rank(QUERY, many)) == 200
    with pytest.raises(InvalidInputError, match="200 documents do not fit the model's context"):
        reranker(folder, blocked(LayoutChoice("block"))).rank(QUERY, many)
    spread = AttentionReranker(ours.engine, blocked(), long_lists="anchors")
    long = [*many[:30], Document("long", "bread " * 400)]
    assert spread.rank(QUERY, long) == ours.rank(QUERY, long), "one prompt is enough"
    # A document that is too long is cut alone.
    cut = ours.rank(QUERY, [*many[:3], Document("long", "bread " * 400)])
    assert {ranked.id: ranked.tokens_cut > 0 for ranked in cut} == {
        "0": False, "1": False, "2": False, "long": True,
    }  # fmt: skip
    with pytest.raises(InvalidInputError, match="context of 300 tokens"):
        reranker(folder, blocked(LAYOUTS["far"])).rank(QUERY, many)


def test_tails_at_a_position_of_their_own_leave_documents_what_is_before_it(
    tiny_model: MakeModel,
) -> None:
    ours = reranker(tiny_model(), blocked(LayoutChoice("block", "shared", tail_position=100)))
    layout = ours.layout(QUERY, [*DOCUMENTS[:2], Document("long", "bread " * 400)])
    assert layout.tail_start == 100
    assert max(layout.positions or ()) < 100
    assert layout.tokens_cut[2] > 0
    assert layout.tokens_cut[:2] == (0, 0)


def test_several_queries_and_rollouts_in_blocks(tiny_model: MakeModel) -> None:
    folder = tiny_model(num_hidden_layers=3)
    ours = reranker(folder, blocked())
    together = ours.rank_queries([QUERY, "what is a cell"], DOCUMENTS)
    for query, ranking in zip([QUERY, "what is a cell"], together, strict=True):
        alone = {one.id: one.score for one in ours.rank(query, DOCUMENTS)}
        assert {one.id: one.score for one in ranking} == pytest.approx(alone, abs=1e-6)
    signal = dataclasses.replace(blocked().signal, values="rollout")
    rolled = reranker(folder, dataclasses.replace(blocked(), signal=signal))
    layout = rolled.layout(QUERY, DOCUMENTS)
    # A rollout of the dense attention, mean over heads, with half for the residual.
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    tail = layout.tails[0]
    ids = [*layout.shared, *tail.ids]
    seen = torch.ones(len(ids), len(ids)).tril() > 0
    for start, end in layout.blocks:
        seen[start:end, layout.blocks[0][0] : start] = False
    mask = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        attentions = model.eval()(
            torch.tensor([ids]), attention_mask=mask, output_attentions=True,
            position_ids=torch.tensor([positions_of(layout, SHARED, len(tail.ids))]),
        ).attentions  # fmt: skip
    share = torch.zeros(len(ids), dtype=torch.float64)
    first, end = (len(layout.shared) + row for row in tail.rows)
    share[first:end] = 1 / (end - first)
    for attention in reversed(attentions):
        share = share / 2 + share @ attention[0].double().mean(0) / 2
    found = rolled.read(layout).total()[0]
    torch.testing.assert_close(found, share[: len(layout.shared)], atol=1e-5, rtol=0)


def test_bfloat16_is_at_most_twice_as_far_off_as_eager_bfloat16(tiny_model: MakeModel) -> None:
    folder = tiny_model(num_hidden_layers=3)
    layout = reranker(folder, blocked()).layout(QUERY, DOCUMENTS)
    exact = np.stack(dense(folder, layout, SHARED))
    theirs = np.stack(dense(folder, layout, SHARED, torch.bfloat16))
    ours = reranker(folder, blocked(), "bfloat16").read(layout).mass.numpy().transpose(1, 0, 2)

    def error(found: Any) -> float:
        return float(np.sqrt(np.mean((found - exact) ** 2)))

    assert 0 < error(ours) <= 2 * error(theirs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"attend": "causal", "positions": "shared"}, "'shared' needs layout.attend 'block'"),
        ({"attend": "block", "tail_position": 9}, "tail_position needs layout.positions"),
        ({"attend": "block", "positions": "shared", "tail_position": 0}, "layout.tail_position"),
    ],
)
def test_layouts_that_make_no_sense(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        LayoutChoice(**wrong)


def test_a_profile_keeps_its_layout(tmp_path: Path) -> None:
    save_profile(blocked(), tmp_path / "block.json")
    assert load_profile(tmp_path / "block.json") == dataclasses.replace(blocked())
    assert blocked().prompt_digest() != blocked(LayoutChoice()).prompt_digest()
    assert load_profile("icr").prompt_digest() == load_profile("icr").prompt.digest()
