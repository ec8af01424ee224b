"""Which side computes, that it says so once, and what calls are refused."""

from __future__ import annotations

import builtins
import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from tests.kernel_cases import DEVICE, randn

from ranklens.data.errors import UsageError
from ranklens.rerank.kernels import dispatch
from ranklens.rerank.kernels.dispatch import block_attention, choose, column_mass
from ranklens.rerank.kernels.layout import Blocks, Sweep

pytest_plugins = ["kernel_fixtures"]


def test_the_cpu_takes_torch_and_says_why() -> None:
    choice = choose("cpu")
    assert choice.name == "torch"
    assert choice.reason == "the kernels are for CUDA, and the device is cpu"


def test_cuda_takes_triton(triton: Any) -> None:
    choice = choose("cuda")
    assert choice.name == "triton"
    assert triton.__version__ in choice.reason


def test_cuda_without_triton_takes_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_triton(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "triton":
            raise ImportError("No module named 'triton'")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_triton)
    choice = choose(torch.device("cuda"))
    assert choice.name == "torch"
    assert choice.reason == "Triton cannot be imported (No module named 'triton')"


def test_another_failure_of_triton_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "triton":
            raise RuntimeError("a driver that is too old")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(RuntimeError, match="too old"):
        choose("cuda")


def test_the_kernels_refuse_what_they_do_not_compute_in() -> None:
    x = torch.ones(1, 5, 16, dtype=torch.float64)
    with pytest.raises(UsageError, match=r"do not compute in torch.float64; use torch.float32"):
        block_attention(x, x, x, BLOCKS, scale=1.0, backend="triton")


def test_a_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    dispatch._say_once.cache_clear()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        choose("cpu")
        choose("cpu")
        choose("mps")
    assert [record.getMessage() for record in caplog.records] == [
        "attention is computed by torch: the kernels are for CUDA, and the device is cpu",
        "attention is computed by torch: the kernels are for CUDA, and the device is mps",
    ]


def test_neither_the_package_nor_the_torch_side_imports_triton() -> None:
    code = (
        "import sys, torch\n"
        "import ranklens.rerank.kernels\n"
        "from ranklens.rerank.kernels.dispatch import block_attention\n"
        "from ranklens.rerank.kernels.layout import Blocks\n"
        "x = torch.ones(1, 2, 4)\n"
        "block_attention(x, x, x, Blocks(((0, 2, 0),)), scale=1.0)\n"
        "print('triton' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.skipif(DEVICE == "cuda", reason="without a GPU the default is torch")
def test_without_a_gpu_the_default_is_the_reference() -> None:
    x = randn(2, 5, 16, seed=1)
    sweep = Sweep.of_tails(3, (2,), ((0, 2),))
    blocks = Blocks(((0, 5, 0),))
    for backend in (None, "torch"):
        attended = block_attention(x, x, x, blocks, scale=0.5, backend=backend)
        mass = column_mass(x[:, 3:], x, sweep, scale=0.5, backend=backend)
        assert mass.tokens is not None
        expected = torch.softmax((x[0] @ x[0].T * 0.5).masked_fill(
            ~torch.ones(5, 5).tril().bool(), -torch.inf), -1)  # fmt: skip
        assert torch.allclose(attended.output[0], expected @ x[0], atol=1e-6)


BLOCKS = Blocks(((0, 5, 0),))
SWEEP = Sweep.of_tails(3, (2,), ((0, 2),))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backend": "cuda"}, "unknown backend 'cuda'; choose triton or torch"),
        ({"key": torch.ones(3, 5, 16)}, "2 heads cannot share 3 key heads"),
        ({"key": torch.ones(2, 5, 8)}, r"query \[2, 5, 16\] and key \[2, 5, 8\] are not"),
        ({"key": torch.ones(2, 5, 16).half()}, "torch.float32 on cpu and torch.float16 on cpu"),
        ({"value": torch.ones(2, 4, 16)}, "are not one prompt"),
        ({"blocks": Blocks(((0, 4, 0),))}, "blocks of tokens 0 to 4 are not one prompt"),
        ({"window": 3}, "a window counts by positions, which were not given"),
        ({"window": 0, "positions": torch.arange(5)}, "a window must hold the row itself: 0"),
        ({"softcap": 0.0}, "a soft cap must be positive: 0.0"),
        ({"sinks": torch.ones(3)}, r"sinks \[3\] should be \[2\]"),
    ],
)
def test_attention_that_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    x = torch.ones(2, 5, 16)
    arguments: dict[str, Any] = {"query": x, "key": x, "value": x, "blocks": BLOCKS, "scale": 1.0}
    with pytest.raises(UsageError, match=said):
        block_attention(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": torch.ones(2, 3, 16)}, r"of 2 rows, 3 shared keys and last key 4; query \[2, 3"),
        ({"key": torch.ones(2, 4, 16)}, "last key 4"),
        ({"lse": torch.ones(2, 3)}, r"lse \[2, 3\] is not \[2 heads, 2 rows\]"),
        ({"counted": torch.ones(3).bool()}, r"counted \[3\] should be \[5\]"),
        ({"head_weights": torch.ones(3)}, r"head_weights \[3\] should be \[2\]"),
        ({"window": 3}, "a window counts by positions and row_positions, which were not given"),
    ],
)
def test_mass_that_does_not_fit_is_refused(changes: dict[str, Any], said: str) -> None:
    x = torch.ones(2, 5, 16)
    arguments: dict[str, Any] = {"query": x[:, 3:], "key": x, "sweep": SWEEP, "scale": 1.0}
    with pytest.raises(UsageError, match=said):
        column_mass(**(arguments | changes))
