from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.rerank.frames import Frame
from ranklens.rerank.profile import (
    CalibrationChoice,
    LayoutChoice,
    OrderChoice,
    Origin,
    PoolingChoice,
    Profile,
    PromptChoice,
    SignalChoice,
)
from ranklens.rerank.profile_file import load_profile, save_profile, shipped_profiles


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
        (icr(prompt__marker="[{number}] {number}"), "holds {number} twice"),
        (icr(prompt__instruction=" "), "must not be empty"),
        (icr(calibration__nulls=[""]), "calibration.nulls must not hold an empty query"),
        (icr(prompt="none"), "prompt must be a JSON object"),
        ([1], "the profile must be a JSON object"),
        ("{", "mine.json:1: not JSON"),
        # The signal.
        (icr(signal__rows="all"), "signal.rows is 'all'; it must be 'instruction-to-end' or"),
        (icr(signal__values="weights"), "signal.values is 'weights'"),
        (icr(signal__over="sink"), "signal.over is 'sink'"),
        (icr(signal__combine="layers"), "signal.combine is 'layers'"),
        *(
            (icr(signal__heads={name: 1.0}), f"signal.heads has {name!r}; expected 'layer-head'")
            for name in ("3", "3:1", "-1-2", "3-", "a-b", "3-1-2", " 3-1", "3-1\n", "")
        ),
        (icr(signal__heads={}), "signal.heads has no head"),
        (icr(signal__heads=["3-1"]), "signal.heads must be a JSON object, got ['3-1']"),
        (icr(signal__heads={"3-1": "much"}), "signal.heads.3-1 must be float, got 'much'"),
        (icr(signal__heads={"3-1": None}), "signal.heads.3-1 must be float, got None"),
        (icr(signal__heads={"3-1": 1}, signal__layers=[0, 3]), "set signal.layers null"),
        (icr(signal__layers=[-1, 3]), "signal.layers [-1, 3] is no range"),
        (icr(signal__layers=[-3, -1]), "signal.layers [-3, -1] is no range"),
        (icr(signal__layers=[5, 3]), "signal.layers [5, 3] is no range"),
        (icr(signal__values="logits", signal__over="documents"), "signal.over concerns a softmax"),
        (icr(signal__values="logits", signal__over="without-sink"), "logits have none"),
        (
            icr(signal__values="logits", calibration__compare="log-ratio"),
            "calibration.compare 'log-ratio' needs signal.values attention",
        ),
        # Order and lengths of the prompt.
        (icr(prompt__order__permutations=0), "prompt.order.permutations must be at least 1: 0"),
        (icr(prompt__order__permutations=2), "set arrange to 'shuffled'"),
        (icr(prompt__order__seed=1.5), "prompt.order.seed must be int, got 1.5"),
        (icr(prompt__document_tokens=0), "prompt.document_tokens must be at least 1: 0"),
        (icr(prompt__span="all"), "prompt.span is 'all'; it must be 'marker-and-text' or"),
        (icr(layout={"attend": "all"}), "layout.attend is 'all'; it must be 'causal' or 'block'"),
        (icr(layout={"positions": "shared"}), "'shared' needs layout.attend 'block'"),
        (icr(prompt__frame={"name": "x", "prefix": ""}), "missing field 'prompt.frame.suffix'"),
        (icr(prompt__frame="chatml"), "prompt.frame must be a JSON object, got 'chatml'"),
        # Calibration.
        (icr(calibration__instruction_share=1.01), "must lie in [0, 1]: 1.01"),
        (icr(calibration__instruction_share=-0.01), "must lie in [0, 1]: -0.01"),
        (
            icr(calibration__temperature=0),
            "calibration.temperature must be positive and finite: 0.0",
        ),
        (
            icr(calibration__temperature=-2.0),
            "calibration.temperature must be positive and finite: -2.0",
        ),
        (
            icr(calibration__compare="log-ratio", calibration__nulls=[]),
            "calibration.compare 'log-ratio' needs calibration.nulls",
        ),
        (icr(calibration__nulls="N/A"), "calibration.nulls must be a JSON list, got 'N/A'"),
        (icr(calibration__nulls=["N/A", 7]), "calibration.nulls[1] must be str, got 7"),
        # Pooling.
        (icr(pooling__scale="ln"), "pooling.scale is 'ln'; it must be 'plain' or 'log'"),
        (icr(pooling__scale="log"), "pooling.scale 'log' has no logarithm of a difference"),
        (
            icr(pooling__scale="log", calibration__nulls=[], signal__values="logits"),
            "pooling.scale 'log' needs signal.values attention",
        ),
        (
            icr(pooling__scale="log", calibration__nulls=[], signal__heads={"0-0": -1.0}),
            "pooling.scale 'log' has no logarithm of a sum with negative weights",
        ),
        (icr(pooling__top_k=3), "pooling.top_k belongs to reduce 'top-k-mean'"),
        (icr(pooling__reduce="top-k-mean"), "pooling.top_k belongs to reduce 'top-k-mean'"),
        (icr(pooling__reduce="top-k-mean", pooling__top_k=0), "pooling.top_k must be at least 1"),
        (
            icr(pooling__reduce="mean", pooling__length_exponent=0.5),
            "pooling.length_exponent belongs to reduce 'sum'",
        ),
        (
            icr(pooling__reduce="top-k-mean", pooling__top_k=2, pooling__length_exponent=1.0),
            "pooling.length_exponent belongs to reduce 'sum'",
        ),
        (icr(pooling__entropy=-0.5), "pooling.entropy must not be negative: -0.5"),
        (icr(pooling__idf=1), "pooling.idf must be bool, got 1"),
        # Lists of another length.
        (icr(signal__layers=[3]), "signal.layers must have 2 values, got [3]"),
        (icr(signal__layers=[1, 2, 3]), "signal.layers must have 2 values, got [1, 2, 3]"),
        (icr(signal__layers=[]), "signal.layers must have 2 values, got []"),
        (icr(signal__layers=[0, 1.0]), "signal.layers[1] must be int, got 1.0"),
        (icr(signal__layers=[0, True]), "signal.layers[1] must be int, got True"),
    ],
)
def test_a_profile_file_that_cannot_be_used(tmp_path: Path, value: object, message: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(InvalidInputError) as caught:
        load_profile(path)
    assert message in str(caught.value)
    assert "mine.json" in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize(
    "field",
    [
        "calibration.temperature",
        "calibration.instruction_share",
        "pooling.drop_below_stds",
        "pooling.length_exponent",
        "pooling.entropy",
        "signal.heads.3-1",
        "made_with.figures.nDCG",
    ],
)
def test_a_number_that_is_none(tmp_path: Path, field: str, number: str) -> None:
    origin = {"model": "m", "method": "qr", "figures": {"nDCG": 0.5}}
    value = icr(signal__heads={"3-1": 1.0}, made_with=origin)
    *outer, last = field.split(".")
    inner = value
    for key in outer:
        inner = inner[key]
    inner[last] = "HERE"
    text = json.dumps(value).replace('"HERE"', number)
    with pytest.raises(
        InvalidInputError, match=rf"mine.json: {field} must be float, got .*(nan|inf)"
    ):
        load_profile(write(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('"name":', '"name": "other", "name":', "name"),
        ('"reduce":', '"reduce": "mean", "reduce":', "reduce"),
        ('"3-1":', '"3-1": 2.0, "3-1":', "3-1"),
    ],
)
def test_a_key_that_occurs_twice(tmp_path: Path, old: str, new: str, key: str) -> None:
    # Which of the two was meant cannot be known, and json would take the last without a word.
    text = json.dumps(icr(signal__heads={"3-1": 1.0})).replace(old, new, 1)
    with pytest.raises(InvalidInputError, match=rf"mine.json: key '{key}' occurs twice"):
        load_profile(write(tmp_path, text))


@pytest.mark.parametrize(
    "number",
    ["1" + "0" * 400, "1" + "0" * 5000, "[" * 10**5 + "]" * 10**5],
    ids=["beyond-float", "beyond-int", "beyond-the-stack"],
)
def test_json_beyond_what_python_takes(tmp_path: Path, number: str) -> None:
    text = json.dumps(icr(pooling__entropy="HERE")).replace('"HERE"', number)
    with pytest.raises(InvalidInputError, match=r"mine.json: "):
        load_profile(write(tmp_path, text))


@pytest.mark.parametrize("number", ["NaN", "1e999", "1.0", "true", '"1"'])
def test_a_whole_number_that_is_none(tmp_path: Path, number: str) -> None:
    text = json.dumps(icr(prompt__order__seed="HERE")).replace('"HERE"', number)
    with pytest.raises(InvalidInputError, match=r"prompt.order.seed must be int"):
        load_profile(write(tmp_path, text))


def everything_set() -> Profile:
    """Return a profile in which no field of any part has its default."""
    return Profile(
        name="mine",
        source="“a test” with ünicode",
        prompt=PromptChoice(
            introduction=" Look:\n",
            marker="<{number}>",
            instruction="Find \u2028 it.",
            query_label="Q:",
            title_separator=None,
            document_words=7,
            order=OrderChoice("shuffled", seed=-3, permutations=4),
            span="text-and-next",
            document_tokens=9,
            frame=Frame("f", prefix="<a>", suffix="<b>", separator=" \n"),
            first_number=3,
        ),
        layout=LayoutChoice("block", "shared", tail_position=4000),
        signal=SignalChoice(
            rows="last",
            heads={"10-2": 0.1, "3-1": -2.5, "3-0": 1e-12},
            over="without-sink",
            combine="documents",
            reduce="mean",
        ),
        calibration=CalibrationChoice(
            ("N/A", "none"), instruction_share=0.3, compare="log-ratio", temperature=0.25
        ),
        pooling=PoolingChoice(0.5, "top-k-mean", top_k=3, idf=True, entropy=1.5),
        made_with=Origin(
            model="m",
            method="core",
            revision="abc",
            dtype="bfloat16",
            prompt_sha256="00",
            data=("nq", "msmarco"),
            figures={"nDCG@10": 0.5},
        ),
    )


@pytest.mark.parametrize(
    "profile",
    [
        everything_set(),
        dataclasses.replace(
            everything_set(),
            made_with=None,
            signal=SignalChoice(rows="query", layers=(2, 5), values="logits"),
            calibration=CalibrationChoice(()),
            pooling=PoolingChoice(None, "sum", length_exponent=0.5),
        ),
        dataclasses.replace(
            everything_set(),
            calibration=CalibrationChoice(()),
            pooling=PoolingChoice(None, "sum", scale="log"),
        ),
    ],
    ids=["everything", "other", "logarithms"],
)
def test_a_saved_profile_is_the_same(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "mine.json"
    save_profile(profile, path)
    loaded = load_profile(path)
    assert loaded == profile
    # 1 == 1.0 == True: their types show in JSON only.
    assert json.dumps(loaded.to_dict(), sort_keys=True) == json.dumps(
        profile.to_dict(), sort_keys=True
    )
    before = path.read_bytes()
    save_profile(loaded, path)
    assert path.read_bytes() == before


def test_the_round_trip_covers_every_field() -> None:
    # A field added later with a default has to be set above, or its round trip goes untested.
    profile = everything_set()
    # Four exclude others and are set in the other profiles; a score map has its own tests, and
    # blocks are those of a shipped profile.
    left_out = {
        "Profile.score_map",
        "PromptChoice.blocks",
        "SignalChoice.layers",
        "SignalChoice.values",
        "PoolingChoice.length_exponent",
        "PoolingChoice.scale",
    }
    for part in (
        profile,
        profile.prompt,
        profile.prompt.order,
        profile.prompt.frame,
        load_profile("blockrank").prompt.blocks,
        profile.layout,
        profile.signal,
        profile.calibration,
        profile.pooling,
        profile.made_with,
    ):
        assert part is not None
        for field in dataclasses.fields(part):
            name = f"{type(part).__name__}.{field.name}"
            assert (getattr(part, field.name) == field.default) == (name in left_out), name


def test_heads_are_weights_by_layer(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    save_profile(everything_set(), path)
    signal = load_profile(path).signal
    assert signal.heads == {"10-2": 0.1, "3-1": -2.5, "3-0": 1e-12}
    assert signal.weights == {10: {2: 0.1}, 3: {1: -2.5, 0: 1e-12}}
    assert signal.layers_needed == 11


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MissingResourceError, match=r"no profile 'irc'.*, icr, .*'icr'\?"):
        load_profile("irc")


def test_a_head_has_one_spelling_and_a_logarithm_a_positive_sum(tmp_path: Path) -> None:
    for head in ("03-1", "\u0663-1", "3 -1", "-1-2"):
        with pytest.raises(InvalidInputError, match="expected 'layer-head' names"):
            load_profile(write(tmp_path, icr(signal__heads={head: 1.0})))
    mixed = icr(signal__heads={"1-2": -1.0}, calibration__compare="log-ratio")
    with pytest.raises(InvalidInputError, match=r"set signal\.combine to 'documents'"):
        load_profile(write(tmp_path, mixed))
    mixed["signal"]["combine"] = "documents"
    assert load_profile(write(tmp_path, mixed)).signal.weights == {1: {2: -1.0}}
