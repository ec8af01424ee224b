"""The edge cases of the specification (section 17), each with a test named after it.

Those that another file already tests stand there:

    empty documents             test_attention_reranker: test_empty_documents_are_ranked;
                                test_oracle: test_one_document_and_empty_and_equal_documents;
                                test_scores: test_a_document_without_tokens_scores_zero_...
    N = 1                       test_attention_reranker: test_one_document; test_oracle as above
    duplicated ids              test_attention_reranker: test_a_request_that_makes_no_sense
    later query with more       test_attention_reranker: test_a_longer_list_after_a_shorter_one
    over-long prompts           test_attention_reranker:
                                test_a_megabyte_document_is_cut_and_counted,
                                test_only_the_long_document_pays_for_a_small_context,
                                test_a_context_overflow_says_what_to_do
    "Query:", "[3]", control    test_attention_reranker: test_hostile_text_stays_inside_its_span;
    tokens in a document        test_pieces: test_a_plain_text_frame_cannot_be_closed_...
    NaN                         test_attention_reranker: test_nan_names_layer_and_document

A block over ``max_block_length``, the table's last row, is BlockRank's alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizer

from ranklens import AttentionReranker, Document
from ranklens.data.device import choose_placement
from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.data.pieces import PieceTokenizer
from ranklens.rerank.base import Ranking
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.profile import Profile, SignalChoice
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.scores import document_scores

MakeModel = Callable[..., Path]
ICR = load_profile("icr")
QUERY = "capital of France"
DOCUMENTS = [
    Document("paris", "Paris is the capital of France.", title="Paris"),
    Document("cell", "The mitochondrion is the powerhouse of the cell."),
    Document("berlin", "Berlin is the capital of Germany."),
]


def changed(**parts: dict[str, Any]) -> Profile:
    return dataclasses.replace(
        ICR, **{name: dataclasses.replace(getattr(ICR, name), **new) for name, new in parts.items()}
    )


def scores(ranking: Ranking) -> dict[str, float]:
    return {ranked.id: ranked.score for ranked in ranking}


@pytest.fixture
def engine(tiny_model: MakeModel) -> AttentionEngine:
    return AttentionEngine.from_pretrained(tiny_model(), device="cpu", dtype="float32")


def test_nan_std_for_one_token(engine: AttentionEngine) -> None:
    documents = [*DOCUMENTS, Document("one", "~")]
    profile = changed(prompt={"span": "text", "document_tokens": 1})
    reranker = AttentionReranker(engine, profile)
    assert all(end - first == 1 for first, end in reranker.layout(QUERY, documents).spans)
    ranking = reranker.rank(QUERY, documents)
    assert [r.score for r in ranking] == [0.0] * 4, "nothing is kept, as in the reference"
    assert [r.index for r in ranking] == [0, 1, 2, 3]
    unfiltered = dataclasses.replace(
        profile, pooling=dataclasses.replace(profile.pooling, drop_below_stds=None)
    )
    kept = AttentionReranker(engine, unfiltered).rank(QUERY, documents)
    assert all(math.isfinite(r.score) and r.score != 0 for r in kept)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7])
def test_all_equal_scores(engine: AttentionEngine, value: float) -> None:
    profile = changed(calibration={"nulls": ()})
    reranker = AttentionReranker(engine, profile)
    # Several lengths: at some of them a mean of equal values is rounded to below these.
    documents = [Document("empty", ""), Document("short", "~~"), *DOCUMENTS]
    layout = reranker.layout(QUERY, documents)
    signal = reranker.read(layout)
    even = dataclasses.replace(signal, mass=torch.full_like(signal.mass.double(), value))
    [found] = document_scores(even, layout, profile)
    assert found == [0.0] * 5, "no token is above the mean, as in the reference"
    ranking = Ranking.from_scores(documents, found, layout.tokens_cut)
    assert [r.index for r in ranking] == [0, 1, 2, 3, 4]


def test_duplicated_texts_are_told_apart_by_position(engine: AttentionEngine) -> None:
    documents = [Document("first", "a capital"), DOCUMENTS[1], Document("second", "a capital")]
    reranker = AttentionReranker(engine, ICR)
    layout = reranker.layout(QUERY, documents)
    assert len(set(layout.spans)) == 3
    decode = engine.tokenizer.decode
    assert [decode(layout.shared[a:b]) for a, b in layout.spans] == [
        "[3] a capital",
        f"[2] {DOCUMENTS[1].text}",
        "[1] a capital",
    ]
    ranking = reranker.rank(QUERY, documents)
    assert sorted(ranking.ids) == ["cell", "first", "second"]
    # Each reads its own place: the two differ, and swapping the equal texts changes nothing.
    assert scores(ranking)["first"] != scores(ranking)["second"]
    swapped = [
        dataclasses.replace(documents[0], id="second"),
        documents[1],
        dataclasses.replace(documents[2], id="first"),
    ]
    assert [r.score for r in reranker.rank(QUERY, swapped)] == [r.score for r in ranking]


def test_query_equal_to_the_null_query(engine: AttentionEngine) -> None:
    for query in ("N/A", " N/A\n"):
        ranking = AttentionReranker(engine, ICR).rank(query, DOCUMENTS)
        assert [r.score for r in ranking] == [0.0, 0.0, 0.0]
        assert [r.index for r in ranking] == [0, 1, 2], "the order of the stage before stands"


def with_bos(folder: Path, engine: AttentionEngine) -> Any:
    """Return the engine's tokenizer with a beginning-of-sequence token, as Llama's has one."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(engine.tokenizer.backend_tokenizer.to_str())
    bos = backend.token_to_id("<|endoftext|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|im_end|>")


