"""The wheel: exactly the tracked files of the package, and a program that works from anywhere."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("rerank", "retrieval", "eval", "cli", "data")

# The user's own folders of the same names, importable and recognisable.
USERS_MODULE = "OWNER = 'user'\n"
TRY_IMPORTS = """
import sys
from pathlib import Path

import cli, data, eval, rerank, retrieval
import ranklens, ranklens.cli.main, ranklens.data.load, ranklens.eval.measures
import ranklens.rerank.profile_file, ranklens.retrieval.bm25

assert {m.OWNER for m in (cli, data, eval, rerank, retrieval)} == {"user"}
for module in (ranklens, ranklens.cli, ranklens.data, ranklens.eval, ranklens.rerank,
               ranklens.retrieval):
    assert Path(module.__file__).resolve().is_relative_to(sys.argv[1]), module.__file__
assert ranklens.rerank.profile_file.load_profile("icr").name == "icr"
print(ranklens.__version__)
"""


def git_files() -> set[str]:
    """The package's files under the names they must have in the wheel; untracked ones count."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--",
         *FOLDERS, "src/ranklens"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listing.returncode:
        pytest.skip(f"{ROOT} is not a git checkout")
    names = [Path(name) for name in listing.stdout.split("\0") if name]
    # The links in src/ranklens stand for the folders, which are listed themselves.
    files = [name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]
    return {
        str("ranklens" / (name.relative_to("src/ranklens") if name.parts[0] == "src" else name))
        for name in files
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="the build package (extra dev) is not installed")
    pytest.importorskip("hatchling", reason="hatchling (extra dev) is not installed")
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    expected = git_files()
    with zipfile.ZipFile(wheel) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    package = {name for name in members if ".dist-info/" not in name}
    assert package == expected
    assert {"ranklens/py.typed", "ranklens/__init__.py", "ranklens/cli/main.py"} <= package
    assert "ranklens/rerank/profiles/icr.json" in package
    assert not [n for n, info in members.items() if stat.S_ISLNK(info.external_attr >> 16)]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in members)


def test_the_installed_wheel_works_from_a_folder_with_the_same_names(
    wheel: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pip", reason="pip is not installed")
    environment = tmp_path / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], tmp_path)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps",
         "--no-index", "--disable-pip-version-check", str(wheel)],
        tmp_path,
    )  # fmt: skip
    # The dependencies are those of the environment that runs the tests. A path in a .pth comes
    # after the environment's own packages, and the .pth files behind it (an editable install of
    # this checkout) are not read.
    own = run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"])
    (Path(own.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    elsewhere = tmp_path / "elsewhere"
    for folder in FOLDERS:
        (elsewhere / folder).mkdir(parents=True)
        (elsewhere / folder / "__init__.py").write_text(USERS_MODULE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    imported = run([str(python), "-c", TRY_IMPORTS, str(environment.resolve())], elsewhere)
    assert imported.strip() == version
    assert run([str(scripts / "ranklens"), "--version"], elsewhere) == f"ranklens {version}\n"
    assert "ranklens run sample:pydocs" in run(
        [str(python), "-m", "ranklens.cli.main", "run", "--help"], elsewhere
    )


def run(command: list[str], folder: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
