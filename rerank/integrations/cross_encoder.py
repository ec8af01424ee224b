"""A reranker behind the methods of sentence-transformers' ``CrossEncoder``.

Whatever calls ``rank`` or ``predict`` of a CrossEncoder (6.2's signatures) can be given one of
these. It does not import sentence-transformers.

A CrossEncoder scores pairs one by one; most rerankers here read a list. ``predict`` therefore
puts pairs of equal query texts together, wherever they stand, and ranks each list whole. Two
questions with the same words are one list to it: scores compare within a query's list only.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ranklens.data.errors import InvalidInputError, UsageError
from ranklens.data.extras import require
from ranklens.data.files import shown
from ranklens.rerank.base import Reranker
from ranklens.rerank.integrations.ranked import DEFAULT, loaded, ranked

if TYPE_CHECKING:
    import numpy as np
    import torch

    Pairs = Sequence[Sequence[str]] | Sequence[str] | np.ndarray[Any, Any]
    Predictions = list[torch.Tensor] | torch.Tensor | np.ndarray[Any, Any] | np.float32


class EvaluationMetrics:
    """What sentence-transformers' evaluators report to a model: the last metrics of each.

    ``metrics`` maps an evaluator's name to its figures by name.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, Any]] = {}

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: dict[str, Any], epoch: int = 0, step: int = 0
    ) -> None:
        """Keep an evaluator's metrics; called by the evaluator."""
        self.metrics[getattr(evaluator, "name", "") or type(evaluator).__name__] = dict(metrics)


class RanklensCrossEncoder:
    """Ranks and scores as a ``CrossEncoder`` does, by a reranker of ranklens.

    ``reranker`` is a spec or a ``ranklens.Reranker``; ``settings`` (``profile``, ``device``, ...)
    go with a spec, whose model is loaded here, once. Documents are taken to come best first from
    the stage before. Where their order says more than that (sentence-transformers' evaluators
    put the relevant ones first), ``shuffle`` is a seed: every list is put into an order drawn by
    it before it is read, the same one for every list of as many documents.

    ``activation_fn`` is applied to scores as to a CrossEncoder's; None leaves them as they are,
    the reranker's own. ``batch_size`` has no part in results: lists are never split. Options
    that mean nothing here (``prompt``, ``prompt_name``, ``device``, ``pool``, ``chunk_size``,
    ``apply_softmax``) raise UsageError when they are set.
    """

    num_labels = 1

    def __init__(
        self, reranker: str | Reranker = DEFAULT, *, shuffle: int | None = None, **settings: Any
    ) -> None:
        self.reranker = loaded(reranker, **settings)
        self.shuffle = shuffle
        self.model_card_data = EvaluationMetrics()

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        device: str | list[str] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return ``{"corpus_id": int, "score": float}`` of each document, best first.

        ``corpus_id`` is the document's position; ``return_documents`` adds ``"text"``. All
        documents are ranked, then the best ``top_k`` are returned. Raises InvalidInputError for
        an empty query, a document that is no str and ``top_k`` below 1.
        """
        if top_k is not None and top_k < 1:
            raise InvalidInputError(f"top_k must be at least 1, or None for all: {top_k}")
        self._refuse(batch_size, prompt_name=prompt_name, prompt=prompt, device=device, pool=pool,
                     chunk_size=chunk_size)  # fmt: skip
        if isinstance(documents, str):
            raise InvalidInputError("documents must be a list of texts, got one str")
        texts = [_checked(text, f"document {i}") for i, text in enumerate(documents)]
        question = _checked(query, "the query")
        scores = self._scores(question, texts)
        if activation_fn is not None and scores:
            scores = [float(score) for score in _tensor(scores, activation_fn)]
        order = sorted(range(len(texts)), key=lambda index: -scores[index])[:top_k]
        found: list[dict[str, Any]] = [{"corpus_id": i, "score": scores[i]} for i in order]
        if return_documents:
            for entry in found:
                entry["text"] = texts[entry["corpus_id"]]
        return found

    def predict(
        self,
        inputs: Pairs,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Callable[[torch.Tensor], torch.Tensor] | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str] | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> Predictions:
        """Return a score for each (query, document), in the order of ``inputs``.

        Pairs with the same query text, next to each other or not, are one list, its documents
        in the order in which they come; the same pair given twice is two documents. float32: a
        numpy array [pairs], a tensor [pairs] on the CPU (``convert_to_tensor``), or a list of
        tensors (neither); of a single pair instead of a list, the one value. Raises
        InvalidInputError that names the pair which is not two texts.
        """
        self._refuse(batch_size, prompt_name=prompt_name, prompt=prompt, device=device, pool=pool,
                     chunk_size=chunk_size, apply_softmax=apply_softmax or None)  # fmt: skip
        pairs, single = _pairs(inputs)
        lists: dict[str, list[int]] = {}
        for place, (query, _) in enumerate(pairs):
            lists.setdefault(query, []).append(place)
        scores = [0.0] * len(pairs)
        for query, places in _watched(lists.items(), len(lists), show_progress_bar):
            found = self._scores(query, [pairs[place][1] for place in places])
            for place, score in zip(places, found, strict=True):
                scores[place] = score
        return _converted(scores, activation_fn, single, convert_to_numpy, convert_to_tensor)

    def _scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the score of each text, in their order."""
        order = list(range(len(texts)))
        if self.shuffle is not None:
            random.Random(self.shuffle).shuffle(order)
        scores = [0.0] * len(texts)
        for document in ranked(self.reranker, query, [texts[index] for index in order]):
            scores[order[document.index]] = document.score
        return scores

    def _refuse(self, batch_size: int, **options: object) -> None:
        """Raise UsageError for an option that is set and cannot be honoured."""
        if batch_size < 1:
            raise InvalidInputError(f"batch_size must be at least 1: {batch_size}")
        for name, value in options.items():
            if value is not None:
                raise UsageError(
                    f"{name}={shown(value)} has no meaning for {self.reranker.name}: "
                    f"{_REASONS[name]}"
                )


