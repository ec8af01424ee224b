"""Learning a weight per head, by list-wise regression.

The score of a document is Σ_h w_h x_h(d), x being each head's calibrated mass (query minus
null) or its log-ratio (log query over null). Weights minimise the mean cross-entropy between
softmax over a list's scores and its gains 2^grade − 1, plus l2 · |w|² on features scaled to unit
spread. What to compare by, the penalty and the last layer are chosen by cross-validation over
queries; of the layers the earliest that is not worse than the best by more than one standard
error of their paired difference, because every layer less is time saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.heads.listwise import ndcg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ranklens.rerank.heads.features import HeadFeatures, Matrix

Compare = Literal["difference", "log-ratio"]
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Setting:
    """One choice of the search: what is compared, the last layer, the penalty."""

    compare: Compare
    last_layer: int
    l2: float


@dataclass(frozen=True, slots=True)
class Learned:
    """Weights by "layer-head", how they were chosen, and the held-out nDCG@10 of each list.

    ``held_out`` [lists] comes from the folds: no list was scored by weights that saw it; the
    setting, though, was chosen by the same figures, which makes them a little too good.
    ``tried`` is the mean held-out nDCG@10 of every setting.
    """

    weights: dict[str, float]
    setting: Setting
    held_out: NDArray[np.float64]
    tried: dict[Setting, float]


def learn_heads(
    lists: Sequence[HeadFeatures],
    *,
    last_layers: Sequence[int] | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Learned:
    """Fit weights on judged lists.

    ``last_layers`` are the exits to choose from (default: see ``exits``). ``advance`` is told
    of every finished setting. Raises InvalidInputError for too few queries.
    """
    check_queries(len({_query(x) for x in lists}))
    folds = _folds(lists, seed)
    held_out = {}
    for compare in ("difference", "log-ratio"):
        for last in last_layers or exits(lists[0].heads):
            data = _features(lists, compare, last)
            for l2 in PENALTIES:
                setting = Setting(compare, last, l2)
                held_out[setting] = _cross_validate(data, lists, folds, l2)
                advance(1)
    tried = {setting: float(found.mean()) for setting, found in held_out.items()}
    best = max(tried, key=lambda setting: tried[setting])
    chosen = min(
        (s for s in tried if _as_good(held_out[s], held_out[best])),
        key=lambda s: (s.last_layer, -tried[s]),
    )
    weights = _fit(_features(lists, chosen.compare, chosen.last_layer), lists, chosen.l2)
    inside = lists[0].heads[:, 0] <= chosen.last_layer
    names = [f"{layer}-{head}" for layer, head in lists[0].heads[inside]]
    return Learned(
        {name: float(f"{weight:.6g}") for name, weight in zip(names, weights, strict=True)},
        chosen,
        held_out[chosen],
        tried,
    )


def check_queries(number: int) -> None:
    """Raise InvalidInputError for too few queries to learn from and to check on."""
    if number < 2 * FOLDS:
        raise InvalidInputError(
            f"judged lists of {number} queries are too few to learn from and to check on: at "
            f"least {2 * FOLDS} are needed"
        )


def settings_tried(heads: NDArray[np.int64]) -> int:
    """Return how many settings the default search has over heads [heads, (layer, head)]."""
    return 2 * len(PENALTIES) * len(exits(heads))


def exits(heads: NDArray[np.int64]) -> list[int]:
    """Return the layers tried as the last one: of those with heads, every third from a third on."""
    layers = sorted({int(layer) for layer in heads[:, 0]})
    return sorted({*layers[(len(layers) - 1) // 3 :: 3], layers[-1]})


def _folds(lists: Sequence[HeadFeatures], seed: int) -> NDArray[np.int64]:
    """Return the fold of each list; lists of one query share a fold."""
    queries = {query: n for n, query in enumerate(dict.fromkeys(map(_query, lists)))}
    of_query = np.random.default_rng(seed).permutation(len(queries)) % FOLDS
    return np.array([of_query[queries[_query(x)]] for x in lists])


def _query(features: HeadFeatures) -> tuple[str, str]:
    return features.collection, features.query


def _as_good(found: Matrix, best: Matrix) -> bool:
    difference = best - found
    error = difference.std(ddof=1) / len(difference) ** 0.5
    return bool(difference.mean() <= error)


def _features(lists: Sequence[HeadFeatures], compare: Compare, last: int) -> list[Matrix]:
    """Return [documents, heads up to a layer] for each list."""
    inside = lists[0].heads[:, 0] <= last
    return [(x.log_ratio() if compare == "log-ratio" else x.mass - x.null)[inside].T for x in lists]


def _cross_validate(
    data: Sequence[Matrix], lists: Sequence[HeadFeatures], folds: NDArray[np.int64], l2: float
) -> NDArray[np.float64]:
    found = np.empty(len(lists))
    for fold in range(FOLDS):
        train = np.flatnonzero(folds != fold).tolist()
        weights = _fit([data[i] for i in train], [lists[i] for i in train], l2)
        for i in np.flatnonzero(folds == fold).tolist():
            found[i] = ndcg((data[i] @ weights)[None], lists[i].grades)[0]
    return found


def _fit(data: Sequence[Matrix], lists: Sequence[HeadFeatures], l2: float) -> NDArray[np.float64]:
    """Return the weights [heads] that minimise the penalised loss."""
    import torch

    # Documents of a list compete, so what all of them have in common says nothing.
    centred = [x - x.mean(0) for x in data]
    spread = np.sqrt(np.mean([(x**2).mean(0) for x in centred], axis=0)).clip(1e-12)
    longest = max(map(len, centred))
    x = torch.zeros(len(centred), longest, len(spread), dtype=torch.float64)
    target = torch.zeros(len(centred), longest, dtype=torch.float64)
    absent = torch.ones(len(centred), longest, dtype=torch.bool)
    for i, (features, judged) in enumerate(zip(centred, lists, strict=True)):
        gains = 2.0**judged.grades - 1
        x[i, : len(features)] = torch.from_numpy(features / spread)
        target[i, : len(features)] = torch.from_numpy(gains / gains.sum())
        absent[i, : len(features)] = False
    weights = torch.zeros(len(spread), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=100, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = (x @ weights).masked_fill(absent, -torch.inf)
        logs = torch.log_softmax(logits, 1).masked_fill(absent, 0.0)
        value = -(target * logs).sum(1).mean() + l2 * (weights**2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    fitted: NDArray[np.float64] = weights.detach().numpy() / spread
    return fitted
