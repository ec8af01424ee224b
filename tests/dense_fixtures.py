"""A plugin for tests of dense retrieval: a tiny random encoder, loaded by ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WORDS = (
    "bread is baked in an oven slowly bakes sort numbers with quicksort are compared and swapped "
    "tomatoes grow warm soil water the every day tune each guitar string a has six strings for of"
)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a tiny random BERT that knows some words; no sentence-transformers."""
    return make_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def make_tiny_encoder(tmp_path: Path) -> Callable[[int], Path]:
    """Return a function that makes another tiny BERT, by seed."""
    return lambda seed: make_encoder(tmp_path / f"encoder-{seed}", seed)


def make_encoder(folder: Path, seed: int = 1) -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {
        word: place for place, word in enumerate([*special, *dict.fromkeys(WORDS.split())])
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
