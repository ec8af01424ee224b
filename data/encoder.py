"""Texts to vectors: sentence-transformers models, other encoders, and decoders, by one class."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ranklens.data.device import Placement, choose_placement
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.extras import require
from ranklens.data.models.loading import readable_positions
from ranklens.data.pieces import without_surrogates

Vectors = NDArray[np.float32]
Pooling = Literal["mean", "cls", "lasttoken"]
POOLINGS: tuple[Pooling, ...] = ("mean", "cls", "lasttoken")
_TOLD = 256
"""Texts between two reports of progress; they are of one length, nearly."""


def check_pooling(text: str) -> Pooling:
    """Return a pooling by name; UsageError for an unknown one, with the list."""
    for known in POOLINGS:
        if text == known:
            return known
    raise UsageError(f"unknown pooling {text!r}; choose {', '.join(POOLINGS)}")


class Encoder:
    """A model that turns texts into vectors, loaded when it is first needed.

    ``model`` is a name of `ranklens models list`, a folder or a hub id: of sentence-transformers,
    or of any encoder or decoder that transformers loads. ``pooling`` None is the model's own:
    what its folder says, else the last token of a decoder and the mean of an encoder. Prompts
    are put before every text; None is the model's own too (often none). ``normalize`` makes all
    vectors of length 1, so that inner products are cosines. Texts are cut behind ``max_tokens``,
    at most the model's own limit where None.

    Raises UsageError for an unknown pooling, ``max_tokens`` or ``batch`` below 1, and what
    ``choose_placement`` raises; MissingPrerequisiteError without the extra ``dense``;
    MissingResourceError for an unknown model.
    """

    def __init__(
        self,
        model: str,
        *,
        pooling: Pooling | None = None,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        normalize: bool = True,
        max_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        batch: int = 32,
    ) -> None:
        if pooling is not None:
            check_pooling(pooling)
        if max_tokens is not None and max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, got {max_tokens}")
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        require("dense", "torch", "transformers", "sentence_transformers")
        self.model, self.pooling = model, pooling
        self.query_prompt, self.passage_prompt = query_prompt, passage_prompt
        self.normalize, self.max_tokens, self.batch = normalize, max_tokens, batch
        self.placement: Placement = choose_placement(device, dtype)
        self._loaded: Any = None

    @property
    def dimension(self) -> int:
        """The length of the vectors."""
        return int(self._module().get_embedding_dimension())

    @property
    def limit(self) -> int | None:
        """The tokens that are read of a text, special ones included; None for no limit."""
        limit = self._module().max_seq_length
        return None if limit is None else int(limit)

    def settings(self) -> dict[str, Any]:
        """Return what passages' vectors depend on; the model is pulled where it is not there."""
        from ranklens.data.models import check_whole, pull, resolve
        from ranklens.data.models.resolve import weights_of

        check_whole(self.model)
        path = pull(self.model)
        found = resolve(self.model)
        return {
            # Where a folder lies is the machine's business, not the vectors'.
            "model": path.name if Path(self.model).expanduser().is_dir() else self.model,
            "revision": found.revision,
            "weights": weights_of(found, whole=True),
            "modules": modules_digest(path),
            "pooling": self.pooling,
            "passage_prompt": self.passage_prompt,
            "normalize": self.normalize,
            "max_tokens": self.max_tokens,
            "dtype": self.placement.dtype,
        }

    def versions(self) -> dict[str, str]:
        """Return the versions of what computes the vectors."""
        return {name: version(name) for name in ("sentence-transformers", "torch", "transformers")}

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of queries, float32 of shape [texts, dimension]."""
        return self._encode(texts, self._prompt("query", self.query_prompt), lambda _: None)

    def encode_passages(
        self, texts: Sequence[str], done: Callable[[int], None] = lambda _: None
    ) -> Vectors:
        """Return the vectors of passages, float32 of shape [texts, dimension].

        ``done`` is told, now and then, how many more are done.
        """
        return self._encode(texts, self._prompt("document", self.passage_prompt), done)

    def count_cut(self, texts: Sequence[str]) -> int:
        """Return how many passages have more tokens than are read."""
        return sum(map(bool, self.tokens_cut(texts)))

    def tokens_cut(self, texts: Sequence[str], *, queries: bool = False) -> list[int]:
        """Return, for each passage (or query), how many of its tokens are not read."""
        limit = self.limit
        prompt = (
            self._prompt("query", self.query_prompt)
            if queries
            else self._prompt("document", self.passage_prompt)
        )
        cut = [0] * len(texts)
        # A token has at least one byte, a character perhaps several tokens: short texts need no
        # look.
        long = [
            row for row, text in enumerate(texts) if limit and _bytes(prompt + text) + 2 > limit
        ]
        if limit and long:
            encoded = self._module().tokenizer(
                [without_surrogates(prompt + texts[row]) for row in long],
                truncation=False,
                verbose=False,
            )
            for row, ids in zip(long, encoded["input_ids"], strict=True):
                cut[row] = max(0, len(ids) - limit)
        return cut

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._module().tokenizer

    def _encode(self, texts: Sequence[str], prompt: str, done: Callable[[int], None]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        # A blank text resembles nothing: a vector of zeros. Some tokenizers would make no token
        # of it, and some models NaN of that.
        told = [row for row, text in enumerate(texts) if text.strip()]
        done(len(texts) - len(told))
        # Texts of one length make batches without padding; the longest first, so that what does
        # not fit into memory does not at the start.
        told.sort(key=lambda row: len(texts[row]), reverse=True)
        for start in range(0, len(told), _TOLD):
            rows = told[start : start + _TOLD]
            vectors[rows] = self._module().encode(
                [without_surrogates(texts[row]) for row in rows],
                prompt=prompt,
                batch_size=self.batch,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            done(len(rows))
        if self.normalize:
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors /= np.where(lengths > 0, lengths, 1)
        return vectors

    def _prompt(self, kind: str, chosen: str | None) -> str:
        return chosen if chosen is not None else str(self._module().prompts.get(kind) or "")

    def _module(self) -> Any:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Any:
        import torch

        from ranklens.data.models import check_whole, pull
        from ranklens.data.pages import keep_freed_pages

        if self.placement.device == "cpu":
            keep_freed_pages()
        check_whole(self.model)
        path = pull(self.model)
        with _quiet():
            from sentence_transformers import SentenceTransformer

            try:
                loaded = SentenceTransformer(
                    str(path),
                    device=self.placement.device,
                    local_files_only=True,
                    model_kwargs={"dtype": getattr(torch, self.placement.dtype)},
                )
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                what = str(error).strip().partition("\n")[0]
                raise InvalidInputError(
                    f"{self.model} cannot be loaded as an encoder: {what}"
                ) from error
        if self.pooling is not None:
            loaded = _repooled(loaded, self.pooling, self.placement.device)
        tokenizer = loaded.tokenizer
        if tokenizer.pad_token is None:
            # Masked in any case: which token fills up shorter texts has no part.
            tokenizer.pad_token = tokenizer.eos_token
        _limit(loaded, self.model, self.max_tokens)
        return loaded.eval()


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _repooled(loaded: Any, pooling: Pooling, device: str) -> Any:
    """Return the model's transformer with another pooling; what stood behind its own goes."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

    body = loaded[0]
    pooled = PoolingModule(body.get_embedding_dimension(), pooling)
    return SentenceTransformer(modules=[body, pooled], device=device, prompts=loaded.prompts)


