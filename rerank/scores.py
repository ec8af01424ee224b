"""From token signals to document scores: calibration and pooling. All in float64.

With a(j) the attention of a query to token j and b(j) that of the content-free ones,

    b = λ · mean over nulls with instruction + (1 − λ) · mean over nulls without
    difference     score(d) = pool_{j in d} (a(j) − b(j))
    log-ratio      score(d) = log pool_{j in d} a(j) − log pool_{j in d} b(j)
    scale log      score(d) = log pool_{j in d} a(j), without content-free queries

ICR (arXiv 2410.02642) is the difference with λ = 1; λ as in arXiv 2609.17764. Where a profile
combines heads by documents, the formulas hold for each head and scores are summed by weight.
Weights of logarithms may add up to anything, so one without any attention to take a logarithm of
would come first or last by chance: it shares the lowest score of the list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ranklens.data.errors import NumericalError
from ranklens.rerank.engine import TokenSignal
from ranklens.rerank.profile import CalibrationChoice, PoolingChoice, Profile
from ranklens.rerank.prompt import PromptLayout

if TYPE_CHECKING:
    import torch

_TINY = 1e-30
# What only a document without any attention lies below.
_LEAST = math.log(2 * _TINY)


def document_scores(
    signal: TokenSignal, layout: PromptLayout, profile: Profile
) -> list[list[float]]:
    """Return for each real query of the layout one score per document, in the input's order.

    Raises NumericalError for scores that are not finite.
    """
    import torch

    if profile.signal.combine == "documents":
        by_head = signal.mass.double()
        weights = [signal.plan.weights[layer][head] for layer, head in signal.plan.heads]
    else:
        by_head, weights = signal.total()[None], [1.0]
    scores = []
    for query in range(layout.queries):
        values = per_head_scores(by_head, layout, profile, query)
        total = torch.tensor(weights, dtype=torch.float64) @ values
        if profile.pooling.scale == "log":
            total = nothing_last(total, values)
        if profile.calibration.temperature is not None:
            total = torch.softmax(total / profile.calibration.temperature, dim=0)
        if not bool(total.isfinite().all()):
            raise NumericalError(
                f"profile {profile.name!r} turns finite attention into scores that are NaN or Inf; "
                "its weights, temperature or exponents are out of any range"
            )
        scores.append([float(value) for value in total])
    return scores


def nothing_last(total: torch.Tensor, logs: torch.Tensor) -> torch.Tensor:
    """Return scores [..., documents] in which documents without any attention are the lowest.

    ``logs`` [heads, ..., documents] are the heads' logarithms. Such a document has the lowest
    score of the others; nothing moves it, so no gradient goes that way.
    """
    import torch

    nothing = (logs < _LEAST).all(0)
    lowest = total.detach().masked_fill(nothing, torch.inf).amin(-1, keepdim=True)
    return torch.where(nothing & lowest.isfinite(), lowest, total)


def per_head_scores(
    mass: torch.Tensor, layout: PromptLayout, profile: Profile, query: int = 0
) -> torch.Tensor:
    """Return calibrated and pooled scores [heads, documents] from masses [heads, tails, shared]."""
    import torch

    own = mass[:, query]
    null = baseline(mass, layout, profile.calibration)
    idf = idf_weights(layout) if profile.pooling.idf else None

    def pooled(tokens: torch.Tensor) -> torch.Tensor:
        if idf is not None:
            tokens = tokens * idf
        return pool(tokens, layout.spans, profile.pooling)

    if null is None:
        found = pooled(own)
        return torch.log(found.clamp_min(_TINY)) if profile.pooling.scale == "log" else found
    if profile.calibration.compare == "difference":
        return pooled(own - null)
    # An empty document has no mass with either query: a ratio of one.
    return torch.log(pooled(own).clamp_min(_TINY)) - torch.log(pooled(null).clamp_min(_TINY))


def baseline(
    mass: torch.Tensor, layout: PromptLayout, choice: CalibrationChoice
) -> torch.Tensor | None:
    """Return what the content-free queries pay, [heads, shared]; None without calibration."""
    nulls, share = len(choice.nulls), choice.instruction_share
    if not nulls:
        return None
    rest = mass[:, layout.queries :]
    if share in (0.0, 1.0):
        return rest.mean(1)
    return share * rest[:, :nulls].mean(1) + (1 - share) * rest[:, nulls:].mean(1)


def pool(
    tokens: torch.Tensor, spans: Sequence[tuple[int, int]], choice: PoolingChoice
) -> torch.Tensor:
    """Return document scores [heads, documents] from token values [heads, shared].

    ICR keeps a token when it is strictly above mean − 2 · std of its document (unbiased std),
    so only abnormally low ones go. As in the reference a document whose tokens are all alike,
    or that has one token, keeps none and scores 0. The entropy term multiplies a score by
    (H / log n)^entropy, H being the entropy of the kept tokens' shares of absolute value: a
    score spread over its n tokens stays, one that a single token carries goes towards 0.
    """
    import torch

    return torch.stack([_document(tokens[:, first:end], choice) for first, end in spans], dim=1)


def _document(tokens: torch.Tensor, choice: PoolingChoice) -> torch.Tensor:
    """Return the score of one document for each head, from [heads, tokens]."""
    import torch

    keep = kept_tokens(tokens, choice)
    kept = torch.where(keep, tokens, 0.0)
    count = keep.sum(1).clamp_min(1)
    if choice.reduce == "top-k-mean":
        assert choice.top_k is not None
        highest = torch.where(keep, tokens, -torch.inf).sort(1, descending=True).values
        highest = highest[:, : choice.top_k]
        score = torch.where(highest.isfinite(), highest, 0.0).sum(1)
        score = score / count.clamp_max(choice.top_k)
    else:
        exponent = 1.0 if choice.reduce == "mean" else choice.length_exponent
        score = kept.sum(1) / count.double() ** exponent
    if choice.entropy:
        score = score * evenness(kept.abs(), count) ** choice.entropy
    return score


def kept_tokens(tokens: torch.Tensor, choice: PoolingChoice) -> torch.Tensor:
    """Return which tokens of one document a profile's filter keeps, [heads, tokens]."""
    import torch

    if choice.drop_below_stds is None:
        return torch.ones_like(tokens, dtype=torch.bool)
    # The std of one token is undefined; its comparison would be False through NaN.
    if tokens.shape[1] < 2:
        return torch.zeros_like(tokens, dtype=torch.bool)
    spread = tokens.std(1, keepdim=True)
    keep = tokens > tokens.mean(1, keepdim=True) - choice.drop_below_stds * spread
    # The mean of equal values can be rounded to below them, which would keep them all.
    return keep & (tokens.amin(1, keepdim=True) < tokens.amax(1, keepdim=True))


def evenness(values: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each row's shares over the largest it could be; 1 for one token."""
    import torch

    shares = values / values.sum(1, keepdim=True).clamp_min(_TINY)
    entropy = -torch.special.xlogy(shares, shares).sum(1)
    return torch.where(count > 1, entropy / torch.log(count.double().clamp_min(2)), 1.0)


def idf_weights(layout: PromptLayout) -> torch.Tensor:
    """Return a weight per shared token by how few of the N documents hold it.

    log((N + 1) / df) / log(N + 1): 1 for a token of a single document, least for one of all.
    """
    import torch

    documents = [set(layout.shared[first:end]) for first, end in layout.spans]
    frequency: dict[int, int] = {}
    for document in documents:
        for token in document:
            frequency[token] = frequency.get(token, 0) + 1
    number = len(documents) + 1
    return torch.tensor(
        [
            math.log(number / frequency[token]) / math.log(number) if token in frequency else 1.0
            for token in layout.shared
        ],
        dtype=torch.float64,
    )
