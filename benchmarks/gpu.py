"""The engine and its kernels on a GPU, with random weights of 7B and 8B shapes.

    python benchmarks/gpu.py [--shape llama-3.1-8b|mistral-7b] [--layers 16] [--dtype bfloat16]

A prompt has a prefix of 100 tokens, 20, 100 and 500 documents (``--tokens`` each, or between half
of that and it with ``--ragged``), and two tails of 40 tokens. Printed are

* for each number of documents: seconds and peak memory cold (all documents computed) and with all
  documents kept; the share of time that linear layers would take at the rate of a large matrix
  product measured in the same run; the exponent of time between the first and the last;
* for each stage of one layer: seconds, and the share of the measured matrix rate or of the
  measured rate of copying memory, whichever is the stage's bound;
* block attention beside a masked scaled_dot_product_attention and, where torch can compile,
  flex_attention; column mass beside unfused torch (scores, softmax, mean), and the memory that
  each takes beyond its inputs.

Nothing is reported where the kernels are further from a float32 computation than twice torch in
the same dtype is (with 20 and 100 documents; 500 are too many for dense masks), or where kept
documents give other bits than computed ones. Without a CUDA
device there are no figures: exit code 3. ``--rehearse`` runs everything on a tiny shape on any
device, to see that the program works, and says that its figures mean nothing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from gpu_peers import agree, each, mask, unfused, whole
from torch.nn import functional as F
from transformers import AutoModel, LlamaConfig, MistralConfig

from ranklens import load_profile
from ranklens.data.device import Placement
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.fused import Fused
from ranklens.rerank.kernels import reference
from ranklens.rerank.kernels.dispatch import block_attention, column_mass
from ranklens.rerank.kernels.layout import Blocks
from ranklens.rerank.kv.cache import DocumentCache
from ranklens.rerank.kv.reading import CachedReading
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.prompt import PromptLayout, Tail

SHAPES: dict[str, Any] = {
    "llama-3.1-8b": LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072, vocab_size=128256,
    ),
    "mistral-7b": MistralConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=32768, vocab_size=32768,
        sliding_window=None,
    ),
    "tiny": LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192, vocab_size=512,
    ),
}  # fmt: skip
PREFIX, TAIL = 100, 40
MASKED = 25_000
"""Tokens up to which a dense mask is worth its memory."""


def main() -> None:
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.rehearse:
        arguments.shape, arguments.tokens, arguments.layers = "tiny", 12, 2
    elif device.type != "cuda":
        sys.stderr.write("error: no CUDA device, so there is nothing to measure\n")
        raise SystemExit(3)
    counts = (2, 3, 5) if arguments.rehearse else (20, 100, 500)
    bench = Bench(arguments, device)
    _print(
        f"command: python benchmarks/gpu.py {' '.join(sys.argv[1:])}",
        f"{bench.name}; torch {torch.__version__}, transformers {transformers.__version__}",
        f"{arguments.shape}, {arguments.layers} layers, {arguments.dtype}, backend "
        f"{bench.engine.backend}; {'A REHEARSAL: NO FIGURE MEANS ANYTHING' * arguments.rehearse}",
        f"measured: matrix products {bench.rate / 1e12:.0f} TFLOP/s, "
        f"copying {bench.bandwidth / 1e12:.2f} TB/s",
        "",
        "documents  tokens     cold s  of linear rate  peak GB     kept s  peak GB  kept GB",
    )
    cold = []
    for number in counts:
        layout = bench.layout(number)
        bench.check(layout)
        seconds, peak = bench.measured(partial(bench.engine.read, layout, bench.plan))
        cold.append(seconds)
        before = bench.allocated()
        reading = bench.reading()
        reading.keep(layout, bench.plan)
        kept = bench.allocated() - before
        again, held = bench.measured(partial(reading.read, layout, bench.plan))
        share = bench.linear_flop(layout) / bench.rate / seconds
        _print(
            f"{number:9} {len(layout.shared):7} {seconds:10.4f} {100 * share:14.0f}% {peak:8.2f} "
            f"{again:10.4f} {held:8.2f} {kept:8.2f}"
        )
        # Its memory is the next prompt's.
        del reading
    exponent = math.log(cold[-1] / cold[0]) / math.log(counts[-1] / counts[0])
    _print(f"exponent from {counts[0]} to {counts[-1]} documents: {exponent:.2f}")
    for number in counts:
        _print("", f"one layer, {number} documents:    seconds   bound  share of it  extra GB")
        for line in bench.stages(bench.layout(number)):
            _print(line)


class Bench:
    """A model of a shape, its rates, and what is measured with it."""

    def __init__(self, arguments: argparse.Namespace, device: torch.device) -> None:
        self.device, self.arguments = device, arguments
        self.name = torch.cuda.get_device_name(0) if device.type == "cuda" else "no GPU"
        config = SHAPES[arguments.shape]
        config.num_hidden_layers = arguments.layers
        self.dtype: torch.dtype = getattr(torch, arguments.dtype)
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModel.from_config(config, dtype=self.dtype)
        self.engine = AttentionEngine(model, None, Placement(device.type, arguments.dtype, ""))
        self.config = config
        heads = dict.fromkeys(range(config.num_attention_heads), 1.0)
        weights = dict.fromkeys(range(arguments.layers), heads)
        self.plan = SignalPlan(weights, "attention", "all-keys", per_head=False)
        size = 64 if arguments.rehearse else 8192
        square = torch.randn(size, size, device=device, dtype=self.dtype)
        self.rate = 2 * size**3 / self.seconds(lambda: square @ square)
        large = torch.empty(size**2 * 4, device=device, dtype=torch.float32)
        self.bandwidth = 2 * large.nbytes / self.seconds(large.clone)

    def layout(self, documents: int) -> PromptLayout:
        """Return a prompt of random tokens, at shared positions."""
        draw = torch.Generator().manual_seed(documents)
        most = self.arguments.tokens
        least = most // 2 if self.arguments.ragged else most
        lengths = torch.randint(least, most + 1, (documents,), generator=draw).tolist()
        blocks, start = [], PREFIX
        positions = list(range(PREFIX))
        for length in sorted(lengths):
            blocks.append((start, start + length))
            positions += range(PREFIX, PREFIX + length)
            start += length
        ids = torch.randint(self.config.vocab_size, (start + 2 * TAIL,), generator=draw).tolist()
        tails = tuple(
            Tail(ids[start + n * TAIL : start + (n + 1) * TAIL], (0, TAIL)) for n in (0, 1)
        )
        none = (0,) * documents
        return PromptLayout(
            ids[:start], tails, 1, tuple(blocks), none, tuple(blocks), tuple(positions), None,
            PREFIX + max(lengths),
        )  # fmt: skip

    def reading(self) -> CachedReading:
        profile = load_profile("icr-block")
        return CachedReading(self.engine, DocumentCache(memory=2**40), profile, None)

    def check(self, layout: PromptLayout) -> None:
        """Stop where kept documents give other bits, or the kernels are off."""
        steady = self.engine.read(layout, self.plan, steady=True).mass
        if not torch.equal(self.reading().read(layout, self.plan).mass, steady):
            sys.exit("kept documents give other bits than computed ones: no figures")
        if len(layout.shared) > MASKED:
            return
        query, key, value, fused = self.layer(layout)
        blocks, size = whole(fused), query.shape[-1]
        wide = (query.float(), key.float(), value.float())
        exact = reference.block_attention(*wide, blocks, scale=size**-0.5).output
        seen = mask(blocks, self.device)
        keys, values = (x.repeat_interleave(len(query) // len(x), 0)[None] for x in (key, value))
        torchs = F.scaled_dot_product_attention(query[None], keys, values, seen)[0]
        found = block_attention(query, key, value, blocks, scale=size**-0.5)
        agree("block attention", found.output, torchs, exact)
        rows, shared, tails = query[:, len(layout.shared) :], len(layout.shared), len(layout.tails)
        lse = found.lse[:, shared:]
        mass = column_mass(rows, key, fused.sweep, scale=size**-0.5, lse=lse).tokens
        assert mass is not None
        rivals = [
            unfused(x, y, shared, tails, size**-0.5)
            for x, y in ((rows, key), (rows.float(), key.float()))
        ]
        agree("column mass", mass, *rivals)

    def layer(self, layout: PromptLayout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Fused]:
        """Return a layer's query, key and value, random, and how its rows see its keys."""
        length = len(layout.shared) + sum(len(tail.ids) for tail in layout.tails)
        size = self.config.hidden_size // self.config.num_attention_heads
        heads = (self.config.num_attention_heads, *[self.config.num_key_value_heads] * 2)
        query, key, value = (
            torch.randn(length, n, size, device=self.device, dtype=self.dtype).transpose(0, 1)
            for n in heads
        )
        positions = torch.arange(length, device=self.device)
        return (
            query,
            key,
            value,
            Fused(layout, self.plan, positions, positions, self.plan.last_layer),
        )

    def stages(self, layout: PromptLayout) -> Iterator[str]:
        """Yield a line for each stage of one layer."""
        query, key, value, fused = self.layer(layout)
        shared, blocks = len(layout.shared), whole(fused)
        heads, rows, size = query.shape
        pairs = sum(
            (end - start) * (prefix + (end - start) / 2) for start, end, prefix in blocks.ranges
        )
        config = self.config
        states = torch.randn(rows, config.hidden_size, device=self.device, dtype=self.dtype)
        layer = self.engine.model.layers[0]
        linear: dict[str, Any] = {
            "query, key, value": (
                layer.self_attn.q_proj,
                layer.self_attn.k_proj,
                layer.self_attn.v_proj,
            ),
            "output": (layer.self_attn.o_proj,),
        }
        for name, maps in linear.items():
            flop = sum(2 * rows * one.weight.numel() for one in maps)
            yield self.line(name, partial(each, maps, states), flop=flop)
        weights = (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
        flop = sum(2 * rows * one.weight.numel() for one in weights)
        yield self.line("MLP", lambda: layer.mlp(states), flop=flop)
        scale, moved = size**-0.5, 2 * sum(x.nbytes for x in (query, key))
        options: dict[str, Any] = {"scale": scale}
        found = block_attention(query, key, value, blocks, **options)
        yield self.line(
            "block attention", lambda: block_attention(query, key, value, blocks, **options),
            flop=4 * size * heads * pairs, moved=moved,
        )  # fmt: skip
        if rows <= MASKED:
            seen = mask(blocks, self.device)
            # Keys repeated, or the kernel that takes a mask is not found and P × P is stored.
            keys, values = (x.repeat_interleave(heads // len(x), 0)[None] for x in (key, value))
            yield self.line(
                "  masked SDPA",
                lambda: F.scaled_dot_product_attention(query[None], keys, values, seen),
                flop=4 * size * heads * pairs, moved=moved,
            )  # fmt: skip
        if self.device.type == "cuda":
            yield from self.flex(query, key, value, blocks, 4 * size * heads * pairs, moved)
        tails, lse = query[:, shared:], found.lse[:, shared:]
        flop = 2 * size * heads * tails.shape[1] * shared
        # Keys, and the sums of each key head before they are added.
        read = key.nbytes + 4 * len(layout.tails) * shared * (2 * len(key) + 1)
        yield self.line(
            "column mass", lambda: column_mass(tails, key, fused.sweep, lse=lse, **options),
            flop=flop, moved=read,
        )  # fmt: skip
        yield self.line(
            "  and its sums", lambda: column_mass(tails, key, fused.sweep, **options),
            flop=2 * flop, moved=read + key.nbytes,
        )  # fmt: skip
        yield self.line(
            "  unfused torch", lambda: unfused(tails, key, shared, len(layout.tails), scale),
            flop=flop, moved=read,
        )  # fmt: skip

    def flex(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, blocks: Blocks,
        flop: float, moved: float,
    ) -> Iterator[str]:  # fmt: skip
        """Yield the line of flex_attention, compiled, its block mask made before."""
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        rows = query.shape[1]
        own = torch.zeros(rows, dtype=torch.long, device=self.device)
        before = torch.zeros_like(own)
        for number, (start, end, prefix) in enumerate(blocks.ranges):
            own[start:end], before[start:end] = number, prefix

        def sees(batch: Any, head: Any, row: Any, column: Any) -> Any:
            return (column < before[row]) | ((own[row] == own[column]) & (column <= row))

        of_blocks = create_block_mask(sees, None, None, rows, rows, device=str(self.device))
        compiled = torch.compile(flex_attention)
        inputs = (query[None], key[None], value[None])
        yield self.line(
            "  flex_attention",
            lambda: compiled(*inputs, block_mask=of_blocks, enable_gqa=True),
            flop=flop, moved=moved,
        )  # fmt: skip

    def line(
        self, name: str, call: Callable[[], object], *, flop: float, moved: float = 0.0
    ) -> str:
        """Return a stage's seconds and its share of whichever rate bounds it."""
        seconds, peak = self.measured(call)
        matrix, memory = flop / self.rate, moved / self.bandwidth
        bound = "matrix" if matrix >= memory else "memory"
        share = 100 * max(matrix, memory) / seconds
        return f"{name:25} {seconds:12.6f}  {bound}  {share:10.0f}% {peak:9.3f}"

    def linear_flop(self, layout: PromptLayout) -> float:
        """Return the multiplications and additions of all linear layers of a cold pass."""
        rows = len(layout.shared) + sum(len(tail.ids) for tail in layout.tails)
        layer = self.engine.model.layers[0]
        each = sum(m.weight.numel() for m in layer.modules() if isinstance(m, torch.nn.Linear))
        # The last layer has keys of all tokens and queries of the tails alone.
        last = layer.self_attn.k_proj.weight.numel()
        return float(2 * rows * (each * (self.arguments.layers - 1) + last))

    def allocated(self) -> float:
        """Return what is held on the device, in GB."""
        return torch.cuda.memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0

    def measured(self, call: Callable[[], object]) -> tuple[float, float]:
        """Return the median seconds of a call and its peak memory beyond what was held, in GB."""
        if self.device.type != "cuda":
            return self.seconds(call), 0.0
        call()
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds = self.seconds(call)
        return seconds, (torch.cuda.max_memory_allocated() - held) / 1e9

    def seconds(self, call: Callable[[], object]) -> float:
        """Return the median of seven calls after one that is not counted."""
        found = []
        for turn in range(8):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            if turn:
                found.append(time.perf_counter() - start)
        return statistics.median(found)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _print(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
        _printed.append(line)
    if _output is not None:
        _output.write_text("\n".join(_printed) + "\n", encoding="utf-8")


_printed: list[str] = []
_output: Path | None = None


def _arguments() -> argparse.Namespace:
    global _output
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    shapes = [name for name in SHAPES if name != "tiny"]
    parser.add_argument("--shape", default=shapes[0], choices=shapes)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16"])
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    _output = None if arguments.rehearse else arguments.output
    return arguments


if __name__ == "__main__":
    main()
