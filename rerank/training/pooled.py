"""Scores of all queries of a layout at once, from what each head pays.

Where a profile's pooling is linear a document's score is a sum over its tokens, each counted alike
or by its idf, so that all documents of all queries are one matrix product. The formulas are those
of ``scores``, in the dtype of the masses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ranklens.rerank.scores import baseline, idf_weights, per_head_scores

if TYPE_CHECKING:
    import torch

    from ranklens.rerank.profile import PoolingChoice, Profile
    from ranklens.rerank.prompt import PromptLayout

_TINY = 1e-30


def scores_by_head(mass: torch.Tensor, layout: PromptLayout, profile: Profile) -> torch.Tensor:
    """Return scores [heads, queries, documents] from masses [heads, tails, shared].

    Equal, to rounding, to ``per_head_scores`` of each query.
    """
    import torch

    if not is_linear(profile.pooling):
        each = [per_head_scores(mass, layout, profile, n) for n in range(layout.queries)]
        return torch.stack(each, dim=1).to(mass.dtype)
    sums = _sums(layout, profile.pooling, mass)
    own = mass[:, : layout.queries]
    null = baseline(mass, layout, profile.calibration)
    if null is None:
        found = own @ sums
        return torch.log(found.clamp_min(_TINY)) if profile.pooling.scale == "log" else found
    if profile.calibration.compare == "difference":
        return (own - null[:, None]) @ sums
    compared = torch.log((null[:, None] @ sums).clamp_min(_TINY))
    return torch.log((own @ sums).clamp_min(_TINY)) - compared


def is_linear(pooling: PoolingChoice) -> bool:
    """Say whether a document's score is a sum of its tokens, whatever these are."""
    return pooling.drop_below_stds is None and pooling.top_k is None and not pooling.entropy


def _sums(layout: PromptLayout, pooling: PoolingChoice, like: torch.Tensor) -> torch.Tensor:
    """Return what each shared token counts in each document, [shared, documents]."""
    found = like.new_zeros(len(layout.shared), len(layout.spans))
    exponent = 1.0 if pooling.reduce == "mean" else pooling.length_exponent
    for number, (start, end) in enumerate(layout.spans):
        found[start:end, number] = 1 / max(1, end - start) ** exponent
    return found * idf_weights(layout).to(found)[:, None] if pooling.idf else found
