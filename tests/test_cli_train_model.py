"""``ranklens train model`` from the command line, with a tiny model and a task it can learn."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("peft", reason="the extra train is not installed")

import torch
from tests.word_task import make_model, word_lists, word_profile
from transformers import AutoConfig, AutoModel

from ranklens.cli.train_progress import Tally
from ranklens.cli.train_start import start_of
from ranklens.data.errors import InvalidInputError
from ranklens.data.models import REGISTRY, resolve
from ranklens.rerank.profile_file import load_profile, save_profile
from ranklens.rerank.training.adapter import add_lora, save_adapter
from ranklens.rerank.training.card import runs_of
from ranklens.rerank.training.folder import write_lists
from ranklens.rerank.training.history import read_history
from ranklens.rerank.training.settings import Settings
from ranklens.rerank.training.student import Student
from ranklens.rerank.training.trainer import Step
from ranklens.rerank.training.validation import Validation

pytest_plugins = ["cli_fixtures", "word_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a base model, training lists, held-out lists and a profile."""
    folder = tmp_path_factory.mktemp("task")
    make_model(folder / "tiny")
    origin = {"collections": [{"name": "words", "origin": "made up", "licence": "CC0"}]}
    write_lists(folder / "lists", word_lists(12, "train"), origin)
    write_lists(folder / "held-out", word_lists(4, "held-out"), origin)
    save_profile(word_profile(), folder / "words.json")
    return folder


@pytest.fixture
def train(call: Call, task: Path, tmp_path: Path) -> Call:
    """Return a function that calls ``ranklens train model`` on the task."""
    return lambda *arguments: call(
        "train", "model", task / "lists", "--model", task / "tiny", "--profile",
        task / "words.json", "--lora", "4", "--out", tmp_path / "out", *arguments,
    )  # fmt: skip


def test_it_trains_and_writes_a_model_that_ranks(
    train: Call, call: Call, task: Path, tmp_path: Path, collection: Path
) -> None:
    options = (
        "--steps", "6", "--validate-every", "3", "--validation", task / "held-out",
        "--lr", "0.01", "--accumulate", "2", "--json",
    )  # fmt: skip
    done = train(*options)
    assert done.returncode == 0, done.stderr
    assert "validation at step 0: nDCG@10 0." in done.stderr
    assert "\x1b" not in done.stderr, "no bar where there is no terminal"
    said = json.loads(done.stdout)
    assert said["figures"]["steps"] == 6
    assert said["measured"].startswith("nDCG@10 of 16 rankings of the lists of held-out")
    out = tmp_path / "out"
    names = {path.name for path in (out / "model").iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "profile.json", "training.json",
        "README.md",
    }  # fmt: skip
    assert (out / "curve.svg").read_text().startswith("<svg")
    card = (out / "model" / "README.md").read_text()
    assert "words (origin: made up; licence: CC0)" in card
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in curve if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in curve if "validation" in line] == [0, 3, 6]

    ranked = call(
        "rerank", collection, "all", "--reranker", f"attention:{out / 'model'}", "-o", "a.run"
    )
    assert ranked.returncode == 0, ranked.stderr
    assert "was made with" not in ranked.stderr, "its own profile raises no doubt"
    assert len(Path("a.run").read_text().splitlines()) == 48

    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = train(*options)
    assert again.returncode == 0, again.stderr
    assert f"resuming in {out}" in again.stderr
    assert kept == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = train(*options, "--seed", "1")
    assert other.returncode == 5
    assert "other settings: seed was 0 and is now 1. Give another --out" in other.stderr


