"""Compile every kernel for a Hopper GPU, which takes none: python kernel_compile.py.

Prints a JSON line for each: its name, bytes of shared memory, and the integers that would bring
about a compilation of their own when they are 1 or divisible by 16. To be run without
TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ranklens.rerank.kernels import blocks, blocks_grad, mass, mass_grad, tile

SIZE, GROUP = 24, 3
HALVES = {
    "query", "key", "value", "output", "d_output", "d_query", "d_key", "d_value", "target",
}  # fmt: skip
FLOATS = {
    "lse", "delta", "part", "part_lse", "part_k", "part_v", "tokens", "by_head", "head_weights",
    "row_weights", "slopes", "d_lse", "found",
}  # fmt: skip
INTEGERS = {
    "items", "visits", "joins", "heads", "places", "bounds", "tiles",
    "row_tiles", "group_tiles", "key_tiles", "owned",
}  # fmt: skip


def kind(kernel: str, argument: str) -> str:
    """Return an argument's type."""
    if argument in HALVES:
        return "*bf16"
    # The documents of one kernel are the number of another.
    if argument in FLOATS or (argument == "documents" and kernel == "_mass_fwd_kernel"):
        return "*fp32"
    if argument in INTEGERS:
        return "*i32"
    if argument == "counted":
        return "*i1"
    # As the engine hands them over: a model's sinks have its dtype.
    if argument == "sinks":
        return "*bf16"
    if argument in ("positions", "row_positions"):
        return "*i64"
    return "fp32" if argument in ("scale", "softcap") else "i32"


def compile_kernel(kernel: Any, tiles: tile.Tiles, **values: Any) -> dict[str, Any]:
    constants = {n: values[n] for n in kernel.arg_names if n in values}
    signature = {
        n: "constexpr" if n in constants else kind(kernel.__name__, n) for n in kernel.arg_names
    }
    aligned = {
        (n,): [["tt.divisibility", 16]]
        for n, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*") or argument.endswith(("_head", "_row"))
    }
    source = ASTSource(
        kernel, signature, {(kernel.arg_names.index(n),): v for n, v in constants.items()}, aligned
    )
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    specialised = [
        p.name
        for p in kernel.params
        if signature[p.name] == "i32"
        and not p.do_not_specialize
        and not p.name.endswith(("_head", "_row"))
    ]
    return {
        "name": kernel.__name__,
        "shared": compiled.metadata.shared,
        "code": len(compiled.asm["cubin"]),
        "specialised": specialised,
    }


def main() -> None:
    dtype = torch.bfloat16
    forward, backward, swept = (
        rule(SIZE, dtype, GROUP)
        for rule in (tile.attention_tiles, tile.gradient_tiles, tile.mass_tiles)
    )
    wide = tile.padded(SIZE)
    sizes = {"G": GROUP, "GP": 4, "D": SIZE, "DV": SIZE, "BD": wide, "BDV": wide, "B": 128}
    flags = dict.fromkeys(
        ("WINDOW", "SINKS", "COUNTED", "TOKENS", "BY_HEAD", "DOCUMENTS", "QUERY"), True
    )
    kernels = {
        blocks._blocks_fwd_kernel: forward,
        blocks._join_fwd_kernel: forward,
        blocks_grad._blocks_query_bwd_kernel: backward,
        blocks_grad._blocks_key_bwd_kernel: backward,
        blocks_grad._sum_bwd_kernel: backward,
        mass._lse_fwd_kernel: swept,
        mass._mass_fwd_kernel: swept,
        mass._documents_fwd_kernel: swept,
        mass_grad._rows_bwd_kernel: backward,
        mass_grad._keys_bwd_kernel: backward,
    }
    for kernel, tiles in kernels.items():
        # The soft cap is the same code everywhere: one kernel of each direction is enough.
        capped = kernel in (mass._mass_fwd_kernel, blocks_grad._blocks_key_bwd_kernel)
        found = compile_kernel(
            kernel, tiles, BM=tiles.rows, BS=tiles.keys, SOFTCAP=capped, **sizes, **flags
        )
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
