"""Profiles for documents that are read as passages (``ranklens.data.parts``)."""

from __future__ import annotations

import dataclasses

from ranklens.rerank.profile import Profile


def unlimited(profile: Profile) -> Profile:
    """Return a profile without limits of its own: passages are as long as they were made.

    What a profile limits in whole blocks stays limited, and what that cuts is counted.
    """
    prompt = dataclasses.replace(profile.prompt, document_words=None, document_tokens=None)
    return dataclasses.replace(profile, prompt=prompt)
