"""The cross-encoder baseline: a sequence classifier that reads query and document together.

By transformers, not by sentence-transformers: its CrossEncoder cuts whichever of the two texts
is longer, does not say what it cut, and lets texts write the tokenizer's control tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ranklens.data.device import Placement, choose_placement
from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.extras import require
from ranklens.data.models.loading import lacking, readable_positions
from ranklens.data.models.naming import name_of
from ranklens.data.pieces import PieceTokenizer
from ranklens.data.records import Document, Query
from ranklens.data.token_budget import MIN_DOCUMENT_TOKENS
from ranklens.rerank.base import Ranking, Reranker, Shortened, check_scores, checked_request
from ranklens.rerank.shortening import shorten

if TYPE_CHECKING:
    import torch

# Tokenizers without a limit say a number of thirty digits.
_NO_LIMIT = 10**9


class CrossEncoderReranker(Reranker):
    """Ranks documents by a classifier's logit for (query, document).

    With one label the score is its logit; with two, the logit of the second, relevant, less that
    of the first. More are refused. A document is its title, a blank and its text; only documents
    are cut, at the end, to fit ``max_tokens`` (None: the model's limit). Documents of similar
    length go through the model together, at most ``batch`` of them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        placement: Placement,
        name: str,
        *,
        revision: str | None = None,
        max_tokens: int | None = None,
        batch: int = 32,
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        labels = model.config.num_labels
        if labels not in (1, 2):
            raise InvalidInputError(
                f"{name} has {labels} labels; a cross-encoder has one (a relevance) or two (not "
                "relevant, relevant)"
            )
        self.model = model.eval()
        self.name = f"cross-encoder:{name}"
        self.placement = placement
        self.revision = revision
        self.batch = batch
        self._pieces = PieceTokenizer(tokenizer)
        self._frame = _PairFrame(tokenizer)
        self._pad: int | None = model.config.get_text_config().pad_token_id
        limit = _limit(model.config, tokenizer)
        if max_tokens is not None and not 1 <= max_tokens <= limit:
            raise UsageError(f"max_tokens must be 1 to {limit} for {name}, got {max_tokens}")
        self.limit = max_tokens or limit
        self._turn = threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        *,
        max_tokens: int | None = None,
        batch: int = 32,
        device: str | None = None,
        dtype: str | None = None,
    ) -> CrossEncoderReranker:
        """Load a model by registry name, hub id or local folder; pulled where it is not here.

        Raises MissingPrerequisiteError without the extra ``llm``, MissingResourceError for an
        unknown model, InvalidInputError for one that is no classifier of one or two labels, and
        UsageError for settings out of range.
        """
        require("llm", "torch", "transformers", "safetensors")
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from ranklens.data.models import check_whole, pull, resolve
        from ranklens.data.quiet import quiet_transformers

        check_whole(model)
        placement = choose_placement(device, dtype)
        path = pull(model)
        auto: Any = AutoModelForSequenceClassification
        with quiet_transformers():
            try:
                tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
                loaded, loading = auto.from_pretrained(
                    path,
                    local_files_only=True,
                    dtype=getattr(torch, placement.dtype),
                    output_loading_info=True,
                )
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise InvalidInputError(
                    f"cannot load {model} as a cross-encoder: {reason}"
                ) from error
        if absent := lacking(loading):
            raise InvalidInputError(
                f"{model} lacks {len(absent)} weights of a sequence classifier (first: "
                f"{absent[0]}); it is no cross-encoder, or the folder is incomplete"
            )
        return cls(
            loaded.to(placement.device),
            tokenizer,
            placement,
            name_of(model),
            revision=resolve(model).revision,
            max_tokens=max_tokens,
            batch=batch,
        )

    def rank(self, query: str | Query, documents: Sequence[str | Document]) -> Ranking:
        """Return every document once, best first; see ``Reranker.rank``.

        Raises InvalidInputError for a query that leaves documents less than 16 tokens, and
        NumericalError for NaN or Inf.
        """
        text, records = checked_request(query, documents)
        asked = self._pieces.text(text, first=True)
        room = self.limit - len(asked) - self._frame.length
        texts = [self._pieces.text(record.full_text, first=True) for record in records]
        if room < min(MIN_DOCUMENT_TOKENS, max(map(len, texts))):
            raise InvalidInputError(
                f"the query of {len(asked)} tokens leaves documents {max(0, room)} of the "
                f"{self.limit} tokens that {self.name} reads; shorten it"
            )
        read = [tuple(ids[:room]) for ids in texts]
        # Equal ones once: in batches of other lengths their scores would differ by rounding.
        distinct = list(dict.fromkeys(read))
        with self._turn:
            found = self._scores([self._frame.row(asked, list(ids)) for ids in distinct])
        by_text = dict(zip(distinct, found, strict=True))
        scores = [by_text[ids] for ids in read]
        check_scores(self, records, scores)
        return Ranking.from_scores(records, scores, [max(0, len(ids) - room) for ids in texts])

    def shortened(self, text: str, most: int | None = None) -> Shortened:
        """Return the text's first ``most`` tokens; see ``Reranker.shortened``."""
        return shorten(text, most, self._pieces.text_with_offsets)

    def _scores(self, rows: Sequence[_Row]) -> list[float]:
        import torch

        scores = [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda place: (-len(rows[place].ids), place))
        # Without a token to fill up with, decoders cannot tell where a shorter row ends.
        size = 1 if self._pad is None else self.batch
        for start in range(0, len(order), size):
            places = order[start : start + size]
            with torch.inference_mode():
                logits = self.model(**self._inputs([rows[place] for place in places])).logits
            found = logits.double()
            found = found[:, 0] if found.shape[1] == 1 else found[:, 1] - found[:, 0]
            for place, score in zip(places, found.tolist(), strict=True):
                scores[place] = score
        return scores

    def _inputs(self, rows: Sequence[_Row]) -> dict[str, torch.Tensor]:
        import torch

        longest = max(len(row.ids) for row in rows)

        def filled(values: list[int], filler: int) -> list[int]:
            return values + [filler] * (longest - len(values))

        inputs = {
            "input_ids": [filled(row.ids, self._pad or 0) for row in rows],
            "attention_mask": [filled([1] * len(row.ids), 0) for row in rows],
        }
        if self._frame.typed:
            inputs["token_type_ids"] = [filled(row.types, 0) for row in rows]
        return {
            name: torch.tensor(value, device=self.model.device) for name, value in inputs.items()
        }


