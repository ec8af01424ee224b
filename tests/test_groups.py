"""Work that is done once or in parts: what tails and documents share, and long prompts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.test_blocks import (
    DOCUMENTS,
    LAYOUTS,
    MODELS,
    QUERY,
    SHARED,
    blocked,
    dense,
    reranker,
)  # fmt: skip

from ranklens.data.errors import NumericalError
from ranklens.data.records import Document
from ranklens.rerank import engine, groups, projections
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.groups import GROUP
from ranklens.rerank.openings import Computed
from ranklens.rerank.profile import LayoutChoice
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout, Tail

MakeModel = Callable[..., Path]
FEW = 60
"""Tokens of a group in tests: some documents of DOCUMENTS are longer, some fit with others."""


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUP", FEW)


def rows_given(ours: AttentionReranker, layout: PromptLayout, module: str) -> list[int]:
    """Return the numbers of rows that a module got while a layout was read."""
    rows: list[int] = []
    part = ours.engine.model.get_submodule(module)

    def hook(_: Any, given: tuple[Any, ...], options: dict[str, Any], out: Any) -> None:
        rows.append((given[0] if given else options["input_ids"]).shape[1])

    handle = part.register_forward_hook(hook, with_kwargs=True)
    ours.read(layout)
    handle.remove()
    return rows


@pytest.mark.parametrize("how", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_groups_read_what_dense_masks_read(
    name: str, how: str, small_groups: None, tiny_model: MakeModel
) -> None:
    kind, settings = MODELS[name]
    folder, choice = tiny_model(kind=kind, **settings), LAYOUTS[how]
    ours = reranker(folder, blocked(choice))
    layout = ours.layout([QUERY, "what is a cell"], DOCUMENTS)
    parts = groups.groups(layout)
    assert len(parts) > 2
    assert len(rows_given(ours, layout, "embed_tokens")) == len(parts) + 1
    found = ours.read(layout).mass.numpy().transpose(1, 0, 2)
    expected = np.stack(dense(folder, layout, choice))
    expected = expected[:, sorted(ours.plan.weights)]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-6)
    assert expected.max() > 1e-2


def test_groups_of_moved_documents(small_groups: None, tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(), blocked(LayoutChoice("block", "moved")))
    layout = ours.layout(QUERY, DOCUMENTS)
    together = ours.engine.read(layout, ours.plan, steady=True).mass
    assert len(groups.groups(layout)) > 2
    torch.testing.assert_close(ours.read(layout).mass, together, atol=1e-6, rtol=1e-5)


def test_groups_cover_the_prompt_once() -> None:
    blocks = [(3, 4), (4, 90), (90, 100), (100, 130), (130, 160), (160, 163)]
    layout = PromptLayout(
        list(range(163)), (Tail([7, 8], (0, 2)),), 1, tuple(blocks), (0,) * 6, tuple(blocks)
    )
    assert groups.groups(layout) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "GROUP", FEW)
        parts = groups.groups(layout)
    assert [len(part.shared) for part in parts] == [4, 89, 43, 36]
    assert all(part.shared[:3] == [0, 1, 2] for part in parts)
    assert [i for part in parts for i in part.shared[3:]] == list(range(3, 163))
    for part in parts:
        assert list(part.positions or ()) == part.shared
        assert part.length == 163 + 2
        inside = [span for span in part.spans if span != (0, 0)]
        assert inside == list(part.blocks)
        for number, (first, end) in enumerate(part.spans):
            if end:
                assert part.shared[first:end] == list(range(*blocks[number]))


def test_in_any_order_groups_give_the_same_bits(small_groups: None, tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(), blocked())
    forward, backward = (ours.rank(QUERY, some) for some in (DOCUMENTS, DOCUMENTS[::-1]))
    scores = {result.id: result.score for result in forward}
    assert scores == {result.id: result.score for result in backward}
    assert len(groups.groups(ours.layout(QUERY, DOCUMENTS))) > 2


@pytest.mark.parametrize("size", [FEW, GROUP])
@pytest.mark.parametrize("where", ["document 3 (counted from 0)", "the query"])
def test_what_is_not_finite_is_named(
    where: str, size: int, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "GROUP", size)
    ours = reranker(tiny_model(), blocked())
    # Digits stand in one document, or in the query, only; "long" is the last block.
    said = [
        dataclasses.replace(d, text=d.text + " 777") if n == 3 else d
        for n, d in enumerate(DOCUMENTS)
    ]
    layout = ours.layout(*((QUERY, said) if "document" in where else (f"{QUERY} 777", DOCUMENTS)))
    (token,) = set(ours.engine.tokenizer("7", add_special_tokens=False).input_ids)
    with torch.no_grad():
        ours.engine.model.embed_tokens.weight[token] = float("nan")
    with pytest.raises(NumericalError, match=rf"keys, first in {re.escape(where)}"):
        ours.read(layout)


def test_what_does_not_fit_into_memory_goes_in_one_pass(
    small_groups: None, tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = reranker(tiny_model(), blocked())
    layout = ours.layout(QUERY, DOCUMENTS)
    config, layers = ours.engine.config, len(ours.engine.model.layers)
    size = config.hidden_size // config.num_attention_heads
    held = len(layout.shared) * layers * 2 * config.num_key_value_heads * size * 4
    monkeypatch.setattr(engine, "MOST", held)
    assert len(rows_given(ours, layout, "embed_tokens")) > 3
    monkeypatch.setattr(engine, "MOST", held - 1)
    assert len(rows_given(ours, layout, "embed_tokens")) == 1


def test_a_model_with_two_rotations_goes_in_one_pass(
    small_groups: None, tiny_model: MakeModel
) -> None:
    ours = reranker(tiny_model(), blocked())
    layout = ours.layout(QUERY, DOCUMENTS)
    assert len(rows_given(ours, layout, "embed_tokens")) > 3
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    ours.engine.config.rope_parameters = longrope
    assert ours.engine.rope_switch == 4096
    assert len(rows_given(ours, layout, "embed_tokens")) == 1


def test_a_steady_pass_computes_every_token(tiny_model: MakeModel) -> None:
    """What documents have in common would be another product beside other documents."""
    ours = reranker(tiny_model(), blocked())
    layout = ours.layout(QUERY, DOCUMENTS)
    rows: list[int] = []
    part = ours.engine.model.embed_tokens
    handle = part.register_forward_hook(lambda _, given, out: rows.append(given[0].shape[1]))
    ours.engine.compute(layout, ours.plan)
    ours.engine.compute(layout, ours.plan, steady=False)
    handle.remove()
    assert rows[0] == len(layout.shared) > rows[1]


def test_a_rollout_goes_in_one_pass(small_groups: None, tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(), blocked())
    rollout = dataclasses.replace(
        ours.profile,
        signal=dataclasses.replace(ours.profile.signal, values="rollout", over="all-keys"),
    )
    whole = AttentionReranker(ours.engine, rollout)
    layout = whole.layout(QUERY, DOCUMENTS)
    assert len(groups.groups(layout)) > 2
    assert len(rows_given(whole, layout, "embed_tokens")) == 1


def test_150_documents_go_in_groups_and_read_the_same(tiny_model: MakeModel) -> None:
    many = [Document(str(n), f"Document {n} is about bread. " * (1 + n % 9)) for n in range(150)]
    ours = reranker(tiny_model(), blocked())
    layout = ours.layout(QUERY, many)
    rows = rows_given(ours, layout, "layers.0.mlp")
    assert len(rows) > 3
    assert max(rows) <= GROUP
    together = ours.engine.read(layout, ours.plan, steady=True).mass
    torch.testing.assert_close(ours.read(layout).mass, together, atol=1e-6, rtol=1e-5)


def test_long_causal_prompts_go_through_in_pieces_and_read_the_same(
    tiny_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = reranker(tiny_model(max_position_embeddings=8192), load_profile("icr"))
    layout = ours.layout(QUERY, [Document(str(n), "About bread. " * 40) for n in range(40)])
    assert 2 * projections._PIECE < len(layout.shared) < 8192
    norms: list[int] = []
    handle = ours.engine._lean[ours.engine.model.layers[0].input_layernorm].register_forward_hook(
        lambda _, given, out: norms.append(given[0].shape[1])
    )
    pieces = rows_given(ours, layout, "layers.0.mlp")
    handle.remove()
    assert norms == pieces
    found = ours.read(layout).mass
    monkeypatch.setattr(projections, "_PIECE", 8192)
    (whole,) = rows_given(ours, layout, "layers.0.mlp")
    assert sum(pieces) == whole
    assert max(pieces) == 2048
    torch.testing.assert_close(found, ours.read(layout).mass, atol=1e-7, rtol=1e-5)


def test_what_documents_begin_with_is_computed_once(tiny_model: MakeModel) -> None:
    ours = reranker(tiny_model(), blocked(marker="A paragraph with a long marker: "))
    layout = ours.layout([QUERY, "what is a cell"], DOCUMENTS)
    tails = [tail.ids for tail in layout.tails]
    common, opening = (
        next(n for n in range(100) if len({tuple(ids[: n + 1]) for ids in lists}) > 1)
        for lists in ([layout.shared[start:end] for start, end in layout.blocks], tails)
    )
    assert common > 3
    assert opening > 3
    (rows,) = rows_given(ours, layout, "embed_tokens")
    shared = len(layout.shared) - common * (len(layout.blocks) - 1)
    assert rows == shared + sum(map(len, tails)) - opening * (len(tails) - 1)


def test_rows_of_documents_stand_for_their_tokens() -> None:
    shared = [1, 2, *(5, 6, 7), *(5, 6, 8, 9), *(5, 6)]
    blocks = ((2, 5), (5, 9), (9, 11))
    positions = (0, 1, *range(2, 5), *range(2, 6), *range(2, 4))
    layout = PromptLayout(shared, (), 0, (), (), blocks, positions, None, 6)
    computed = Computed.of(layout)
    # The shortest keeps a row of its own, so one token is common and not two.
    assert computed.ids == [1, 2, 5, 6, 7, 6, 8, 9, 6]
    assert computed.positions == [0, 1, 2, 3, 4, 3, 4, 5, 3]
    assert computed.blocks == [(3, 5), (5, 8), (8, 9)]
    assert computed.source is not None
    assert [computed.ids[row] for row in computed.source] == shared
    assert [computed.positions[row] for row in computed.source] == list(positions)
    # Elsewhere the same token is another row.
    apart = dataclasses.replace(layout, positions=None)
    assert Computed.of(apart).source is None
    assert Computed.of(layout, apart=True).ids == shared


@pytest.mark.parametrize(
    "documents",
    [
        [Document("only", "Paris is the capital of France.")],
        [Document(str(n), "Paris is the capital of France.") for n in range(3)],
        [Document("a", "x"), Document("b", ""), Document("c", "x y")],
    ],
    ids=["one", "equal", "tiny"],
)
def test_few_and_equal_documents(documents: list[Document], tiny_model: MakeModel) -> None:
    folder = tiny_model()
    ours = reranker(folder, blocked(SHARED))
    layout = ours.layout(QUERY, documents)
    found = ours.read(layout).mass.numpy().transpose(1, 0, 2)
    expected = np.stack(dense(folder, layout, SHARED))[:, sorted(ours.plan.weights)]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-6)


def test_a_tail_that_another_begins_with(tiny_model: MakeModel) -> None:
    folder = tiny_model()
    ours = reranker(folder, blocked(SHARED))
    layout = ours.layout(QUERY, DOCUMENTS)
    ids = layout.tails[0].ids
    tails = (Tail(ids, (1, len(ids))), Tail(ids[:4], (2, 4)), Tail(ids[:6], (0, 1)))
    layout = dataclasses.replace(layout, tails=tails)
    found = ours.read(layout).mass.numpy().transpose(1, 0, 2)
    expected = np.stack(dense(folder, layout, SHARED))[:, sorted(ours.plan.weights)]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-6)
