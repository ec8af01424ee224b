"""All weights trained, and their change kept as an adapter: exact where it has the rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="the extra train is not installed")

import torch
from safetensors.torch import load_file
from tests.word_task import held_out_words, settings_of, trainer_in

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.models import resolve
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.lora import read_lora
from ranklens.rerank.training.checkpoint import open_training_folder
from ranklens.rerank.training.export import KEPT, Provenance, export
from ranklens.rerank.training.low_rank import before_training, cut
from ranklens.rerank.training.student import Weights

pytest_plugins = ["word_fixtures"]

Q_PROJ = "layers.0.self_attn.q_proj.weight"
NORM, OTHER = "layers.0.norm.weight", "layers.0.x.weight"


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(**changes: torch.Tensor) -> Weights:
    own = {Q_PROJ: drawn(12, 8, seed=1), NORM: drawn(8, seed=2), OTHER: drawn(8, 8, seed=3)}
    return Weights((name, torch.nn.Parameter(value)) for name, value in (own | changes).items())


def test_a_change_of_that_rank_is_kept_whole() -> None:
    learned = weights()
    low = before_training(learned.named, 2)
    change = drawn(12, 2, seed=4) @ drawn(2, 8, seed=5)
    with torch.no_grad():
        learned.copies[Q_PROJ].add_(change)
    pairs, share = cut(learned, low, torch.float32)
    assert list(pairs) == ["layers.0.self_attn.q_proj"]
    a, b = pairs["layers.0.self_attn.q_proj"]
    assert a.shape == (2, 8)
    assert b.shape == (12, 2)
    torch.testing.assert_close((b @ a).double(), change, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        learned.named[Q_PROJ].detach(), low.before[Q_PROJ] + change, rtol=1e-5, atol=1e-5
    )
    assert share == pytest.approx(1.0, abs=1e-9)


def test_what_does_not_fit_is_the_smallest_part_and_is_counted_as_lost() -> None:
    learned = weights()
    low = before_training(learned.named, 3)
    change = drawn(12, 8, seed=6)
    with torch.no_grad():
        learned.copies[Q_PROJ].add_(change)
        learned.copies[NORM].add_(0.5)
        learned.copies[OTHER].add_(0.25)
    pairs, share = cut(learned, low, torch.float32)
    values = torch.linalg.svdvals(change)
    lost = values[3:].square().sum() + 8 * 0.5**2 + 64 * 0.25**2
    whole = values.square().sum() + 8 * 0.5**2 + 64 * 0.25**2
    assert share == pytest.approx(float(1 - lost / whole), abs=1e-6)
    a, b = pairs["layers.0.self_attn.q_proj"]
    off = (change - (b @ a).double()).square().sum()
    assert float(off) == pytest.approx(float(values[3:].square().sum()), rel=1e-5)
    for name in (NORM, OTHER):
        assert torch.equal(learned.named[name].detach(), low.before[name]), "back to the base model"


def test_nothing_learned_is_kept_whole() -> None:
    learned = weights()
    pairs, share = cut(learned, before_training(learned.named, 1), torch.bfloat16)
    assert share == 1.0
    assert all(not own.any() for pair in pairs.values() for own in pair)


@pytest.mark.parametrize("rank", [0, 9])
def test_a_rank_that_matrices_do_not_have(rank: int) -> None:
    with pytest.raises(UsageError, match=r"it must be 1 to 8, the smaller side of layers\.0"):
        before_training(weights().named, rank)


def test_a_model_without_projections_has_no_adapter() -> None:
    with pytest.raises(
        InvalidInputError, match=r"none of the projections.*train it without --as-lora"
    ):
        before_training({NORM: drawn(8, seed=2)}, 1)


def learn(base: Path, out: Path, rank: int, **changes: Any) -> tuple[Any, dict[str, Any]]:
    held_out = held_out_words(10)
    settings = settings_of(base, validation=held_out.digest, steps=60, **changes)
    with open_training_folder(out) as folder:
        trainer = trainer_in(folder, base, settings, held_out=held_out, save_every=50)
        # The trainer of a later start has read its checkpoint already.
        untouched = AttentionReranker.from_pretrained(base, dtype="float32").engine.model
        named = dict(untouched.named_parameters())
        low = before_training({name: named[name] for name in trainer.weights.named}, rank)
        trainer.run()
        manifest = export(
            folder.model, trainer, Provenance(resolve(str(base)), {}), held_out=held_out,
            dtype="float32", low_rank=low,
        )  # fmt: skip
    return trainer, manifest


@pytest.mark.parametrize("rank", [2, 16])
def test_what_is_loaded_ranks_as_was_measured(base: Path, tmp_path: Path, rank: int) -> None:
    trainer, manifest = learn(base, tmp_path / "out", rank)
    model = tmp_path / "out" / "model"
    assert read_lora(model).rank == rank
    assert manifest["cut_to_rank"] == rank
    assert 0 < manifest["figures"][KEPT] < 1, "norms have learned too"
    card = (model / "README.md").read_text()
    assert f"a LoRA adapter of rank {rank}" in card
    assert f"what they learned was then cut to rank {rank}" in card
    reranker = AttentionReranker.from_pretrained(model, device="cpu", dtype="float32")
    assert reranker.profile.made_with is not None
    assert f"the change cut to rank {rank}" in str(reranker.profile.made_with.method)
    (part, *_) = held_out_words(10).lists
    with torch.no_grad():
        scores = trainer.student.scores([query.text for query in part.queries], part.documents)
    for row, query in zip(scores, part.queries, strict=True):
        found = {one.index: one.score for one in reranker.rank(query.text, part.documents)}
        assert [found[place] for place in range(len(row))] == pytest.approx(row.tolist(), rel=1e-4)


def test_a_finished_run_is_cut_again_to_the_same_files(base: Path, tmp_path: Path) -> None:
    learn(base, tmp_path / "out", 4)
    model = tmp_path / "out" / "model"
    first = {path.name: path.read_bytes() for path in model.iterdir()}
    learn(base, tmp_path / "out", 4)
    assert first == {path.name: path.read_bytes() for path in model.iterdir()}
    learn(base, tmp_path / "out", 2)
    tensors = load_file(model / "adapter_model.safetensors")
    assert {min(own.shape) for own in tensors.values()} == {2}
    assert json.loads((model / "training.json").read_text())["cut_to_rank"] == 2


def test_weights_out_of_any_range_are_not_written(base: Path, tmp_path: Path) -> None:
    learned = weights()
    low = before_training(learned.named, 1)
    with torch.no_grad():
        learned.copies[Q_PROJ].add_(1e12)
    pairs, _ = cut(learned, low, torch.float16)
    from ranklens.rerank.training.adapter import write_adapter

    with pytest.raises(NumericalError, match=r"lora_A of layers.* holds NaN or Inf in float16"):
        write_adapter(tmp_path, pairs, base=resolve(str(base)), rank=1, alpha=1)
    assert list(tmp_path.iterdir()) == []
