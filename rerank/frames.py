"""Chat frames: what stands before and after a user's turn, by model family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ranklens.data.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Frame:
    """Prompt text around a user's turn, and the separator between paragraphs."""

    name: str
    prefix: str
    suffix: str
    separator: str = "\n\n"


# ICR's strings for Llama 3 and Mistral (arXiv 2410.02642, template `instruct`: no newline after
# the header tokens, a blank before the blank line on Llama), QRHead's for ChatML (Qwen2.5).
# A frame is recognised by a token that only its family has in the vocabulary.
_KNOWN = (
    (
        "<|start_header_id|>",
        Frame(
            "llama-3",
            prefix="<|start_header_id|>user<|end_header_id|>",
            suffix="<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
            separator=" \n\n",
        ),
    ),
    ("[INST]", Frame("mistral", prefix="[INST]", suffix="[/INST]")),
    (
        "<|im_start|>",
        Frame("chatml", prefix="<|im_start|>user", suffix="<|im_end|>\n<|im_start|>assistant"),
    ),
)
_PLAIN = Frame("plain", prefix="", suffix="")
_SENTINEL = "\x00ranklens\x00"


def frame_of(tokenizer: Any) -> Frame:
    """Return the frame of a tokenizer's model family.

    A family of the table by its control token (Mistral's early tokenizers spell ``[INST]`` as
    text, which their chat template shows); else the tokenizer's own chat template; else, for a
    base model, no frame. Raises InvalidInputError for a template that cannot hold a user turn.
    """
    vocabulary = tokenizer.get_added_vocab()
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    for token, frame in _KNOWN:
        if token in vocabulary or token in template:
            return frame
    if not template:
        return _PLAIN
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _SENTINEL}], tokenize=False, add_generation_prompt=True
    )
    prefix, sentinel, suffix = rendered.partition(_SENTINEL)
    if not sentinel:
        raise InvalidInputError(
            "the model's chat template does not reproduce the user's message, so documents "
            "cannot be placed in it; use an instruction-tuned model with an ordinary template"
        )
    return Frame("chat-template", prefix=prefix, suffix=suffix)
