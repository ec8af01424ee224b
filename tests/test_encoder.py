"""The encoder against a forward pass of transformers, one unpadded text at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.dense_fixtures import make_encoder

from ranklens.data.encoder import POOLINGS, Encoder, Pooling, Vectors
from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.data.models import resolve

pytest_plugins = ["dense_fixtures"]

NO_POOLING: dict[str, Any] = {"pooling": "max"}
TEXTS = [
    "bread is baked in an oven",
    "sort",
    "the guitar has six strings and a guitar is tuned every day with each string " * 2,
    "unknown words of another language",
]


def oracle(folder: Path, texts: list[str], pooling: str, limit: int = 64) -> Vectors:
    """Return unit vectors of a model by transformers alone, in float64 behind the last layer."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=limit)
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state[0].double().numpy()
        row = {"mean": states.mean(axis=0), "cls": states[0], "lasttoken": states[-1]}[pooling]
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_vectors_are_those_of_the_model(tiny_encoder: Path, pooling: Pooling) -> None:
    encoder = Encoder(str(tiny_encoder), pooling=pooling, device="cpu")
    found = encoder.encode_passages(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (4, encoder.dimension) == (4, 32)
    np.testing.assert_allclose(found, oracle(tiny_encoder, TEXTS, pooling), atol=1e-5)


def test_a_decoder_is_read_at_its_last_token(tiny_model: Callable[..., Path]) -> None:
    """Padding, which a decoder's tokenizer here has no token for, changes nothing."""
    folder = tiny_model()
    encoder = Encoder(str(folder), device="cpu")
    texts = ["find information", "please find the paragraphs that are relevant to it", "x"]
    expected = oracle(folder, texts, "lasttoken", 4096)
    np.testing.assert_allclose(encoder.encode_queries(texts), expected, atol=1e-5)


def test_minilm_is_read_as_its_folder_says() -> None:
    """Mean pooling, 256 tokens, unit length, by the files of sentence-transformers."""
    encoder = Encoder("minilm-l6", device="cpu")
    folder = resolve("minilm-l6", download=True).path
    texts = ["The sky is blue.", "Was it raining? " * 100]
    assert encoder.limit == 256
    expected = oracle(folder, texts, "mean", 256)
    np.testing.assert_allclose(encoder.encode_passages(texts), expected, atol=1e-5)
    assert encoder.count_cut(texts) == 1


def test_prompts_come_before_queries_and_passages_apart(tiny_encoder: Path) -> None:
    encoder = Encoder(
        str(tiny_encoder), query_prompt="sort ", passage_prompt="the day ", device="cpu"
    )
    queries = oracle(tiny_encoder, ["sort bread"], "mean")
    passages = oracle(tiny_encoder, ["the day bread"], "mean")
    np.testing.assert_allclose(encoder.encode_queries(["bread"]), queries, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_passages(["bread"]), passages, atol=1e-5)


def test_a_model_s_own_prompts_are_used_unless_others_are_given(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_encoder), device="cpu", prompts={"query": "sort "})
    model.save(str(tmp_path / "saved"))
    own = Encoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(
        own.encode_queries(["bread"]), oracle(tiny_encoder, ["sort bread"], "mean"), atol=1e-5
    )
    bare = Encoder(str(tmp_path / "saved"), query_prompt="", device="cpu")
    np.testing.assert_allclose(
        bare.encode_queries(["bread"]), oracle(tiny_encoder, ["bread"], "mean"), atol=1e-5
    )


def test_without_normalising_lengths_stay(tiny_encoder: Path) -> None:
    unit = Encoder(str(tiny_encoder), device="cpu").encode_passages(TEXTS)
    raw = Encoder(str(tiny_encoder), normalize=False, device="cpu").encode_passages(TEXTS)
    lengths = np.linalg.norm(raw, axis=1)
    assert (np.abs(lengths - 1) > 0.1).any()
    np.testing.assert_allclose(raw / lengths[:, None], unit, atol=1e-6)


def test_texts_are_cut_at_the_limit_and_counted(tiny_encoder: Path) -> None:
    encoder = Encoder(str(tiny_encoder), max_tokens=6, device="cpu")
    # [CLS], four words, [SEP].
    texts = ["bread is baked in", "bread is baked in an oven", "sort"]
    assert encoder.count_cut(texts) == 1
    found = encoder.encode_passages(texts)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(found, oracle(tiny_encoder, texts, "mean", 6), atol=1e-5)


