"""NaN where nothing was written, and Triton with an interpreter that multiplies bfloat16.

Loaded by ``pytest_plugins = ["kernel_fixtures"]``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def nan_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty returns with NaN, so that outputs left unwritten show."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def filled(*args: Any, _original: Any = original, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = _original(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, name, filled)


@pytest.fixture
def triton() -> Iterator[Any]:
    """Return Triton, or skip; its interpreter with products of bfloat16 that are right.

    Triton 3.9's interpreter keeps bfloat16 as integers and multiplies these; and it cuts where
    a GPU rounds.
    """
    module = pytest.importorskip("triton", reason="Triton is for Linux")
    if torch.cuda.is_available():
        yield module
        return
    from triton.runtime import interpreter

    handle, language = interpreter.TensorHandle, interpreter.tl
    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    def widened(x: Any) -> Any:
        if x.dtype.scalar != language.bfloat16:
            return x
        return handle((x.data.astype(np.uint32) << 16).view(np.float32), language.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == language.float32 and dst_type.scalar == language.bfloat16:
            bits = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16().view(torch.int16)
            return handle(bits.numpy().view(np.uint16), language.bfloat16)
        return cast(self, src, dst_type)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "create_dot", create_dot)
        patch.setattr(builder, "cast_impl", cast_impl)
        for name in ("create_fp_ext", "create_fp_trunc"):
            patch.setattr(builder, name, lambda self, src, to: cast_impl(self, src, to))
        yield module