def test_bos_less_tokenizers(engine: AttentionEngine, tmp_path: Path) -> None:
    without = AttentionReranker(engine, ICR).layout(QUERY, DOCUMENTS)
    other = AttentionEngine(engine.model, with_bos(tmp_path, engine), engine.placement)
    bos = other.tokenizer.bos_token_id
    with_one = AttentionReranker(other, ICR).layout(QUERY, DOCUMENTS)
    assert engine.tokenizer.bos_token_id is None
    assert bos not in without.shared
    # One token more at the beginning, everything else where it was but for that.
    assert with_one.shared == [bos, *without.shared]
    assert with_one.spans == tuple((a + 1, b + 1) for a, b in without.spans)
    assert with_one.tails == without.tails
    for each in (engine, other):
        layout = AttentionReranker(each, ICR).layout(QUERY, DOCUMENTS)
        decoded = [each.tokenizer.decode(layout.shared[a:b]) for a, b in layout.spans]
        assert decoded[1] == f"[2] {DOCUMENTS[1].text}"


class CharacterTokenizer(PreTrainedTokenizer):
    """A tokenizer in Python alone: no backend of `tokenizers`, so no offsets either."""

    def __init__(self, **options: Any) -> None:
        self.characters = {chr(code): code for code in range(256)}
        super().__init__(**options)  # type: ignore[no-untyped-call]

    @property
    def vocab_size(self) -> int:
        return len(self.characters)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.characters)

    def _tokenize(self, text: str, **options: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.characters.get(token, 0)

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)


def test_slow_tokenizers_are_refused_with_the_way_out(engine: AttentionEngine) -> None:
    slow = CharacterTokenizer()
    assert slow("ab")["input_ids"] == [97, 98], "it works, and is no stand-in"
    expected = "CharacterTokenizer has no `tokenizers` backend.*convert .* to the fast format"
    with pytest.raises(InvalidInputError, match=expected):
        PieceTokenizer(slow)
    with pytest.raises(InvalidInputError, match=expected):
        AttentionReranker(AttentionEngine(engine.model, slow, engine.placement), ICR)


