"""Finding models: folders, names, what is installed, and where the store is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    MissingResourceError,
)
from ranklens.data.extras import require
from ranklens.data.home import home
from ranklens.data.models import REGISTRY, installed, pull, resolve


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RANKLENS_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(bytes(3 << 20))
    return path


def test_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKLENS_HOME", str(tmp_path / "chosen"))
    assert home() == tmp_path / "chosen"
    monkeypatch.setenv("RANKLENS_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert home() == tmp_path / "cache" / "ranklens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert home() == Path.home() / ".cache" / "ranklens"


def test_require_names_what_is_missing_and_the_line_that_helps() -> None:
    require("llm", "json", "csv")
    with pytest.raises(MissingPrerequisiteError, match=r"nowhere is .* 'ranklens\[llm\]'"):
        require("llm", "json", "nowhere")
    with pytest.raises(MissingPrerequisiteError, match="nowhere, neither are not installed"):
        require("llm", "nowhere", "neither")


def test_conversion_needs_its_extra_before_the_download(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else name)
    with pytest.raises(MissingPrerequisiteError, match=r"gguf is .*pip install 'ranklens\[llm\]'"):
        pull("smollm2-135m")
    assert not store.exists()


def test_a_local_folder_is_returned_as_it_is(local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pull(str(local)) == resolve(str(local)).path == local
    monkeypatch.chdir(local.parent)
    for spec in ("./mine", "mine", "../" + local.parent.name + "/mine"):
        assert resolve(spec).path.samefile(local)
    monkeypatch.setenv("HOME", str(local.parent))
    assert resolve("~/mine").path == local


def test_a_folder_called_like_a_named_model_comes_first(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.rename(local.with_name("minilm-l6"))
    monkeypatch.chdir(local.parent)
    assert resolve("minilm-l6").path == local.with_name("minilm-l6")


def test_the_revision_of_a_folder_follows_its_weights(local: Path) -> None:
    weights = local / "model.safetensors"
    before = resolve(str(local)).revision
    assert before.startswith("sha256:")
    assert len(before) == len("sha256:") + 12
    assert resolve(str(local)).revision == before
    (local / "README.md").write_text("not a weight")
    assert resolve(str(local), revision=before).revision == before

    seen = {before}
    for change in (b"\1" + bytes((3 << 20) - 1), bytes((3 << 20) - 1) + b"\1", bytes(2 << 20), b""):
        weights.write_bytes(change)
        seen.add(resolve(str(local)).revision)
    weights.rename(local / "other.safetensors")
    seen.add(resolve(str(local)).revision)
    (local / "config.json").write_text("[]")
    seen.add(resolve(str(local)).revision)
    assert len(seen) == 7
    with pytest.raises(MissingResourceError, match=f"not as {before}"):
        resolve(str(local), revision=before)


def test_an_unusable_folder_says_what_it_lacks(local: Path) -> None:
    (local / "model.safetensors").unlink()
    with pytest.raises(InvalidInputError, match=r"mine has no weights \(\*\.safetensors"):
        pull(str(local))
    (local / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.safetensors"}}')
    with pytest.raises(InvalidInputError, match=r"mine lacks a\.safetensors, which"):
        resolve(str(local))
    (local / "config.json").unlink()
    with pytest.raises(InvalidInputError, match=r"mine has no config\.json"):
        resolve(str(local))


@pytest.mark.parametrize("spec", ["./gone", "/gone/model", "~nobody-of-this-name/model"])
def test_a_folder_that_is_not_there(spec: str) -> None:
    with pytest.raises(MissingResourceError, match="there is no model folder /"):
        resolve(spec)


@pytest.mark.usefixtures("store")
def test_a_named_model_that_was_not_pulled() -> None:
    with pytest.raises(
        MissingResourceError,
        match="model smollm2-135m is not on this machine: ranklens models pull smollm2-135m",
    ):
        resolve("smollm2-135m")


def test_another_revision_of_a_named_model_is_refused() -> None:
    for call in (pull, resolve):
        with pytest.raises(MissingResourceError, match="is here as sha256:bcc81830d10c, not as v2"):
            call("smollm2-135m", revision="v2")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("smolm2-135m", r"did you mean smollm2-135m\?"),
        ("zzz", "unknown model 'zzz': give one of smollm2-135m, minilm-l6, ranklens-135m, a hub"),
        ("", "unknown model ''"),
        ("a/b/c", "unknown model 'a/b/c'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(spec: str, message: str) -> None:
    for call in (pull, resolve):
        with pytest.raises(MissingResourceError, match=message):
            call(spec)


def test_installed_lists_names_and_other_folders(
    store: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-hub"))
    assert [model.state for model in installed()] == ["not pulled"] * (len(REGISTRY) + 1)
    store.mkdir(parents=True)
    (store / ".partial-x-y").mkdir()
    local.rename(store / "mine")
    *named, other = installed()
    assert [model.name for model in named] == [*REGISTRY, "ranklens-135m"]
    assert {model.licence for model in named} == {"Apache-2.0"}
    assert (other.name, other.state, other.size) == ("mine", "other", (3 << 20) + 2)