def _limit(loaded: Any, model: str, max_tokens: int | None) -> None:
    positions = readable_positions(loaded[0].config)
    if max_tokens is not None:
        if positions is not None and max_tokens > positions:
            raise UsageError(f"{model} reads at most {positions} tokens, not {max_tokens}")
        loaded.max_seq_length = max_tokens
    elif positions is not None:
        # The tokenizer's limit may be the number of positions that the model has in all.
        limit = loaded.max_seq_length
        loaded.max_seq_length = positions if limit is None else min(limit, positions)


def modules_digest(path: Path) -> str | None:
    """Identify what a folder of sentence-transformers says of pooling, length and prompts."""
    files = [
        *(path / name for name in ("config_sentence_transformers.json", "modules.json")),
        path / "sentence_bert_config.json",
        *sorted(path.glob("[0-9]*_*/config.json")),
    ]
    digest = hashlib.sha256()
    there = [file for file in files if file.is_file()]
    for file in there:
        digest.update(f"{file.relative_to(path).as_posix()}\0".encode() + file.read_bytes())
    return f"sha256:{digest.hexdigest()}" if there else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what libraries say while a model loads: the user is told what matters of it."""
    from ranklens.data.quiet import quiet_transformers

    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_transformers():
            yield
    finally:
        logger.setLevel(level)
