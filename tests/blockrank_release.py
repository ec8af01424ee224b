"""BlockRank computed anew from its specification, and tiny models to compute it with.

Shares no code with the engine: text through the tokenizer's chat template, split at a sentinel;
blocks padded on the left to one height; a dense additive mask; transformers' eager attention,
renormalised over the documents' columns; numpy after that.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
)

SENTINEL = "<<end_of_block_prompt_segment>>"
RULES = (
    "You will be given a query and a list of documents. Each document will be formatted as "
    "ID: <id> | CONTENT: <content> | END ID: <id>. You need to read carefully and understand all "
    "of them and your goal is to find all document(s) from the list that can help answer the query."
)
QUESTION = (
    "\n====== Now let's start! ======\nWhich document is most relevant to answer the query? Print "
    "out the ID of the document.\nQuery: {}\nThe following document(s) can help answer the query:"
)
TRAINING = [
    RULES,
    QUESTION,
    "Query: | CONTENT: | END ID: Documents: Final Answer: [ Paris is the capital of France",
    "0 1 2 3 4 5 6 7 8 9 . , ; the of and in is to a",
]

# As the tokenizer_config.json of Mistral-7B-Instruct-v0.3 writes the turns: a blank behind [INST]
# and before the answer, none before [/INST].
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + '[/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA_TEMPLATE = (
    "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' "
    "+ m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1e6,
    # Wide enough that attention is far from uniform.
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


def mistral_folder(folder: Path, **changes: Any) -> Path:
    """Save a tiny model in the format of the released one: bf16 shards and their index."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    words = [word for text in TRAINING for word in text.replace("\n", " ").split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if "<0x" not in t["content"]]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    control = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    _save_tokenizer(folder, tokenizer, MISTRAL_TEMPLATE, "<s>", "</s>", unk_token="<unk>")
    sizes = SIZES | {"vocab_size": tokenizer.get_vocab_size(), "sliding_window": None} | changes
    _save_model(folder, MistralConfig(**sizes))
    return folder


def llama_folder(folder: Path, **changes: Any) -> Path:
    """Save a tiny Llama with a byte-level tokenizer and Llama 3's turns."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", special_tokens=[(special[0], tokenizer.token_to_id(special[0]))]
    )
    _save_tokenizer(folder, tokenizer, LLAMA_TEMPLATE, special[0], special[3])
    _save_model(
        folder, LlamaConfig(**(SIZES | {"vocab_size": tokenizer.get_vocab_size()} | changes))
    )
    return folder


def _save_tokenizer(
    folder: Path, tokenizer: Tokenizer, template: str, bos: str, eos: str, **special: str
) -> None:
    make: Any = PreTrainedTokenizerFast
    fast = make(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, **special)
    fast.chat_template = template
    fast.save_pretrained(folder)


def _save_model(folder: Path, config: Any) -> None:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").is_file()


@dataclass(frozen=True)
class Found:
    """The blocks' ids and positions, opening and last block included, and S by slot."""

    blocks: list[list[int]]
    positions: list[list[int]]
    scores: list[float]


class Release:
    """A saved model read as the release reads it."""

    def __init__(self, folder: Path, layer: int, limit: int = 384) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self.layer = layer
        self.limit = limit

    def blocks(self, query: str, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of every block of documents in the order of the prompt, uncut."""
        parts = [f"{RULES}\nQuery: {query}\n\nDocuments:"]
        parts += [
            f"ID: {number} | CONTENT: {text} | END ID: {number}"
            for number, text in enumerate(texts)
        ]
        conversation = [
            {"role": "user", "content": SENTINEL.join([*parts, QUESTION.format(query)])},
            {"role": "assistant", "content": f"Final Answer: {SENTINEL}["},
        ]
        said = self.tokenizer.apply_chat_template(
            conversation, tokenize=False, continue_final_message=True
        )
        pieces = said.split(SENTINEL)
        assert len(pieces) == len(texts) + 3
        inner = [f"\n{piece}" for piece in pieces[1:-1]]
        ids = [
            list(self.tokenizer(piece, add_special_tokens=False)["input_ids"])
            for piece in (pieces[0], *inner, pieces[-1])
        ]
        assert len(ids[-1]) == 1
        return [*ids[:-2], ids[-2] + ids[-1]]

    def read(self, query: str, texts: Sequence[str]) -> Found:
        """Return what the release computes for documents in the order of the prompt."""
        blocks = [block[: self.limit] for block in self.blocks(query, texts)]
        number, height = len(blocks), 16 * math.ceil(max(map(len, blocks)) / 16)
        ids = torch.zeros(number, height, dtype=torch.long)
        valid = torch.zeros(number, height, dtype=torch.bool)
        places = torch.zeros(number, height, dtype=torch.long)
        for m, block in enumerate(blocks):
            start = 0 if m == 0 else 16384 if m == number - 1 else len(blocks[0])
            ids[m, height - len(block) :] = torch.tensor(block)
            valid[m, height - len(block) :] = True
            places[m, height - len(block) :] = torch.arange(start, start + len(block))
        owner = torch.arange(number).repeat_interleave(height)
        token = torch.arange(number * height)
        within = (owner[:, None] == owner) & (token[:, None] >= token)
        to_first = (owner[:, None] > 0) & (owner == 0)
        from_last = (owner[:, None] == number - 1) & (owner < number - 1)
        seen = (within | to_first | from_last) & valid.flatten()
        mask = torch.zeros(1, 1, *seen.shape)
        mask[0, 0][~seen] = 0.7 * torch.finfo(torch.float32).min
        with torch.no_grad():
            attention = self.model(
                ids.view(1, -1),
                attention_mask=mask,
                position_ids=places.view(1, -1),
                output_attentions=True,
                use_cache=False,
            ).attentions[self.layer]
        # A softmax over some of the keys is the weights of these, made to sum to one.
        paid = attention[0, :, -2:, height:-height].double().numpy()
        shares = (paid / paid.sum(-1, keepdims=True)).mean((0, 1))
        scores = shares.reshape(number - 2, height).sum(1)
        positions = [places[m][valid[m]].tolist() for m in range(number)]
        return Found(blocks, positions, [float(score) for score in scores])


def shuffled(documents: int, example: int) -> list[int]:
    """Return which document stands in which slot of an example of a data set."""
    order = list(range(documents))
    state = random.getstate()
    random.seed(42 + example)
    random.shuffle(order)
    random.setstate(state)
    return order


def by_document(order: Sequence[int], of_slot: Sequence[Any]) -> list[Any]:
    """Return values of slots in the order of the documents."""
    return [of_slot[int(slot)] for slot in np.argsort(order)]
