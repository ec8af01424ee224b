"""``ranklens heads`` from the command line, with a tiny model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens.rerank.profile_file import load_profile, save_profile

pytest.importorskip("torch", reason="the extra llm is not installed")
pytest_plugins = ["cli_fixtures"]

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("method", ["qrhead", "core", "needle"])
def test_detect_writes_a_profile_that_reranks(
    call: Call, collection: Path, tiny_model: Callable[..., Path], method: str
) -> None:
    model = tiny_model()
    done = call(
        "heads", "detect", collection, "--candidates", "all", "--depth", "12", "--model", model,
        "--method", method, "--top", "3", "--picture", "map.svg", "--compare", "core-phi-4",
        "-o", "found.json", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said["heads"]) == 3
    assert said["overlap"] == {"core-phi-4": {"shared": 0, "of": 8}}
    assert said["figures"]["held_out_lists"] == 1
    assert 0 <= said["figures"]["chosen heads nDCG@10"] <= 1
    assert Path("map.svg").read_text().startswith("<svg")
    profile = json.loads(Path("found.json").read_text())
    assert profile["made_with"]["data"] == ["tiny (lists of 12 of all)"]
    assert profile["made_with"]["revision"]
    again = call(
        "rerank", collection, "all", "--reranker", f"attention:{model}", "--profile", "found.json",
        "-o", "out.run", "--json",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert len(Path("out.run").read_text().splitlines()) == 48


def test_learn_needs_enough_lists_and_resumes(
    call: Call, collection: Path, long_collection: Path, tiny_model: Callable[..., Path]
) -> None:
    model = tiny_model()
    few = call("heads", "learn", collection, "--candidates", "all", "--model", model,
               "-o", "learned.json")  # fmt: skip
    assert few.returncode == 5
    assert "judged lists of 4 queries are too few" in few.stderr
    assert "loading" not in few.stderr, "known before the work"
    assert not Path("learned.json").exists()
    learn = (
        "heads", "learn", long_collection, "--candidates", "all", "--model", model, "--limit",
        "12", "--depth", "12", "--cache", "kept", "-o", "learned.json", "--json",
    )  # fmt: skip
    done = call(*learn)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["figures"]["lists"] == 12
    assert said["layers_needed"] in (1, 2)
    first = Path("learned.json").read_bytes()
    assert len(list(Path("kept").iterdir())) == 4, "equal lists are read once"
    assert call(*learn).returncode == 0
    assert Path("learned.json").read_bytes() == first


def test_candidates_of_several_origins_are_recorded(
    call: Call, long_collection: Path, tiny_model: Callable[..., Path]
) -> None:
    lines = (long_collection / "all.run").read_text().splitlines()
    with (long_collection / "best.run").open("w") as stream:
        stream.writelines(f"{line}\n" for line in lines if int(line.split()[3]) <= 4)
    done = call(
        "heads", "learn", long_collection, f"{long_collection}@{long_collection / 'best.run'}",
        "--candidates", "all", "--limit", "40", "--depth", "12", "--model", tiny_model(),
        "-o", "learned.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(Path("learned.json").read_text())["made_with"]
    # Of the first four candidates, only the first of four topics has relevant ones.
    assert made["data"] == ["tiny (40 lists of 12 of all)", "tiny (10 lists of 12 of best.run)"]


@pytest.mark.parametrize(
    ("command", "more", "code", "said"),
    [
        ("detect", ["--temperature", "-1"], 2, "--temperature must be positive and finite"),
        ("detect", ["--temperature", "nan"], 2, "--temperature must be positive and finite"),
        ("detect", ["--level", "3"], 5, "no list of the 3 has both a document of grade 3"),
        ("learn", ["--base", "logits.json"], 2, "reads logits; learning compares shares"),
        ("learn", ["--base", "rollout.json"], 2, "reads rollout; learning compares shares"),
        ("detect", ["--base", "rollout.json"], 5, "reads a rollout, which has no heads apart"),
    ],
)
def test_what_cannot_be_found_is_refused_before_the_work(
    call: Call, collection: Path, tiny_model: Callable[..., Path], command: str,
    more: list[str], code: int, said: str,
) -> None:  # fmt: skip
    icr = load_profile("icr")
    for values in ("logits", "rollout"):
        signal = dataclasses.replace(icr.signal, values=values)
        save_profile(dataclasses.replace(icr, signal=signal), f"{values}.json")
    done = call("heads", command, collection, "--candidates", "all", "--model", tiny_model(),
                "-o", "x.json", *more)  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "loading" not in done.stderr


def test_further_lists_of_a_query_teach_too(
    call: Call, long_collection: Path, tiny_model: Callable[..., Path]
) -> None:
    """Of the candidates, half of the queries have their relevant ones behind the first six."""
    learn = (
        "heads", "learn", long_collection, "--candidates", "all", "--model", tiny_model(),
        "--limit", "24", "--depth", "6", "--cache", "kept", "-o", "learned.json", "--json",
    )  # fmt: skip
    for lists, expected in ((1, 12), (2, 24), (3, 24)):
        done = call(*learn, "--lists", lists)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["figures"]["lists"] == expected
        assert f"{expected} of {24 * min(lists, 2)} lists of 6 have" in done.stderr


def test_show_and_wrong_arguments(call: Call) -> None:
    shown = call("heads", "show", "qrhead-llama-3.1-8b-lme", "--compare", "core-llama-3.1-8b")
    assert shown.returncode == 0
    assert "shares 7 heads with the 8 of core-llama-3.1-8b" in shown.stdout
    assert call("heads", "show", "nothing").returncode == 4
    drawn = call("heads", "show", "icr", "--picture", "x.svg")
    assert drawn.returncode == 2
    assert "nothing to draw" in drawn.stderr
    unknown = call("heads", "detect", "sample:pydocs", "--method", "luck", "-o", "x.json")
    assert unknown.returncode == 2
    assert "unknown method 'luck'" in unknown.stderr
