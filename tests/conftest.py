"""What several test files need: real collections where they are, and tiny random models."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_decoder import SIZES, byte_tokenizer

# Triton settles at its import, which transformers may bring about, whether kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# ranx compiles for a minute in a fresh environment; one test of test_fusion.py lets it.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# Haystack asks when it is imported whether it may report its use.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

# Side by side two processes of two threads wait for each other at every barrier.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "collections"


@pytest.fixture
def shared_collection() -> Callable[[str], Path]:
    """Return a function that finds a real collection, or skips the test and says why."""

    def find(name: str) -> Path:
        folder = SHARED / name
        if not folder.is_dir():
            pytest.skip(f"the real collection {name} is not beside this checkout")
        return folder

    return find


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a folder with a tiny random decoder and a ChatML tokenizer."""

    def make(kind: str = "llama", **changes: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        folder = tmp_path / f"tiny-{kind}-{len(list(tmp_path.iterdir()))}"
        tokenizer = byte_tokenizer(["Please find information relevant to the paragraphs."], 400)
        settings = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 4096}
        torch.manual_seed(1)
        config = AutoConfig.for_model(kind, **(settings | changes))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make