def test_a_collection_validates_as_evaluate_measures(
    train: Call, call: Call, collection: Path, tmp_path: Path
) -> None:
    # A judged query without candidates counts as 0 in both.
    lines = (collection / "all.run").read_text().splitlines(keepends=True)
    (collection / "all.run").write_text("".join(x for x in lines if not x.startswith("q3 ")))
    done = train(
        "--steps", "1", "--validation", f"{collection}@all", "--validation-depth", "12", "--json",
        "--adapter-dtype", "float32",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["figures"]["held-out nDCG@10"]
    model = tmp_path / "out" / "model"
    ranked = call(
        "rerank", collection, "all", "--reranker", f"attention:{model}", "--depth", "12", "-o",
        "a.run",
    )  # fmt: skip
    assert ranked.returncode == 0, ranked.stderr
    told = call("evaluate", collection, "a.run", "-m", "nDCG@10", "--json")
    assert told.returncode == 0, told.stderr
    (result,) = json.loads(told.stdout)["results"]
    assert result["measures"]["nDCG@10"]["value"] == pytest.approx(found, abs=1e-9)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(
    train: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Student.losses
    calls = 0

    def interrupted(self: Student, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Student, "losses", interrupted)
        stopped = train("--steps", "5")
    assert stopped.returncode == 7
    assert "interrupted; step 3 of 5 is kept, and the same command goes on from there" in (
        stopped.stderr
    )
    done = train("--steps", "5")
    assert done.returncode == 0, done.stderr
    assert "steps 3 to 5" in done.stderr
    assert "nothing was held out" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--all-weights"], 2, "--all-weights trains no adapter"),
        (["--as-lora", "4"], 2, "--as-lora cuts what --all-weights learns"),
        (["--steps", "3", "--epochs", "1"], 2, "--steps and --epochs exclude each other"),
        (["--epochs", "nan"], 2, "--epochs must be positive and finite"),
        (["--patience", "3"], 2, "--patience counts validations: give --validation"),
        (["--objective", "grated"], 2, "'grated'"),
        (["--objective", "kl(minilm-l6)"], 2, "the lists have scores of: oracle"),
        (["--dtype", "float16"], 2, "cannot train in float16"),
        (["--adapter-dtype", "int8"], 2, "--adapter-dtype is 'int8'"),
        (["--lr", "-1"], 2, "the learning rate must be 0 or more"),
        (["--warmup", "99", "--steps", "3"], 2, "99 steps of warm-up do not fit into 3 steps"),
        (["--layers", "9"], 5, "the profile reads layers 0 to 8; the model has 2"),
        (["--validation", "nowhere"], 4, "nowhere"),
        (["--profile", "icr"], 5, "set signal.combine to 'documents'"),
    ],
)
def test_what_cannot_be_used_is_refused(
    train: Call, options: list[str], code: int, said: str
) -> None:
    done = train(*options)
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_all_weights_are_kept_as_an_adapter(call: Call, task: Path, tmp_path: Path) -> None:
    def train(rank: int) -> subprocess.CompletedProcess[str]:
        return call(
            "train", "model", task / "lists", "--model", task / "tiny", "--profile",
            task / "words.json", "--all-weights", "--as-lora", str(rank), "--steps", "4",
            "--validation", task / "held-out", "--out", tmp_path / "out",
        )  # fmt: skip

    refused = train(999)
    assert refused.returncode == 2
    assert "a change of rank 999 cannot be kept: it must be 1 to" in refused.stderr
    done = train(4)
    assert done.returncode == 0, done.stderr
    assert "share of the change kept" in done.stdout
    settings = json.loads((tmp_path / "out" / "model" / "adapter_config.json").read_text())
    assert settings["r"] == settings["lora_alpha"] == 4


def test_a_trained_model_is_trained_on(train: Call, call: Call, task: Path, tmp_path: Path) -> None:
    fine = ("--adapter-dtype", "float32", "--alpha", "6", "--lr", "0.01", "--steps", "3")
    done = train(*fine)
    assert done.returncode == 0, done.stderr
    first = tmp_path / "out" / "model"

    def on(name: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
        return call(
            "train", "model", task / "lists", "--model", first, "--out", tmp_path / name,
            "--adapter-dtype", "float32", *options,
        )  # fmt: skip

    done = on("still", "--lr", "0", "--head-lr", "0", "--steps", "1")
    assert done.returncode == 0, done.stderr
    still = tmp_path / "still" / "model"
    assert adapter_of(still) == adapter_of(first)
    assert json.loads((still / "adapter_config.json").read_text())["lora_alpha"] == 6
    heads = [load_profile(str(x / "profile.json")).signal.heads for x in (first, still)]
    assert heads[0] == heads[1], "its own profile is what it is read with"

    done = on("more", "--steps", "4", "--seed", "3")
    assert done.returncode == 0, done.stderr
    more = tmp_path / "more" / "model"
    assert adapter_of(more) != adapter_of(first)
    manifests = [json.loads((x / "training.json").read_text()) for x in (first, more)]
    assert manifests[1]["trained_before"] == manifests[0]
    assert manifests[1]["base"] == manifests[0]["base"], "one adapter, of the same base"
    card = (more / "README.md").read_text()
    assert "## Training data of run 1 of 2" in card
    assert "## Training data of run 2 of 2\n\nThe same lists as those of run 1." in card
    refused = on("alpha", "--alpha", "3")
    assert refused.returncode == 2
    assert "--alpha is of a new adapter, and that of" in refused.stderr

    done = on("top", "--lora", "2", "--steps", "1")
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "top" / "model" / "adapter_config.json").read_text())
    assert settings["r"] == 2
    assert settings["base_model_name_or_path"] == str(first)

    done = on("whole", "--all-weights", "--steps", "1")
    assert done.returncode == 0, done.stderr
    for name in ("top", "whole"):
        manifest = json.loads((tmp_path / name / "model" / "training.json").read_text())
        assert manifest["trained_before"] == manifests[0], "what it learned from is not lost"
    start = start_of(
        str(tmp_path / "whole" / "model"), None, None, lora=None, alpha=None, all_weights=True
    )
    assert start.profile == load_profile(str(tmp_path / "whole" / "model" / "profile.json"))
    assert start.history is not None
    assert start.history["trained_before"] == manifests[0]