def test_left_padding(tiny_model: MakeModel) -> None:
    folder = tiny_model()

    def ranked(change: Callable[[Any], None]) -> tuple[object, Ranking, Any]:
        made = AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32")
        change(made.tokenizer)
        reranker = AttentionReranker(made, ICR)
        return reranker.layout(QUERY, DOCUMENTS), reranker.rank(QUERY, DOCUMENTS), made.tokenizer

    def pad(tokenizer: Any) -> None:
        tokenizer.pad_token = "<|im_end|>"
        tokenizer.padding_side = tokenizer.truncation_side = "left"
        tokenizer.model_max_length = 8
        backend = tokenizer.backend_tokenizer
        backend.enable_padding(direction="left", length=512, pad_id=tokenizer.pad_token_id)
        backend.enable_truncation(8, direction="left")
        assert len(backend.encode("x").ids) == 512, "the case is what it says"
        assert len(set(backend.encode("a b c d e f g h i j k").ids)) <= 9

    layout, ranking, _ = ranked(lambda tokenizer: None)
    padded_layout, padded_ranking, _ = ranked(pad)
    assert padded_layout == layout
    assert padded_ranking == ranking

    # The same settings as they stand in a model folder.
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text())
    state["padding"] = {
        "strategy": {"Fixed": 512},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "<|im_end|>",
    }
    state["truncation"] = {
        "direction": "Left",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    file.write_text(json.dumps(state))
    saved_layout, saved_ranking, _ = ranked(lambda tokenizer: None)
    assert saved_layout == layout
    assert saved_ranking == ranking


def test_ties_keep_the_order_of_the_input() -> None:
    documents = [Document(name, "") for name in "zyxwv"]
    ranking = Ranking.from_scores(documents, [0.0, 1.0, -0.0, 1.0, -2.0], [0] * 5)
    assert ranking.ids == ["y", "w", "z", "x", "v"]
    assert [r.index for r in ranking] == [1, 3, 0, 2, 4]


def test_negative_scores(engine: AttentionEngine) -> None:
    # Without the filter, query and null exchanged give each score's negative.
    pooling = {"drop_below_stds": None}
    ours = changed(pooling=pooling, calibration={"nulls": ("N/A",)})
    exchanged = changed(pooling=pooling, calibration={"nulls": (QUERY,)})
    ranking = AttentionReranker(engine, ours).rank(QUERY, DOCUMENTS)
    mirrored = AttentionReranker(engine, exchanged).rank("N/A", DOCUMENTS)
    negative = [r for r in (*ranking, *mirrored) if r.score < 0]
    assert len(negative) == len(DOCUMENTS)
    assert mirrored.ids == ranking.ids[::-1]
    for name, score in scores(ranking).items():
        assert scores(mirrored)[name] == pytest.approx(-score, abs=1e-6)


def test_inf_names_layer_and_document(engine: AttentionEngine) -> None:
    [tilde] = engine.tokenizer("~")["input_ids"]
    with torch.no_grad():
        engine.model.get_input_embeddings().weight[tilde] = math.inf
    documents = [*DOCUMENTS, Document("bad", "a ~ b")]
    with pytest.raises(NumericalError, match=r"layer 0 has NaN or Inf.*first in document 3"):
        AttentionReranker(engine, ICR).rank(QUERY, documents)


@pytest.mark.parametrize("window", [None, 64])
def test_products_beyond_float16_do_not_overflow(tiny_model: MakeModel, window: int | None) -> None:
    # ICR's release multiplies in fp16 and divides afterwards: 65,504 is soon passed.
    kinds = ["full_attention", "full_attention"]
    if window:
        # The first layer's products are then made in blocks of rows.
        kinds[0] = "sliding_attention"
    folder = tiny_model(
        kind="qwen2", layer_types=kinds, sliding_window=window, use_sliding_window=bool(window)
    )
    engine = AttentionEngine.from_pretrained(folder, device="cpu", dtype="float16")
    largest: list[float] = []

    def unscaled(attention: Any, arguments: Any, options: dict[str, Any]) -> None:
        hidden = options["hidden_states"]
        product = attention.q_proj(hidden).float() ** 2
        largest.append(float(product.sum(-1).max()))

    with torch.no_grad():
        for layer in engine.model.layers:
            layer.self_attn.q_proj.weight *= 100
            layer.self_attn.k_proj.weight *= 100
    engine.model.layers[0].self_attn.register_forward_pre_hook(unscaled, with_kwargs=True)
    ranking = AttentionReranker(engine, ICR).rank(QUERY, DOCUMENTS)
    assert max(largest) > 65_504, "the case is what it says"
    assert all(math.isfinite(r.score) for r in ranking)


def test_scores_that_a_profile_makes_infinite_are_an_error(tiny_model: MakeModel) -> None:
    calibration = dataclasses.replace(ICR.calibration, temperature=1e-320)
    profile = dataclasses.replace(ICR, calibration=calibration)
    reranker = AttentionReranker.from_pretrained(tiny_model(), profile=profile, device="cpu")
    with pytest.raises(NumericalError, match="'icr' turns finite attention into scores that are"):
        reranker.rank(QUERY, DOCUMENTS)
    with pytest.raises(InvalidInputError, match="temperature must be positive and finite: inf"):
        dataclasses.replace(calibration, temperature=math.inf)


def test_a_query_that_leaves_no_token(tiny_model: MakeModel) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast

    # Without an unknown token and without bytes, what the vocabulary lacks is left out.
    letters = dict.fromkeys(f"{ICR.prompt.instruction}{ICR.prompt.introduction}Query:N/A[]123")
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    make: Any = PreTrainedTokenizerFast
    sizes: Any = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=64, num_attention_heads=2, **sizes)
    engine = AttentionEngine(
        AutoModel.from_config(config),
        make(tokenizer_object=backend),
        choose_placement("cpu", "float32"),
    )
    profile = dataclasses.replace(ICR, signal=SignalChoice(rows="query"))
    with pytest.raises(InvalidInputError, match="'漢字' has no token"):
        AttentionReranker(engine, profile).rank("漢字", ["capital"])