class _Row:
    """A pair as the model reads it: token ids and which of the two texts each is of."""

    def __init__(self, ids: list[int], types: list[int]) -> None:
        self.ids, self.types = ids, types


class _PairFrame:
    """The control tokens that a tokenizer puts before, between and behind a pair of texts."""

    def __init__(self, tokenizer: Any) -> None:
        example = tokenizer("a", "a")
        ids, of = example["input_ids"], example.sequence_ids()
        types = example.get("token_type_ids") or [0] * len(ids)
        self.typed = "token_type_ids" in example
        first, second = of.index(0), of.index(1)
        ends = (second - of[:second][::-1].index(0), len(of) - of[::-1].index(1))
        self._before = _Row(ids[:first], types[:first])
        self._between = _Row(ids[ends[0] : second], types[ends[0] : second])
        self._behind = _Row(ids[ends[1] :], types[ends[1] :])
        self._types = types[first], types[second]

    @property
    def length(self) -> int:
        """How many they are."""
        return sum(len(part.ids) for part in (self._before, self._between, self._behind))

    def row(self, query: list[int], document: list[int]) -> _Row:
        """Return the pair of two texts' ids."""
        of_query, of_document = self._types
        return _Row(
            [*self._before.ids, *query, *self._between.ids, *document, *self._behind.ids],
            [
                *self._before.types,
                *[of_query] * len(query),
                *self._between.types,
                *[of_document] * len(document),
                *self._behind.types,
            ],
        )


def _limit(config: Any, tokenizer: Any) -> int:
    """Return the longest pair in tokens, control tokens included."""
    positions = readable_positions(config) or _NO_LIMIT
    return int(min(positions, tokenizer.model_max_length, _NO_LIMIT))