@pytest.fixture(scope="module")
def foreign(task: Path) -> Path:
    """Make an adapter of the first of two layers, with nothing beside it."""
    folder = task / "foreign"
    config = AutoConfig.from_pretrained(task / "tiny")
    config.num_hidden_layers = 1
    model = AutoModel.from_pretrained(task / "tiny", config=config, dtype=torch.float32)
    add_lora(model, 2)
    save_adapter(folder, model, base=resolve(str(task / "tiny")), rank=2)
    return folder


def test_an_adapter_without_a_manifest_is_trained_on(
    call: Call, task: Path, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(licence="Apache-2.0")
    monkeypatch.setitem(REGISTRY, str(task / "tiny"), cast("Any", known))
    done = call(
        "train", "model", task / "lists", "--model", foreign, "--profile", task / "words.json",
        "--layers", "2", "--steps", "1", "--out", tmp_path / "on",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "layers are read up to 1, and the adapter changes those up to 0" in done.stderr
    card = (tmp_path / "on" / "model" / "README.md").read_text()
    assert "the adapter had no manifest" in card
    assert "Apache" not in card, "that is the base's, and the adapter's is not known"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
        ('{"trained_before": 5}', "no manifest of `ranklens train model` (AttributeError"),
        ('{"settings": {"lr": 1}}', "no manifest of `ranklens train model` (KeyError"),
        ('{"loss": NaN}', "no manifest of `ranklens train model` (ValueError"),
        ('{"trained_before": {"name": "\\ud800"}}', "(UnicodeEncodeError"),
    ],
)
def test_a_manifest_that_is_none_is_refused_before_training(
    call: Call, task: Path, foreign: Path, tmp_path: Path, text: str, said: str
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(foreign, folder)
    (folder / "training.json").write_text(text)
    done = call(
        "train", "model", task / "lists", "--model", folder, "--profile", task / "words.json",
        "--steps", "1", "--out", tmp_path / "on",
    )  # fmt: skip
    assert done.returncode == 5
    assert f"{folder / 'training.json'}" in done.stderr
    assert said in done.stderr
    assert not (tmp_path / "on").exists()


def test_texts_of_an_earlier_manifest_are_no_markup(tmp_path: Path) -> None:
    hostile = "1\n\n## Licence\n\n<img src=x>"
    earlier = {
        "settings": Settings(
            lists=hostile, model="m", revision="r", profile={}, objective="graded", steps=1,
            learning_rate=1.0, head_learning_rate=1.0,
        ).to_dict(),
        "cut_to_rank": None,
        "lists": {"counts": {hostile: hostile}, "collections": [{"name": hostile}, hostile]},
        "figures": {hostile: 0.5},
        "measured": hostile,
    }  # fmt: skip
    text = "\n".join(runs_of({**earlier, "trained_before": earlier}))
    assert "## Licence" not in text.replace("\\#\\# Licence", "")
    assert "<img" not in text.replace("\\<img", "")
    assert text.count("## Figures of run") == 2
    (tmp_path / "training.json").write_text(json.dumps(earlier))
    assert read_history(tmp_path) == earlier
    (tmp_path / "training.json").write_text(json.dumps({**earlier, "base": 5}))
    with pytest.raises(InvalidInputError, match="no manifest of `ranklens train model`"):
        read_history(tmp_path)


def adapter_of(model: Path) -> bytes:
    return (model / "adapter_model.safetensors").read_bytes()


def test_lists_that_are_not_there_name_the_command(call: Call, tmp_path: Path) -> None:
    done = call("train", "model", tmp_path / "none", "--out", tmp_path / "out")
    assert done.returncode == 4
    assert "`ranklens train lists` makes such a folder" in done.stderr
    assert not (tmp_path / "out").exists()


def test_held_out_queries_that_are_trained_on_are_warned_of(train: Call, task: Path) -> None:
    done = train("--steps", "1", "--validation", task / "lists")
    assert done.returncode == 0, done.stderr
    assert "of the queries to validate on are trained on" in done.stderr


def test_the_line_says_loss_rate_and_time_left() -> None:
    now = [0.0]
    tally = Tally(10, 4, clock=lambda: now[0])
    assert tally.said == ""
    now[0] = 2.0
    tally.add(Step(5, 1.5, 1e-3, 1.0, 8, 24, 0))
    tally.add(Validation(5, 0.5, None))
    assert tally.said == "loss 1.5000, nDCG@10 0.5000, 4.0 queries/s, 10 s left"
    assert tally.validated == "validation at step 5: nDCG@10 0.5000 (best 0.5000 at step 5)"
    tally.add(Validation(6, 0.4, 2.0))
    assert tally.validated == (
        "validation at step 6: nDCG@10 0.4000, loss 2.0000 (best 0.5000 at step 5)"
    )