def test_positions_that_are_none_for_texts_are_not_read(tmp_path: Path) -> None:
    """RoBERTa counts positions from behind its filler's; nothing says so but its own code."""
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    make_encoder(tmp_path)
    PreTrainedTokenizerFast.from_pretrained(tmp_path, model_max_length=20).save_pretrained(tmp_path)
    config = RobertaConfig(
        vocab_size=100,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    RobertaModel(config).save_pretrained(tmp_path)
    encoder = Encoder(str(tmp_path), device="cpu")
    assert encoder.limit == 18
    assert encoder.tokens_cut(["bread " * 30]) == [14]
    assert np.isfinite(encoder.encode_passages(["bread " * 30])).all()
    with pytest.raises(UsageError, match="reads at most 18 tokens, not 19"):
        Encoder(str(tmp_path), max_tokens=19, device="cpu").encode_passages(["bread"])


def test_characters_of_several_tokens_count_as_such(tiny_model: Callable[..., Path]) -> None:
    encoder = Encoder(str(tiny_model()), max_tokens=16, device="cpu")
    assert encoder.count_cut(["é" * 12, "é" * 8, "🍞" * 5]) == 2


def test_blank_texts_resemble_nothing(tiny_encoder: Path) -> None:
    told: list[int] = []
    found = Encoder(str(tiny_encoder), device="cpu").encode_passages(
        ["", "sort", " \n"], told.append
    )
    assert not found[[0, 2]].any()
    assert np.linalg.norm(found[1]) == pytest.approx(1)
    assert sum(told) == 3


def test_bfloat16_is_near_and_has_unit_length(tiny_encoder: Path) -> None:
    half = Encoder(str(tiny_encoder), dtype="bfloat16", device="cpu").encode_passages(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    expected = oracle(tiny_encoder, TEXTS, "mean")
    assert (np.sum(half * expected, axis=1) > 0.99).all()
    assert np.abs(half - expected).max() > 1e-5


def test_settings_tell_two_models_and_two_ways_apart(
    tiny_encoder: Path, make_tiny_encoder: Callable[[int], Path], tmp_path: Path
) -> None:
    base = Encoder(str(tiny_encoder)).settings()
    assert Encoder(str(tiny_encoder), query_prompt="q ", device="cpu").settings() == base
    others = [
        Encoder(str(make_tiny_encoder(2))),
        Encoder(str(tiny_encoder), pooling="cls"),
        Encoder(str(tiny_encoder), passage_prompt="p "),
        Encoder(str(tiny_encoder), max_tokens=9),
        Encoder(str(tiny_encoder), dtype="bfloat16"),
        Encoder(str(tiny_encoder), normalize=False),
    ]
    for other in others:
        assert other.settings() != base
    # What sentence-transformers reads beside the weights counts too.
    copy = tmp_path / tiny_encoder.name
    shutil.copytree(tiny_encoder, copy)
    assert Encoder(str(copy)).settings() == base
    (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    assert Encoder(str(copy)).settings() != base


def test_what_cannot_be_used_is_refused_by_name(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown pooling 'max'; choose mean, cls, lasttoken"):
        Encoder(str(tiny_encoder), **NO_POOLING)
    with pytest.raises(UsageError, match="max_tokens must be at least 1, got 0"):
        Encoder(str(tiny_encoder), max_tokens=0)
    with pytest.raises(UsageError, match="reads at most 64 tokens, not 65"):
        Encoder(str(tiny_encoder), max_tokens=65).encode_queries(["sort"])
    with pytest.raises(UsageError, match="unknown dtype 'int8'"):
        Encoder(str(tiny_encoder), dtype="int8")
    with pytest.raises(MissingResourceError, match="unknown model 'minilm'"):
        Encoder("minilm").settings()
    broken = tmp_path / "broken"
    shutil.copytree(tiny_encoder, broken)
    (broken / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(InvalidInputError, match="broken cannot be loaded as an encoder: "):
        Encoder(str(broken)).encode_queries(["sort"])
