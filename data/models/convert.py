"""From GGUF to the safetensors folder that transformers loads in under a second."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.extras import require
from ranklens.data.models.loading import lacking
from ranklens.data.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODULES = ("torch", "transformers", "gguf", "accelerate")


def convert_gguf(gguf_file: Path, folder: Path) -> None:
    """Write the model and tokenizer of `gguf_file` to `folder`, weights de-quantised to float32.

    Raises `MissingPrerequisiteError` without the extra `llm`, and `InvalidInputError` if the
    file lacks weights of its own architecture.
    """
    require("llm", *MODULES)
    from transformers import AutoTokenizer

    with quiet_transformers(), _tame_reader():
        model = _read_model(gguf_file)
        tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
        if _pre_tokenizer_name(gguf_file) == "smollm":
            from tokenizers import pre_tokenizers

            # transformers keeps the byte level only; the model was trained on single digits.
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                ]
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _read_model(gguf_file: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    read, info = auto.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if absent := lacking(info):
        raise InvalidInputError(f"{gguf_file.name} lacks weights: {', '.join(absent[:5])}")
    # A model read from GGUF refuses to be saved, de-quantised or not: an empty one takes over.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def _pre_tokenizer_name(gguf_file: Path) -> str | None:
    from gguf import GGUFReader

    # As text, which is how transformers names it: one file, parsed once.
    field = GGUFReader(str(gguf_file)).fields.get("tokenizer.ggml.pre")
    return None if field is None else bytes(field.parts[field.data[0]]).decode()


@contextmanager
def _tame_reader() -> Iterator[None]:
    """Let the GGUF file be parsed once instead of four times, and without a bar of its own.

    Parsing takes seconds for every file; the bar is one that the switch of transformers misses.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils

    library: Any = gguf
    user: Any = modeling_gguf_pytorch_utils
    reader, tqdm = library.GGUFReader, user.tqdm
    library.GGUFReader = functools.cache(reader)
    user.tqdm = functools.partial(tqdm, disable=True)
    try:
        yield
    finally:
        library.GGUFReader, user.tqdm = reader, tqdm
