from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.rerank.profile_file import load_profile, shipped_profiles


def icr(**changes: Any) -> dict[str, Any]:
    value = load_profile("icr").to_dict()
    for path, new in changes.items():
        *outer, last = path.split("__")
        inner = value
        for key in outer:
            inner = inner[key]
        inner[last] = new
    return value


def write(folder: Path, value: object) -> Path:
    path = folder / "mine.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize("name", shipped_profiles())
def test_a_shipped_profile_round_trips_and_says_its_source(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.source
    assert load_profile(write(tmp_path, profile.to_dict())) == profile


def test_icr_is_the_paper_s() -> None:
    profile = load_profile("icr")
    assert profile.prompt.order.arrange == "best-last"
    assert profile.prompt.document_words == 300
    assert profile.calibration.nulls == ("N/A",)
    assert profile.pooling.drop_below_stds == 2.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (icr(heads="all"), "unknown field 'heads'"),
        (icr(prompt__stop="x"), "unknown field 'prompt.stop'"),
        ({"name": "x"}, "missing field 'calibration'"),
        (
            icr(prompt__order__arrange="sideways"),
            "prompt.order.arrange is 'sideways'; it must be 'best-last' or",
        ),
        (icr(prompt__document_words="many"), "prompt.document_words must be int"),
        (icr(prompt__document_words=True), "prompt.document_words must be int"),
        (icr(prompt__document_words=0), "document_words must be at least 1: 0"),
        (icr(prompt__marker="[i]"), "must hold {number} once"),
        (icr(prompt__instruction=" "), "must not be empty"),
        (icr(calibration__nulls=[""]), "calibration.nulls must not hold an empty query"),
        (icr(prompt="none"), "prompt must be a JSON object"),
        ([1], "the profile must be a JSON object"),
        ("{", "mine.json:1: not JSON"),
    ],
)
def test_a_profile_file_that_cannot_be_used(tmp_path: Path, value: object, message: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(InvalidInputError) as caught:
        load_profile(path)
    assert message in str(caught.value)
    assert "mine.json" in str(caught.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MissingResourceError, match=r"no profile 'irc'.*, icr, .*'icr'\?"):
        load_profile("irc")
