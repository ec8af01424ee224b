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
# the header tokens, a blank before the blank line on Llama), QRHead's for ChatML (Qwen2.5),
# CoRe's for Granite and Phi-4 (arXiv 2510.02219). GPT-OSS's is a user turn of its harmony format
# without the system turn, which holds a date.
# A frame is recognised by a mark in the model's chat template.
_KNOWN = (
    (
        "<|start_of_role|>",
        Frame(
            "granite",
            prefix="<|start_of_role|>user<|end_of_role|>",
            suffix="<|end_of_text|><|start_of_role|>assistant<|end_of_role|>",
        ),
    ),
    (
        # Phi-4's template begins like ChatML and goes on differently.
        "<|im_sep|>",
        Frame(
            "phi-4",
            prefix="<|im_start|>user<|im_sep|>",
            suffix="<|im_end|><|im_start|>assistant<|im_sep|>",
        ),
    ),
    (
        "<|start_header_id|>",
        Frame(
            "llama-3",
            prefix="<|start_header_id|>user<|end_header_id|>",
            suffix="<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
            separator=" \n\n",
        ),
    ),
    (
        "<|message|>",
        Frame("harmony", prefix="<|start|>user<|message|>", suffix="<|end|><|start|>assistant"),
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

    A family of the table by its chat template, or without a template by its control token;
    else the tokenizer's own chat template; else, for a base model, no frame. Raises
    InvalidInputError for a template that cannot hold a user turn or changes from day to day.
    """
    from jinja2 import TemplateError

    try:
        template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
        for token, frame in _KNOWN:
            if token in (template or tokenizer.get_added_vocab()):
                return frame
        if not template:
            return _PLAIN
        if "strftime_now" in template:
            raise InvalidInputError(
                "the model's chat template writes today's date into the prompt, so rankings "
                "would change from day to day; use a model with another template"
            )
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": _SENTINEL}], tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"the model's chat template does not work: {error}") from error
    prefix, sentinel, suffix = rendered.partition(_SENTINEL)
    if not sentinel:
        raise InvalidInputError(
            "the model's chat template does not reproduce the user's message, so documents "
            "cannot be placed in it; use an instruction-tuned model with an ordinary template"
        )
    return Frame("chat-template", prefix=prefix, suffix=suffix)
