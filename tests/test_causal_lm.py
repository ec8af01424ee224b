"""Next-token probabilities and greedy answers, against transformers' plain forward pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranklens.data.causal_lm import CausalLM
from ranklens.data.errors import InvalidInputError, NumericalError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTHS = (3, 50, 17, 1, 90, 17)
TOKENS = [5, 6, 7, 250]


def prompts(shared: int) -> list[list[int]]:
    """Make prompts that begin with so many equal tokens."""
    draw = np.random.default_rng(3)
    opening = draw.integers(3, 290, shared).tolist()
    return [[*opening, *draw.integers(3, 290, length).tolist()] for length in LENGTHS]


def expected(lm: CausalLM, ids: list[int]) -> Any:
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids])).logits[0, -1].double()
    return torch.log_softmax(logits, dim=-1)[TOKENS].numpy()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen2", "gpt_oss"])
@pytest.mark.parametrize("shared", [0, 40])
def test_a_batch_gives_what_single_passes_give(
    tiny_model: Callable[..., Path], kind: str, shared: int
) -> None:
    changes: dict[str, Any] = {"gemma2": {"sliding_window": 16, "head_dim": 8}}.get(kind, {})
    if kind == "gpt_oss":
        changes = {"sliding_window": 16, "head_dim": 8, "num_local_experts": 4}
    lm = CausalLM.load(str(tiny_model(kind, **changes)), device="cpu")
    given = prompts(shared)
    wanted = np.stack([expected(lm, ids) for ids in given])
    found = lm.next_log_probs(given, TOKENS, batch=4)
    single = np.concatenate([lm.next_log_probs([ids], TOKENS) for ids in given])
    assert np.abs(np.exp(wanted).sum(axis=1)).max() < 1
    np.testing.assert_allclose(single, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, single, rtol=1e-5, atol=1e-5)
    # In another order, beside others: the same.
    again = lm.next_log_probs(given[::-1], TOKENS, batch=3)[::-1]
    np.testing.assert_allclose(again, single, rtol=1e-5, atol=1e-5)


def test_what_prompts_begin_with_is_computed_once(tiny_model: Callable[..., Path]) -> None:
    lm = CausalLM.load(str(tiny_model()), device="cpu")
    seen: list[tuple[int, ...]] = []
    lm.model.register_forward_pre_hook(
        lambda module, given, named: seen.append(tuple(named["input_ids"].shape)),
        with_kwargs=True,
    )
    given = prompts(40)
    lm.next_log_probs(given, TOKENS, batch=6)
    lm.next_log_probs(given, TOKENS, batch=2)
    assert seen == [(1, 40), (1, 90), (1, 50), (4, 17), (1, 90), (1, 50), (2, 17), (2, 3)]


def test_rotations_by_the_longest_prompt_are_not_shared(tiny_model: Callable[..., Path]) -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4, "long_factor": [9.0] * 4, "factor": 128.0,
    }  # fmt: skip
    changes = {"rope_parameters": rope, "original_max_position_embeddings": 32, "pad_token_id": 0}
    lm = CausalLM.load(str(tiny_model("phi3", **changes)), device="cpu")
    # On both sides of 32, and close enough for one batch.
    given = [ids[:length] for ids, length in zip(prompts(40), (28, 36, 31, 40), strict=False)]
    wanted = np.stack([expected(lm, ids) for ids in given])
    np.testing.assert_allclose(lm.next_log_probs(given, TOKENS), wanted, rtol=1e-5, atol=1e-5)


def test_greedy_answers_are_those_of_generate(tiny_model: Callable[..., Path]) -> None:
    lm = CausalLM.load(str(tiny_model()), device="cpu")
    given = prompts(0)[:3]
    tokenizer = transformers.AutoTokenizer.from_pretrained(lm.name)
    wanted = []
    for ids in given:
        out = lm.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=12, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=0,
        )  # fmt: skip
        wanted.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    assert lm.generate(given, 12) == wanted
    assert any(wanted)


def test_an_answer_ends_where_the_model_ends_it(tiny_model: Callable[..., Path]) -> None:
    lm = CausalLM.load(str(tiny_model()), device="cpu")
    ids = prompts(0)[1]
    first = int(lm.next_log_probs([ids], range(lm.model.config.vocab_size))[0].argmax())
    lm.model.generation_config.eos_token_id = [first]
    assert lm.generate([ids], 12) == [""]


def test_nan_is_an_error(tiny_model: Callable[..., Path]) -> None:
    lm = CausalLM.load(str(tiny_model()), device="cpu")
    lm.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(NumericalError, match="float32"):
        lm.next_log_probs([[5, 6]], TOKENS)
    with pytest.raises(NumericalError, match="float32"):
        lm.generate([[5, 6]], 2)


def test_a_folder_without_a_decoder_is_refused(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model()
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InvalidInputError, match="cannot load the model"):
        CausalLM.load(str(broken))
