"""``ranklens doctor`` and ``ranklens models``, without network."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_doctor_reports_what_there_is(run_program: Call) -> None:
    pytest.importorskip("torch", reason="the extra llm is not installed")
    done = run_program("doctor")
    assert done.returncode == 0, done.stderr
    for expected in ("bm25s", "torch", "device  c", "dtype   ", "why     ", "store   "):
        assert expected in done.stdout
    assert "none yet: ranklens models list" in done.stdout


def test_doctor_as_json(call: Call) -> None:
    pytest.importorskip("torch", reason="the extra llm is not installed")
    done = call("doctor", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["status"], report["models"]) == (0, "ok", [])
    assert {p["package"] for p in report["packages"]} >= {"torch", "bm25s", "ir-datasets"}
    assert report["dtype"] in ("float32", "bfloat16", "float16")
    assert report["why"]


@pytest.mark.parametrize("as_json", [False, True])
def test_doctor_ends_with_3_when_the_reranker_cannot_run(
    call: Call, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    from ranklens.cli import doctor

    installed = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda p: None if p == "torch" else installed(p))
    done = call("doctor", *["--json"][:as_json])
    assert done.returncode == 3
    assert done.stderr == "error: reranking cannot run here: pip install 'ranklens[llm]'\n"
    if as_json:
        report = json.loads(done.stdout)
        assert (report["status"], report["device"]) == ("missing", None)
        assert report["install"] == ["pip install 'ranklens[llm]'"]
    else:
        assert "missing pip install 'ranklens[llm]'" in done.stdout


def test_without_torch_a_reranker_says_what_to_install(
    call: Call, collection: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "ranklens.data.extras.importlib.util.find_spec",
        lambda name, package=None: None if name == "torch" else find(name, package),
    )
    for command in (
        ["run", collection, "--out", "out"],
        ["rerank", collection, "all", "-o", "x.run"],
    ):
        done = call(*command, "--reranker", decoder)
        assert done.returncode == 3, done.stderr
        assert "pip install 'ranklens[llm]'" in done.stderr


def test_models_are_listed(run_program: Call) -> None:
    done = run_program("models", "list")
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.split()[:1] == ["smollm2-135m"]]
    assert "not pulled" in line
    assert "Apache-2.0" in line


def test_models_are_listed_as_json(call: Call) -> None:
    models = json.loads(call("models", "list", "--json").stdout)["models"]
    named = {model["name"]: model for model in models}
    assert {"smollm2-135m", "minilm-l6"} <= set(named)
    assert (named["smollm2-135m"]["state"], named["smollm2-135m"]["path"]) == ("not pulled", None)


def test_the_path_of_a_model(call: Call, decoder: str) -> None:
    folder = decoder.partition(":")[2]
    assert call("models", "path", folder).stdout == f"{folder}\n"
    found = json.loads(call("models", "path", folder, "--json").stdout)
    assert (found["status"], found["path"]) == ("ok", folder)
    assert found["revision"].startswith("sha256:")


def test_a_hub_model_that_is_not_here_is_a_missing_resource(call: Call) -> None:
    pytest.importorskip("huggingface_hub", reason="the extra llm is not installed")
    done = call("models", "path", "somebody/something")
    assert done.returncode == 4
    assert "ranklens models pull somebody/something" in done.stderr

    done = call("models", "pull", "somebody/something")
    assert done.returncode == 4
    assert "HF_HUB_OFFLINE is set" in done.stderr