_REASONS = {
    "prompt": "its prompt is part of the reranker; choose one by profile=... when it is made",
    "prompt_name": "its prompt is part of the reranker; choose one by profile=... when it is made",
    "device": "its model is loaded already; give device=... when it is made",
    "pool": "its lists are read one after another in this process",
    "chunk_size": "its lists are never split",
    "apply_softmax": "it has one score a document, and a softmax over one label is 1",
}


def _pairs(inputs: Any) -> tuple[list[tuple[str, str]], bool]:
    """Return pairs of texts, and whether a single one was given instead of a list."""
    given = inputs.tolist() if hasattr(inputs, "tolist") else inputs
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidInputError(f"inputs must be pairs of query and document, got {shown(given)}")
    rows = list(given)
    single = bool(rows) and isinstance(rows[0], str)
    pairs = []
    for place, row in enumerate([rows] if single else rows):
        if not isinstance(row, list | tuple) or len(row) != 2:
            raise InvalidInputError(f"pair {place} must be (query, document), got {shown(row)}")
        query, document = row
        pairs.append(
            (
                _checked(query, f"the query of pair {place}"),
                _checked(document, f"pair {place}'s document"),
            )
        )
    return pairs, single


def _checked(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise InvalidInputError(f"{what} must be a str, got {type(text).__name__}")
    return text


def _watched(lists: Iterable[Any], total: int, show: bool | None) -> Iterable[Any]:
    """Return the lists, with a progress bar where one is asked for."""
    if not show:
        return lists
    require("llm", "tqdm")
    from tqdm.auto import tqdm

    watched: Iterable[Any] = tqdm(lists, total=total, desc="Lists")
    return watched


def _tensor(
    scores: Sequence[float], activation_fn: Callable[[torch.Tensor], torch.Tensor] | None
) -> torch.Tensor:
    """Return scores [n] as float32 on the CPU, through an activation where there is one."""
    require("llm", "torch")
    import torch

    tensor = torch.tensor(scores, dtype=torch.float32)
    if activation_fn is None:
        return tensor
    # As a CrossEncoder's logits: a row a pair, a column a label.
    found = activation_fn(tensor[:, None])
    if found.shape not in ((len(scores), 1), (len(scores),)):
        raise InvalidInputError(
            f"activation_fn turned scores [{len(scores)}, 1] into {list(found.shape)}; it must "
            "keep one value a pair"
        )
    return found.reshape(-1)


def _converted(
    scores: Sequence[float],
    activation_fn: Callable[[torch.Tensor], torch.Tensor] | None,
    single: bool,
    convert_to_numpy: bool,
    convert_to_tensor: bool,
) -> Predictions:
    import numpy as np

    if convert_to_tensor or not convert_to_numpy:
        tensor = _tensor(scores, activation_fn if scores else None)
        if single:
            return tensor[0]
        return tensor if convert_to_tensor else list(tensor)
    if activation_fn is not None and scores:
        array = _tensor(scores, activation_fn).detach().numpy()
    else:
        array = np.array(scores, dtype=np.float32)
    return np.float32(array[0]) if single else array
