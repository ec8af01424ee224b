"""The answer that a model is taught to write: the numbers of the relevant documents.

BlockRank (arXiv 2510.05396) is trained to continue its prompt's "[" with "3, 7]" and the end of the
turn, by next-token cross-entropy beside its loss over attention. The answer's tokens follow the
rows that are read, which do not see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

    from ranklens.data.pieces import PieceTokenizer
    from ranklens.rerank.engine import AttentionEngine
    from ranklens.rerank.profile import Profile


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens that follow a tail, ``ids``, and how many ``told`` tokens at their end are targets.

    Where the prompt begins the answer itself, as BlockRank's "[" does, that is a target as well:
    ``told`` then exceeds the number of ``ids``.
    """

    ids: list[int]
    told: int


class Answers:
    """Writes answers for one profile and tokenizer.

    Raises InvalidInputError for a profile whose documents have no numbers, or whose completion
    does not begin a list of them.
    """

    def __init__(self, engine: AttentionEngine, profile: Profile, pieces: PieceTokenizer) -> None:
        blocks = profile.prompt.blocks
        if "{number}" not in profile.prompt.marker:
            raise InvalidInputError(
                f"next-token: profile {profile.name!r} gives documents no numbers that an answer "
                "could name; put {number} into prompt.marker"
            )
        self._completion = "" if blocks is None else blocks.completion
        if not "[".startswith(self._completion):
            raise InvalidInputError(
                f"next-token: profile {profile.name!r} lets the answer begin with "
                f"{self._completion!r} (prompt.blocks.completion); an answer is '[3, 7]'"
            )
        self._pieces = pieces
        self._first = profile.prompt.first_number
        self._given, _ = pieces.whole(self._completion, "", "")
        self._end: int | None = engine.tokenizer.eos_token_id

    def of(self, slots: Sequence[int]) -> Answer:
        """Return the answer that names the documents in ``slots`` of the prompt, from 0."""
        text = f"[{', '.join(str(slot + self._first) for slot in sorted(slots))}]"
        # The completion is tokenised apart where an answer is awaited, so it is here.
        ids, _ = self._pieces.whole(text, "", "")
        if self._given and ids[: len(self._given)] == self._given:
            ids = ids[len(self._given) :]
        else:
            ids = self._pieces.trusted(text.removeprefix(self._completion))
        if self._end is not None:
            ids = [*ids, self._end]
        return Answer(ids, len(self._given) + len(ids))


@dataclass(frozen=True, slots=True)
class OutputEmbeddings:
    """What turns a model's last states into logits: c · tanh((W h + b) · factor / c).

    ``weight`` [vocabulary, width] is the model's own input embedding where the two are tied, so
    that gradients reach it; otherwise the checkpoint's, which stays as it is.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    factor: float = 1.0
    softcap: float | None = None

    def losses(self, states: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Return −log p of each of ``ids``, told from ``states`` [ids, width]."""
        import torch
        from torch.nn import functional as F

        from ranklens.rerank.body import wide

        logits = F.linear(states, self.weight, self.bias) * self.factor
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        told = torch.tensor(ids, device=states.device)
        return F.cross_entropy(wide(logits), told, reduction="none")


def output_embeddings(engine: AttentionEngine) -> OutputEmbeddings:
    """Return the output embeddings of an engine's model, which itself has none.

    Raises InvalidInputError where layers were left out, or the model's folder holds none.
    """
    config, model = engine.config, engine.model
    # Empty for a model that was made in memory.
    folder = Path(getattr(model.config, "name_or_path", ""))
    if folder.joinpath("config.json").is_file():
        _check_whole(config, folder)
    # Granite divides logits, Cohere multiplies them, Gemma 2 caps them.
    factor = getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    if getattr(config, "tie_word_embeddings", False):
        return OutputEmbeddings(model.get_input_embeddings().weight, None, factor, softcap)
    name = _name_of_output(config)
    stem = name.removesuffix("weight")
    found = _stored(folder, (name, f"{stem}bias"))
    if name not in found:
        raise InvalidInputError(
            f"next-token needs the model's output embeddings, and {folder} has no safetensors file "
            f"with {name!r}; leave next-token out, or use the model's complete folder"
        )
    weight, bias = (
        None if tensor is None else tensor.to(model.device, model.dtype)
        for tensor in (found[name], found.get(f"{stem}bias"))
    )
    assert weight is not None
    return OutputEmbeddings(weight, bias, factor, softcap)


def _check_whole(config: Any, folder: Path) -> None:
    from transformers import AutoConfig

    whole = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    if config.num_hidden_layers < whole.num_hidden_layers:
        raise InvalidInputError(
            f"next-token needs all {whole.num_hidden_layers} layers of the model in {folder}, and "
            f"{config.num_hidden_layers} are loaded: load it with layers=None"
        )


def _name_of_output(config: Any) -> str:
    """Return how a family's causal language model calls the weight of its output embeddings."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise InvalidInputError(
            f"next-token: transformers knows no language model of type {config.model_type!r}"
        ) from error
    output = model.get_output_embeddings()
    named = model.named_parameters(remove_duplicate=False)
    found: str = next(name for name, weight in named if weight is output.weight)
    return found


def _stored(folder: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return those tensors of a folder's safetensors files that have one of ``names``."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                held = set(file.keys())
                found |= {name: file.get_tensor(name) for name in names if name in held}
        except SafetensorError as error:
            raise InvalidInputError(f"cannot read {path}: {error}") from error
    return found
