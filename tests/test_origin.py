"""Profiles used with something else than they were made with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.models import ResolvedModel
from ranklens.rerank.origin import doubts
from ranklens.rerank.profile import Origin, Profile
from ranklens.rerank.profile_file import default_profile, load_profile, shipped_profiles

ICR, BLOCKRANK = load_profile("icr"), load_profile("blockrank")


def made(**origin: Any) -> Profile:
    return dataclasses.replace(ICR, made_with=Origin(model="org/Model-1B", method="x", **origin))


def model(spec: str, revision: str = "r1") -> ResolvedModel:
    return ResolvedModel(spec, Path("folder"), revision)


def test_the_model_it_was_made_with_is_no_doubt_by_any_of_its_names() -> None:
    for spec in ("org/Model-1B", "model-1b", "models/Model-1B"):
        assert doubts(made(revision="r1"), model(spec)) == []
    assert doubts(ICR, model("anything")) == []
    assert doubts(made(), None) == []


@pytest.mark.parametrize(
    ("profile", "spec", "message"),
    [
        (made(), "org/Model-3B", "made with org/Model-1B, not with org/Model-3B"),
        (made(revision="r0"), "org/Model-1B", "made with revision r0 of org/Model-1B; this is r1"),
        (made(prompt_sha256="0"), "org/Model-1B", "another prompt than the one"),
        (BLOCKRANK, "org/Mistral-7B", "other weights were not trained to be read so"),
    ],
)
def test_another_model_revision_or_prompt_is_told(
    profile: Profile, spec: str, message: str
) -> None:
    (doubt,) = doubts(profile, model(spec))
    assert message in doubt


def test_a_folder_has_no_revision_to_compare(tmp_path: Path) -> None:
    folder = tmp_path / "Model-1B"
    folder.mkdir()
    assert doubts(made(revision="r0"), model(str(folder))) == []


def test_order_is_no_part_of_the_prompt_that_is_compared() -> None:
    order = dataclasses.replace(ICR.prompt.order, arrange="best-first")
    assert dataclasses.replace(ICR.prompt, order=order).digest() == ICR.prompt.digest()
    assert dataclasses.replace(ICR.prompt, instruction="Look.").digest() != ICR.prompt.digest()


def test_a_model_s_own_profile_is_its_default() -> None:
    assert default_profile("smollm2-135m") == "smollm2-135m-learned"
    assert default_profile("no-such-model") == "icr"
    assert "smollm2-135m-learned" in shipped_profiles()
