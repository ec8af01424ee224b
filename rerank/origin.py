"""Whether a profile's heads were found for the model and prompt it is used with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ranklens.rerank.profile import Profile

if TYPE_CHECKING:
    from ranklens.data.models import ResolvedModel


def doubts(profile: Profile, model: ResolvedModel | None) -> list[str]:
    """Return what speaks against using a profile with a model, one sentence each.

    Heads are a property of the weights and move with the prompt, and some weights were trained
    to be read in one way. A profile that does not say what it was made with raises no doubt.
    """
    made = profile.made_with
    if made is None:
        return []
    found = []
    if model is not None and _name(made.model) != _name(model.spec):
        why = "its heads mean nothing in other weights; see `ranklens heads detect`"
        if profile.signal.heads is None:
            why = "other weights were not trained to be read so"
        found.append(
            f"profile {profile.name!r} was made with {made.model}, not with {model.spec}: {why}"
        )
    elif (
        model is not None
        and made.revision not in (None, model.revision)
        # A folder's identity is a digest of its files, a hub model's its commit.
        and not Path(model.spec).is_dir()
    ):
        found.append(
            f"profile {profile.name!r} was made with revision {made.revision} of {made.model}; "
            f"this is {model.revision}"
        )
    if made.prompt_sha256 and made.prompt_sha256 != profile.prompt_digest():
        found.append(
            f"profile {profile.name!r} has another prompt than the one its heads were found with"
        )
    return found


def _name(model: str) -> str:
    """Return what a hub id, a folder and a short name of one model have in common."""
    return Path(model).name.lower()
