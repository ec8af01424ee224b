"""One decision on device and dtype, with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from ranklens.data.errors import UsageError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model runs, in which dtype, and why."""

    device: str
    dtype: str
    reason: str


def choose_placement(device: str | None = None, dtype: str | None = None) -> Placement:
    """Decide on a device and a dtype; whatever the caller names is taken.

    Without a device: CUDA where it is usable, else the CPU. Without a dtype: bfloat16 on a GPU
    that computes in it, float16 on an older one, float32 on a CPU. Raises UsageError for a
    dtype that is not one of DTYPES and a device that is not there.
    """
    import torch

    cuda = torch.cuda.is_available()
    reasons = []
    if device is None:
        device = "cuda" if cuda else "cpu"
        reasons.append(
            f"CUDA device {torch.cuda.get_device_name(0)}" if cuda else "no CUDA device, so the CPU"
        )
    else:
        reasons.append(f"device {device} was asked for")
        try:
            kind = torch.device(device).type
        except RuntimeError:
            kind = ""
        if kind not in ("cpu", "cuda") or (kind == "cuda" and not cuda):
            raise UsageError(
                f"device {device!r} is not usable here; "
                f"use {'cuda or ' if cuda else ''}cpu (see `ranklens doctor`)"
            )
    on_gpu = device.startswith("cuda")
    if dtype is None:
        if not on_gpu:
            dtype = "float32"
            reasons.append("float32 is exact and the CPU's native type")
        elif torch.cuda.is_bf16_supported():
            dtype = "bfloat16"
            reasons.append("the GPU computes in bfloat16")
        else:
            dtype = "float16"
            reasons.append("the GPU has no bfloat16")
    elif dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; choose {', '.join(DTYPES)}")
    else:
        reasons.append(f"{dtype} was asked for")
    return Placement(device, dtype, "; ".join(reasons))
