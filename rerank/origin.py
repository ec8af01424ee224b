"""Whether a profile's heads were found for the model and prompt it is used with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ranklens.data.models import ResolvedModel, resolve
from ranklens.rerank.profile import Origin, Profile


def doubts(profile: Profile, model: ResolvedModel | None) -> list[str]:
    """Return what speaks against using a profile with a model, one sentence each.

    Heads are a property of the weights and move with the prompt, and some weights were trained
    to be read in one way. A profile that does not say what it was made with raises no doubt. A
    trained model's revision says it all: whatever its folder is called, it is the same one.
    """
    made = profile.made_with
    if made is None:
        return []
    found = [] if model is None else _of_model(profile, made, model)
    if made.prompt_sha256 and made.prompt_sha256 != profile.prompt_digest():
        found.append(
            f"profile {profile.name!r} has another prompt than the one its heads were found with"
        )
    return found


def trained_into(
    folder: Path,
    profile: Profile,
    *,
    name: str,
    method: str,
    dtype: str,
    data: Sequence[str] = (),
    figures: Mapping[str, float] | None = None,
) -> Profile:
    """Return the profile as that of the trained model in a folder, whose weights are there.

    ``name`` is what the model is to be called. With another model the profile raises doubts.
    """
    origin = Origin(
        model=name,
        method=method,
        revision=resolve(str(folder.absolute())).revision,
        dtype=dtype,
        prompt_sha256=profile.prompt_digest(),
        data=tuple(data),
        figures=None if figures is None else dict(figures),
    )
    return dataclasses.replace(profile, name=name, made_with=origin)


def _of_model(profile: Profile, made: Origin, model: ResolvedModel) -> list[str]:
    if model.adapter is not None and made.revision == model.revision:
        return []
    if _name(made.model) != _name(model.spec):
        why = "its heads mean nothing in other weights; see `ranklens heads detect`"
        if profile.signal.heads is None:
            why = "other weights were not trained to be read so"
        return [
            f"profile {profile.name!r} was made with {made.model}, not with {model.spec}: {why}"
        ]
    # A whole model's folder has a digest of its files for an identity, a hub model its commit.
    whole_folder = model.adapter is None and Path(model.spec).is_dir()
    if whole_folder or made.revision in (None, model.revision):
        return []
    return [
        f"profile {profile.name!r} was made with revision {made.revision} of {made.model}; "
        f"this is {model.revision}"
    ]


def _name(model: str) -> str:
    """Return what a hub id, a folder and a short name of one model have in common."""
    return Path(model).name.lower()
