"""A local causal language model that is asked for its next token, or for a short answer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ranklens.data.chat import Chat, Encoded, Turn
from ranklens.data.device import Placement, choose_placement
from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.data.extras import require
from ranklens.data.models import check_whole, resolve
from ranklens.data.models.loading import lacking

if TYPE_CHECKING:
    import numpy as np
    import torch

    FloatArray = np.ndarray[Any, np.dtype[np.float64]]

# Rotations that depend on the longest prompt of a batch.
_BY_LENGTH = ("longrope", "dynamic")
# Tokens that prompts have to begin with in common to have them computed once.
_WORTH = 32
# Tokens by which the prompts of a batch may differ in length, if an eighth is not more.
_FILLED = 24


class CausalLM:
    """A decoder with its tokenizer and chat format.

    Prompts of a batch are filled up behind their ends, where no causal model looks, and what
    they begin with in common is computed once: a result does not depend on the other prompts
    but for rounding.
    """

    def __init__(
        self, model: Any, tokenizer: Any, placement: Placement, name: str, revision: str
    ) -> None:
        self.model = model.eval()
        self.chat = Chat(tokenizer)
        self.placement = placement
        self.name = name
        self.revision = revision
        self._tokenizer = tokenizer
        config = model.config.get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", 1 << 30)
        rope = getattr(config, "rope_parameters", None) or {}
        self._alone = rope.get("rope_type") in _BY_LENGTH
        self._opening: tuple[tuple[int, ...], Any] | None = None

    @classmethod
    def load(cls, model: str, device: str | None = None, dtype: str | None = None) -> CausalLM:
        """Load a model by name, hub id or folder; nothing is downloaded.

        Raises MissingPrerequisiteError without the extra ``llm``, MissingResourceError for a
        model that is not here, InvalidInputError for one that does not load or is no decoder.
        """
        require("llm", "torch", "transformers", "safetensors")
        check_whole(model)
        found = resolve(model)
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ranklens.data.quiet import quiet_transformers

        placement = choose_placement(device, dtype)
        auto: Any = AutoModelForCausalLM
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(found.path, local_files_only=True)
                loaded, loading = auto.from_pretrained(
                    found.path,
                    local_files_only=True,
                    dtype=getattr(torch, placement.dtype),
                    output_loading_info=True,
                )
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise InvalidInputError(f"cannot load the model {model}: {reason}") from error
        if absent := lacking(loading):
            raise InvalidInputError(
                f"the model {model} lacks {len(absent)} weights of a causal language model "
                f"(first: {absent[0]}); the folder is incomplete or holds another model"
            )
        return cls(loaded.to(placement.device), tokenizer, placement, model, found.revision)

    def encode(
        self, turns: Sequence[Turn], *, most: int | None = None, reserve: int = 1
    ) -> Encoded:
        """Return a prompt's ids with room for ``reserve`` tokens of an answer.

        ``most``: tokens of each text that may be cut. Raises as ``Chat.encode``.
        """
        return self.chat.encode(turns, self.context - reserve, most=most)

    def next_log_probs(
        self, prompts: Sequence[Sequence[int]], tokens: Sequence[int], *, batch: int = 8
    ) -> FloatArray:
        """Return natural logarithms of the probabilities [prompts, tokens] of the next token.

        They are of the whole vocabulary's distribution. Raises NumericalError for NaN.
        """
        import numpy as np
        import torch

        result = np.empty((len(prompts), len(tokens)))
        wanted = torch.tensor(list(tokens), device=self.model.device)
        shared = self._shared(prompts)
        for rows in self._batches(prompts, batch):
            logits = self._last_logits([prompts[row] for row in rows], shared)
            found = self.checked(torch.log_softmax(logits, dim=-1)[:, wanted])
            result[rows] = found.double().cpu().numpy()
        return result

    def generate(self, prompts: Sequence[Sequence[int]], most: int) -> list[str]:
        """Return the greedy continuations, of at most ``most`` tokens, as text.

        Prompts are continued one by one. Control tokens are left out of the text. Raises
        NumericalError for NaN.
        """
        return [self.decoded(self._greedy(prompt, most)) for prompt in prompts]

    def decoded(self, tokens: Sequence[int]) -> str:
        """Return tokens as text, control tokens left out."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def checked(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers of the model; NumericalError where one is NaN."""
        if bool(numbers.isnan().any()):
            raise NumericalError(
                f"{self.name} gave NaN; its weights are damaged, or {self.placement.dtype} is "
                "too narrow for them"
            )
        return numbers

    def _batches(self, prompts: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
        """Yield the numbers of prompts of similar length, the longest first."""
        order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
        rows: list[int] = []
        for row in order:
            if rows:
                longest = len(prompts[rows[0]])
                far = longest - len(prompts[row]) > max(_FILLED, longest // 8)
                if far or self._alone or len(rows) == batch:
                    yield rows
                    rows = []
            rows.append(row)
        if rows:
            yield rows

    def _last_logits(self, prompts: Sequence[Sequence[int]], shared: int) -> torch.Tensor:
        """Return the logits [prompts, vocabulary] behind each prompt's last token, in fp32.

        ``shared``: how many tokens all prompts begin with in common.
        """
        import torch

        cache = self.opened(prompts[0][:shared], len(prompts)) if shared >= _WORTH else None
        rests = prompts if cache is None else [ids[shared:] for ids in prompts]
        longest = max(map(len, rests))
        # Filled up with a token of the prompt: some models warn about one made for filling.
        rows = [[*ids, *[ids[-1]] * (longest - len(ids))] for ids in rests]
        device = self.model.device
        ends = sorted({len(ids) - 1 for ids in rests})
        columns = [ends.index(len(ids) - 1) for ids in rests]
        with torch.inference_mode():
            logits: torch.Tensor = self.model(
                input_ids=torch.tensor(rows, device=device),
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=torch.tensor(ends, device=device),
            ).logits
        return logits[list(range(len(prompts))), columns].float()

    def _shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """Return how many tokens that all prompts begin with are to be computed once."""
        if len(prompts) < 2 or self._alone:
            return 0
        common = _common(prompts)
        opening = self._opening
        if opening is not None:
            # What is there is better than a little more.
            held = len(opening[0])
            if held <= common < held + _WORTH and tuple(prompts[0][:held]) == opening[0]:
                return held
        return common

    def opened(self, opening: Sequence[int], copies: int) -> Any:
        """Return the cache of what several prompts begin with; None where it cannot be shared."""
        import torch
        from transformers.cache_utils import DynamicLayer

        # Read once: a reranker in another thread that shares the model may put its own there.
        held = self._opening
        if held is None or held[0] != tuple(opening):
            with torch.inference_mode():
                cache = self.model(
                    input_ids=torch.tensor([list(opening)], device=self.model.device),
                    use_cache=True,
                    logits_to_keep=1,
                ).past_key_values
            # Layers with a window or a state keep something else.
            plain = all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))
            held = self._opening = tuple(opening), cache if plain else None
        cache = copy.deepcopy(held[1])
        if cache is not None:
            cache.batch_repeat_interleave(copies)
        return cache

    def _greedy(self, prompt: Sequence[int], most: int) -> list[int]:
        import torch

        ends = self.ends()
        answer: list[int] = []
        ids, cache = list(prompt), None
        with torch.inference_mode():
            while len(answer) < most:
                out = self.model(
                    input_ids=torch.tensor([ids], device=self.model.device),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                token = int(self.checked(out.logits[0, -1]).argmax())
                if token in ends:
                    break
                answer.append(token)
                ids, cache = [token], out.past_key_values
        return answer

    def ends(self) -> set[int]:
        """Return the tokens that end an answer."""
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        listed = ends if isinstance(ends, list) else [ends]
        return {end for end in (*listed, self._tokenizer.eos_token_id) if end is not None}


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Return with how many equal tokens all prompts begin; each keeps one of its own."""
    shortest = min(map(len, prompts)) - 1
    columns = zip(*(ids[:shortest] for ids in prompts), strict=True)
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), shortest)
