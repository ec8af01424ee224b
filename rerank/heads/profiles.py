"""Profiles out of found heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.heads.learn import Compare
from ranklens.rerank.profile import Origin, PoolingChoice, Profile


def profile_of_heads(
    name: str,
    base: Profile,
    weights: Mapping[str, float],
    origin: Origin,
    *,
    compare: Compare | None = None,
) -> Profile:
    """Return ``base`` reading these heads.

    With ``compare`` the heads are combined document by document, as learned weights are:
    each head's summed attention is compared with its null, no token is left out.
    """
    signal = dataclasses.replace(base.signal, heads=dict(weights), layers=None)
    profile = dataclasses.replace(
        base,
        name=name,
        source=f"{origin.method} on {', '.join(origin.data)}; prompt and rows of {base.name}",
        signal=signal,
        made_with=origin,
        # Other heads have other scores: the base's probabilities are not theirs.
        score_map=None,
    )
    if compare is None:
        return profile
    return dataclasses.replace(
        profile,
        signal=dataclasses.replace(signal, combine="documents"),
        calibration=dataclasses.replace(base.calibration, compare=compare),
        pooling=PoolingChoice(drop_below_stds=None, reduce="sum"),
    )


def origin_of(
    reranker: AttentionReranker, method: str, data: Sequence[str], figures: Mapping[str, float]
) -> Origin:
    """Return what a profile found with this reranker has to record."""
    model = reranker.model
    return Origin(
        model=model.spec if model else reranker.engine.config.name_or_path,
        method=method,
        revision=model.revision if model else None,
        dtype=reranker.engine.placement.dtype,
        prompt_sha256=reranker.profile.prompt_digest(),
        data=tuple(data),
        figures=dict(figures),
    )
