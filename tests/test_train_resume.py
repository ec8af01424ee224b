"""Training that is killed, interrupted or hit while it saves, and ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("peft", reason="the extra train is not installed")

import torch
from safetensors.torch import load_file
from tests.word_task import held_out_words, settings_of, trainer_in

from ranklens.data.errors import InvalidInputError
from ranklens.data.models import resolve
from ranklens.rerank.training import checkpoint
from ranklens.rerank.training.checkpoint import open_training_folder
from ranklens.rerank.training.export import Provenance, export
from ranklens.rerank.training.settings import Settings
from ranklens.rerank.training.trainer import Step, Trainer
from ranklens.rerank.training.validation import Validation

pytest_plugins = ["word_fixtures"]

ROOT = Path(__file__).resolve().parent.parent
Watch = Callable[[Step | Validation], None]

# Tells every step, then waits for a word that never comes: it is killed on the way there.
CHILD = """
import json, os, signal, sys, torch
torch.set_num_threads(int(sys.argv[4]))
from pathlib import Path
import safetensors.torch
from tests.word_task import held_out_words, settings_of, trainer_in
from ranklens.rerank.training.checkpoint import open_training_folder

def half(tensors, path, metadata):
    whole(tensors, path, metadata)
    os.truncate(path, os.path.getsize(path) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

whole = safetensors.torch.save_file
if sys.argv[5] == "while saving":
    safetensors.torch.save_file = half

def watch(event):
    print(event.step, flush=True)
    if event.step == 18 and sys.argv[5] == "anywhere":
        sys.stdin.read()

held_out = held_out_words(4)
base = Path(sys.argv[1])
settings = settings_of(base, validation=held_out.digest, **json.loads(sys.argv[3]))
with open_training_folder(Path(sys.argv[2])) as folder:
    trainer_in(folder, base, settings, held_out=held_out, save_every=5).run(watch)
"""
RUN: dict[str, Any] = {"steps": 30, "validate_every": 7, "lora": 4, "dtype": "bfloat16"}


def settings(base: Path, **changes: Any) -> Settings:
    return settings_of(base, validation=held_out_words(4).digest, **(RUN | changes))


def train(
    base: Path, out: Path, wanted: Settings, *, watch: Watch | None = None, save_every: int = 5
) -> Trainer:
    with open_training_folder(out) as folder:
        trainer = trainer_in(
            folder, base, wanted, held_out=held_out_words(4), save_every=save_every
        )
        trainer.run(watch)
        export(folder.model, trainer, Provenance(resolve(str(base)), {}))
    return trainer


def stored(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in (".lock", "checkpoint.safetensors")
    }


def same_end(one: Path, two: Path) -> None:
    """Assert that two folders have the same files, weights, optimiser state and history."""
    assert stored(one) == stored(two)
    kept = [load_file(folder / "checkpoint.safetensors") for folder in (one, two)]
    assert kept[0].keys() == kept[1].keys()
    for name, tensor in kept[0].items():
        assert torch.equal(tensor, kept[1][name]), name


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Results name the folder.
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    train(base, out, settings(base))
    return out


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_killed_anywhere_it_ends_with_the_weights_of_an_undisturbed_run(
    base: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def start(how: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        threads = str(torch.get_num_threads())
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(base), str(out), json.dumps(RUN), threads, how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    with start("anywhere") as child:
        assert child.stdout is not None
        told = [int(line) for line in iter(child.stdout.readline, "12\n")]
        child.kill()
    assert child.returncode == -signal.SIGKILL
    assert told[0] == 0
    assert max(told) == 11, "killed after step 12 and before step 18"
    assert not (out / "model").exists()

    with start("while saving") as child:
        assert child.stdout is not None
        again = [int(line) for line in child.stdout]
    assert child.returncode == -signal.SIGKILL
    assert again[0] in (11, 16), "it went on from a checkpoint"
    torn = [path.name for path in out.iterdir() if path.name.endswith(".tmp")]
    assert len(torn) == 1, "half of a checkpoint lies there"

    trainer = train(base, out, settings(base))
    assert trainer.resumed_at in (10, 15), "from the last whole checkpoint"
    assert not [path for path in out.iterdir() if path.name.endswith(".tmp")]
    same_end(out, undisturbed)


@pytest.mark.parametrize("step", [0, 1, 5, 14, 30])
def test_ctrl_c_keeps_the_last_whole_step(
    base: Path, undisturbed: Path, tmp_path: Path, step: int
) -> None:
    out = tmp_path / "out"

    def interrupt(event: Step | Validation) -> None:
        if event.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, out, settings(base), watch=interrupt, save_every=100)
    trainer = train(base, out, settings(base), save_every=100)
    assert trainer.resumed_at == step
    same_end(out, undisturbed)


def test_interrupted_inside_a_step_nothing_half_done_is_kept(
    base: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    real = torch.optim.AdamW.step
    calls = 0

    def interrupted(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        found = real(self, *arguments)
        if calls == 8:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(base, out, settings(base))
    trainer = train(base, out, settings(base))
    assert trainer.resumed_at == 5, "weights of step 8 were stepped, and its line not written"
    same_end(out, undisturbed)


def test_how_often_is_saved_changes_nothing_and_a_finished_run_is_left_alone(
    base: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(base, out, settings(base), save_every=1)
    same_end(out, undisturbed)
    events: list[Step | Validation] = []
    trainer = train(base, out, settings(base), watch=events.append)
    assert trainer.resumed_at == 30
    assert events == []
    same_end(out, undisturbed)


def test_all_weights_and_early_stopping_resume_alike(base: Path, tmp_path: Path) -> None:
    wanted = settings(
        base, lora=None, dtype="float32", validate_every=2, patience=2, learning_rate=1.0
    )
    whole = train(base, tmp_path / "whole" / "out", wanted)
    assert whole.stopped_early
    assert whole.step < 30
    last = whole.step - 1

    def interrupt(event: Step | Validation) -> None:
        if event.step == last:
            raise KeyboardInterrupt

    out = tmp_path / "again" / "out"
    with pytest.raises(KeyboardInterrupt):
        train(base, out, wanted, watch=interrupt)
    assert train(base, out, wanted).step == whole.step
    same_end(tmp_path / "whole" / "out", out)


def test_the_generators_of_others_are_left_as_they_were(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(17)
    before = torch.get_rng_state()
    train(base, tmp_path / "out", settings(base, steps=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("damage", ["cut", "not a checkpoint", "short curve", "other weights"])
def test_a_damaged_folder_says_what_to_do(
    base: Path, tmp_path: Path, damage: str, undisturbed: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("settings.json", "curve.jsonl", "checkpoint.safetensors"):
        (out / name).write_bytes((undisturbed / name).read_bytes())
    kept = out / "checkpoint.safetensors"
    wanted = settings(base)
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-100])
        said = r"checkpoint\.safetensors is no checkpoint that can be read"
    elif damage == "not a checkpoint":
        kept.write_bytes((base / "model.safetensors").read_bytes())
        said = r"checkpoint\.safetensors is no checkpoint that can be read"
    elif damage == "short curve":
        curve = out / "curve.jsonl"
        curve.write_bytes(curve.read_bytes()[:-10])
        said = "bring it back, or remove the checkpoint"
    else:
        (out / "settings.json").unlink()
        kept.rename(tmp_path / "kept")
        (out / "curve.jsonl").rename(tmp_path / "curve")
        wanted = settings(base, lora=2)
        with open_training_folder(out) as folder:
            folder.begin(wanted)
        (tmp_path / "kept").rename(kept)
        (tmp_path / "curve").rename(out / "curve.jsonl")
        said = "is of other weights than the model's"
    with pytest.raises(InvalidInputError, match=said):
        train(base, out, wanted)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with open_training_folder(out) as folder:
        folder.begin(settings(base))
        state = {"step": 1}
        first = checkpoint.Checkpoint({"weights/x": torch.ones(3)}, state, folder.append({}))
        folder.save(first)

        def full(*arguments: Any, **options: Any) -> None:
            Path(arguments[1]).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            folder.save(checkpoint.Checkpoint({"weights/x": torch.zeros(3)}, {"step": 2}, 3))
        found = folder.load()
        assert found is not None
        assert found.state == state
        assert torch.equal(found.tensors["weights/x"], torch.ones(3))
    assert not [path for path in out.iterdir() if path.name.endswith(".tmp")]
