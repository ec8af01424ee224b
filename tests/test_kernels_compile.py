"""The kernels compile for a GPU that is not there: what the interpreter takes may still not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is for Linux")

# What one program may have on an H100.
SHARED_MEMORY = 227 * 1024


def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_DEFAULT_FP_FUSION": "1"}
    script = Path(__file__).with_name("kernel_compile.py")
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({kernel["name"] for kernel in found}) == 10
    for kernel in found:
        assert 0 <= kernel["shared"] <= SHARED_MEMORY, kernel
        assert kernel["code"] > 0, kernel
        # Lengths and counts differ between prompts, and must not bring about compilations.
        assert kernel["specialised"] == [], kernel
