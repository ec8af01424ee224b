"""Tiny trained models of tests: a random decoder, a random adapter of it, and a profile."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from tests.tiny_decoder import SIZES, byte_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from ranklens.data.models import resolve
from ranklens.rerank.origin import trained_into
from ranklens.rerank.profile import LayoutChoice, Profile
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.training.adapter import add_lora, save_adapter

LAYERS = 4
NAME = "ranker-tiny"
RANK = 3


def make_base(folder: Path, **changes: Any) -> Path:
    """Make a folder with a random Llama, which has ``LAYERS`` layers."""
    tokenizer = byte_tokenizer(["Please find information relevant to the paragraphs."], 400)
    settings = SIZES | {
        "num_hidden_layers": LAYERS,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 4096,
    }
    torch.manual_seed(1)
    config = AutoConfig.for_model("llama", **(settings | changes))
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapted(base: Path, *, layers: int = LAYERS, seed: int = 0, alpha: float = 5.0) -> Any:
    """Return the base's first layers with LoRA that changes what they compute."""
    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = layers
    model = AutoModel.from_pretrained(base, config=config, dtype=torch.float32).eval()
    add_lora(model, RANK, alpha=alpha, seed=seed)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, own in model.named_parameters():
            if "lora_B" in name:
                own.copy_(torch.randn(own.shape, generator=source) / 10)
    return model


def log_profile(layers: int = 3, *, name: str = "log") -> Profile:
    """Return a profile in blocks with weights of both signs, read to the last of these layers."""
    base = load_profile("icr-block")
    heads = {
        f"{layer}-{head}": (-1.0) ** (layer * head) * (0.5 + head + 0.3 * layer)
        for layer in range(1, layers)
        for head in range(4)
    }
    return dataclasses.replace(
        base,
        name=name,
        prompt=dataclasses.replace(base.prompt, marker="Document: "),
        signal=dataclasses.replace(base.signal, heads=heads, layers=None, combine="documents"),
        calibration=dataclasses.replace(base.calibration, nulls=()),
        pooling=dataclasses.replace(base.pooling, drop_below_stds=None, scale="log"),
        layout=LayoutChoice("block", "shared"),
    )


def make_trained(folder: Path, base: Path, **settings: Any) -> Path:
    """Make the folder of a trained model: an adapter, and the profile that it is read with."""
    model = adapted(base, **settings)
    save_adapter(folder, model, base=resolve(str(base)), rank=RANK, dtype="float32")
    profile = trained_into(
        folder, log_profile(), name=NAME, method="test", dtype="float32", data=["made up"]
    )
    save_profile(profile, folder / "profile.json")
    return folder
