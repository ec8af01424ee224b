"""The profile that training starts from."""

from __future__ import annotations

import dataclasses

from ranklens.rerank.profile import PoolingChoice, Profile
from ranklens.rerank.profile_file import load_profile

_PROMPT = "icr-block"


def starting_profile(base: Profile | None = None, layers: int | None = None) -> Profile:
    """Return the profile to train.

    Without a ``base``: documents in blocks as in ``icr-block``, whose scores are the mean over
    heads of the logarithm of a document's attention; nothing is compared with a content-free
    query. With ``layers`` every head of the first so many layers is read, all alike, instead of
    those of the base.
    """
    if base is None:
        prompt = load_profile(_PROMPT)
        base = dataclasses.replace(
            prompt,
            name=f"{_PROMPT}-log",
            source=f"the mean logarithm of documents' attention; prompt of {_PROMPT}",
            signal=dataclasses.replace(prompt.signal, combine="documents", reduce="mean"),
            calibration=dataclasses.replace(prompt.calibration, nulls=()),
            pooling=PoolingChoice(drop_below_stds=None, reduce="sum", scale="log"),
        )
    if layers is None:
        return base
    signal = dataclasses.replace(
        base.signal, heads=None, layers=(0, layers - 1), combine="documents", reduce="mean"
    )
    return dataclasses.replace(base, signal=signal, made_with=None, score_map=None)
