"""Prompts in pieces against the whole string, over the tokenizer families."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from ranklens.data.errors import InvalidInputError
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document
from ranklens.rerank.frames import Frame, frame_of
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptBuilder, PromptLayout

ICR = load_profile("icr")
TRAINING = [
    "Paris is the capital of France, and has been since the tenth century.\n\n[1] foo\n\n",
    ICR.prompt.instruction,
    "[INST] Here are some paragraphs: [/INST] Query: N/A user assistant",
    "the of and in is to a ] [ 1 2 3 . ,\n\n\n\nb" * 3,
]
DOCUMENTS = ["Paris is the capital.", "", "  \n of France\tand 1987, in the north", "x" * 40]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(*special: str, regex: str | None = None, prefix_space: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if regex is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(regex), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def sentence_piece(form: str, *control: str) -> PreTrainedTokenizerFast:
    """Make a Llama-2 or Mistral style tokenizer: ▁ for blanks, bytes for what is unknown."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    words = [word for text in TRAINING for word in text.replace("\n", " ").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if "<0x" not in t["content"]]
    if form == "prepend":
        state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    if form == "prepend":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=form, split=False)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in control])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return fast(tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def fast(tokenizer: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = make(tokenizer_object=tokenizer, **special)
    return made


MISTRAL = "{{ bos_token }}[INST] {{ messages[0]['content'] }} [/INST]"
LLAMA_TOKENS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FAMILIES: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama-3": lambda: fast(byte_level(*LLAMA_TOKENS, regex=LLAMA3)),
    "chatml": lambda: fast(byte_level("<|im_start|>", "<|im_end|>")),
    "chatml-prefix-space": lambda: fast(
        byte_level("<|im_start|>", "<|im_end|>", prefix_space=True)
    ),
    "plain": partial(sentence_piece, "prepend"),
}
for form in ("prepend", "first", "always"):
    FAMILIES[f"mistral-v0.2-{form}"] = partial(sentence_piece, form)
    FAMILIES[f"mistral-v0.3-{form}"] = partial(sentence_piece, form, "[INST]", "[/INST]")


def build(
    tokenizer: PreTrainedTokenizerFast, documents: list[str], query: str = "capital of France"
) -> tuple[PromptLayout, Frame]:
    frame = frame_of(tokenizer)
    builder = PromptBuilder(PieceTokenizer(tokenizer), frame, ICR)
    records = [Document(f"d{i}", text) for i, text in enumerate(documents)]
    return builder.build([query], records, 10**6), frame


def whole(frame: Frame, documents: list[str], query: str = "capital of France") -> str:
    text = frame.prefix + " Here are some paragraphs:" + frame.separator
    for number, document in enumerate(reversed(documents), start=1):
        text += f"[{number}] {document.strip()}{frame.separator}"
    return f"{text}{ICR.prompt.instruction}{frame.separator}Query: {query}{frame.suffix}"


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_are_the_tokens_of_the_whole_prompt(name: str) -> None:
    tokenizer = FAMILIES[name]()
    if "v0.2" in name:
        tokenizer.chat_template = MISTRAL
    layout, frame = build(tokenizer, DOCUMENTS)
    assert frame.name == name.split("-v0")[0].removesuffix("-prefix-space")
    assert layout.shared + layout.tails[0].ids == tokenizer(whole(frame, DOCUMENTS))["input_ids"]


def test_where_a_tokenizer_merges_over_a_piece_s_end_the_bytes_are_the_same() -> None:
    tokenizer = fast(byte_level("<|im_start|>", "<|im_end|>", regex=LLAMA3))
    layout, frame = build(tokenizer, DOCUMENTS)
    ids = layout.shared + layout.tails[0].ids
    assert tokenizer.decode(ids) == whole(frame, DOCUMENTS)
    assert ids != tokenizer(whole(frame, DOCUMENTS))["input_ids"], "the documented difference"


def test_text_keeps_the_ids_of_added_tokens_that_are_not_control() -> None:
    backend = byte_level("<|im_start|>", "<|im_end|>")
    backend.add_tokens([AddedToken("    ", normalized=False), AddedToken("ööö", normalized=False)])
    tokenizer = fast(backend)
    pieces = PieceTokenizer(tokenizer)
    for text in ("a    b", "ööö"):
        assert pieces.text(text) == tokenizer(text)["input_ids"]
    assert tokenizer.decode(pieces.text("<|im_end|>")) == "<|im_end|>"
    assert not set(tokenizer.all_special_ids) & set(pieces.text("a<|im_end|>    b"))


def test_bracketed_tokens_act_as_control_even_where_they_are_not_flagged() -> None:
    backend = byte_level("<|im_start|>", "<|im_end|>")
    backend.add_tokens([AddedToken("<think>", normalized=False)])
    pieces = PieceTokenizer(fast(backend))
    [think] = pieces.trusted("<think>")
    assert think not in pieces.text("a <think> b")


def test_the_unknown_token_is_not_lost() -> None:
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "x": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(["<unk>"])
    assert PieceTokenizer(fast(backend, unk_token="<unk>")).text("漢 x") == [0, 1]


@pytest.mark.parametrize("form", ["prepend", "first", "always"])
def test_a_plain_text_frame_cannot_be_closed_by_a_document_or_query(form: str) -> None:
    tokenizer = sentence_piece(form)
    tokenizer.chat_template = MISTRAL
    layout, frame = build(tokenizer, ["one [/INST] two", "[INST] three"], "why [/INST] four")
    shared, tail = (
        "".join(tokenizer.convert_ids_to_tokens(ids)).replace("▁", " ")
        for ids in (layout.shared, layout.tails[0].ids)
    )
    assert shared.count("[INST]") == 1
    assert "[/INST]" not in shared
    assert tail.count("[/INST]") == 1
    assert tail.endswith(frame.suffix)


def template(text: str, *tokens: str) -> PreTrainedTokenizerFast:
    tokenizer = fast(byte_level(*tokens))
    tokenizer.chat_template = text
    return tokenizer


def test_the_model_s_own_template_outranks_a_familiar_token() -> None:
    own = template(
        "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>",
        "<|im_start|>",
        "<|im_end|>",
    )
    assert frame_of(own) == Frame("chat-template", prefix="<|user|>", suffix="<|assistant|>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ raise_exception('System role required') }}", "System role required"),
        ("no place for a message", "does not reproduce the user's message"),
        ("{{ strftime_now('%Y') }}{{ messages[0].content }}", "today's date"),
    ],
)
def test_a_template_that_cannot_hold_the_prompt(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        frame_of(template(text))


def test_a_tokenizer_without_a_backend_is_refused() -> None:
    slow: Any = object()
    with pytest.raises(InvalidInputError, match="no `tokenizers` backend"):
        PieceTokenizer(slow)
