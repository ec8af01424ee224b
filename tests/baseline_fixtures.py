"""A plugin for tests of rerankers: tiny random models of each kind, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny_decoder import SIZES, byte_tokenizer

WORDS = (
    "bread is baked in an oven slowly sort numbers with quicksort tomatoes grow warm soil water "
    "the every day tune each guitar string a has six strings for of bake"
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>"
    "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a tiny random BERT that gives a pair one logit."""
    return write_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a tiny random decoder, a chat template, and tokens for yes and no."""
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def make_classifier(tmp_path: Path) -> Callable[[int], Path]:
    """Return a function that makes a classifier with that many labels."""
    return lambda labels: write_classifier(tmp_path / f"labels-{labels}", labels)


@pytest.fixture
def make_chat_model(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that makes a decoder whose tokenizer knows these words."""
    return lambda words: write_chat_model(tmp_path / "chat", words)


def write_classifier(folder: Path, labels: int = 1) -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # Letters and their continuations: a word that is not known has several tokens.
    letters = [prefix + letter for letter in "abcdefghijklmnopqrstuvwxyz" for prefix in ("", "##")]
    names = dict.fromkeys([*special, *WORDS.split(), "[", "]", *letters])
    pieces = Tokenizer(
        models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]")
    )
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=pieces,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    config.num_labels = labels
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_chat_model(folder: Path, words: str = "yes Yes no No") -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = byte_tokenizer([f"{words} {words.split()[0]} {WORDS}"] * 3, 420)
    tokenizer.chat_template = CHATML
    torch.manual_seed(2)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), max_position_embeddings=2048, **SIZES
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
