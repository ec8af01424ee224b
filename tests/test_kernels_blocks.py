"""Block attention: the reference against dense masks anywhere, the kernels against the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from tests.kernel_cases import (
    DEVICE,
    HALVES,
    attention_mask,
    check,
    dense_softmax,
    randn,
    window_mask,
)

from ranklens.data.errors import UsageError
from ranklens.rerank.kernels import layout
from ranklens.rerank.kernels.dispatch import Backend, block_attention
from ranklens.rerank.kernels.layout import Blocks

pytest_plugins = ["kernel_fixtures"]

Ranges = tuple[tuple[int, int, int], ...]
# A prefix, documents (one of one token, one of none), two tails that see all of them.
PROMPT: Ranges = (
    (0, 17, 0), (17, 18, 17), (18, 18, 17), (18, 70, 17), (70, 81, 17), (81, 92, 81), (92, 97, 81),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    ranges: Ranges
    group: int = 1
    key_heads: int = 1
    size: int = 16
    value_size: int | None = None
    softcap: float | None = None
    window: int | None = None
    sinks: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def length(self) -> int:
        return max(end for _, end, _ in self.ranges)

    def inputs(self) -> list[torch.Tensor]:
        """Return query, key, value and perhaps sinks, leaves of autograd."""
        heads, length = self.group * self.key_heads, self.length
        found = [
            randn(heads, length, self.size, seed=1, dtype=self.dtype),
            randn(self.key_heads, length, self.size, seed=2, dtype=self.dtype),
            randn(self.key_heads, length, self.value_size or self.size, seed=3, dtype=self.dtype),
        ]
        if self.sinks:
            found.append(randn(heads, seed=4))
        return [x.requires_grad_() for x in found]

    def positions(self) -> torch.Tensor:
        """Documents share their positions; what is no document follows what is before it."""
        places = torch.zeros(self.length, dtype=torch.long)
        for start, end, prefix in self.ranges:
            places[start:end] = prefix + torch.arange(end - start)
        return places.to(DEVICE)

    def run(self, inputs: list[torch.Tensor], backend: Backend) -> tuple[torch.Tensor, ...]:
        query, key, value = inputs[:3]
        found = block_attention(
            query,
            key,
            value,
            Blocks(self.ranges),
            scale=self.size**-0.5,
            softcap=self.softcap,
            window=self.window,
            positions=self.positions() if self.window else None,
            sinks=inputs[3] if self.sinks else None,
            backend=backend,
        )
        return found.output, found.lse

    def oracle(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return output and LSE from dense masks, in the inputs' dtype."""
        query, key, value = inputs[:3]
        mask = attention_mask(self.ranges, self.length)
        if self.window:
            mask &= window_mask(self.positions(), self.positions(), self.window)
        weights, lse = dense_softmax(
            query, key, mask, scale=self.size**-0.5, softcap=self.softcap,
            sinks=inputs[3] if self.sinks else None,
        )  # fmt: skip
        return weights @ value.repeat_interleave(self.group, 0), lse


CASES = {
    "one token": Case(((0, 1, 0),)),
    "causal": Case(((0, 63, 0),), group=3, size=24),
    "blocks": Case(PROMPT, group=4, key_heads=2, size=64),
    "softcap": Case(PROMPT, group=3, softcap=2.0),
    "sinks": Case(PROMPT, group=1, key_heads=3, sinks=True),
    "window": Case(PROMPT, group=4, window=13),
    "all at once": Case(PROMPT, group=3, size=24, softcap=3.0, window=29, sinks=True),
    "values of another size": Case(PROMPT, size=16, value_size=24),
    "a prefix that ends within a block": Case(((0, 20, 0), (20, 33, 11)), group=3),
    "documents first, in any order": Case(((17, 40, 17), (40, 41, 17), (0, 17, 0)), group=3),
}


def with_gradients(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> list[Any]:
    """Return the outputs and the gradients of a sum in which no two elements weigh the same."""
    total = sum(
        (x.double() * randn(*x.shape, seed=9 + n).to(x.dtype)).sum() for n, x in enumerate(outputs)
    )
    assert isinstance(total, torch.Tensor)
    return [*(x.detach() for x in outputs), *torch.autograd.grad(total, inputs)]


def exact(case: Case) -> list[Any]:
    inputs = [x.detach().double().requires_grad_() for x in case.inputs()]
    return with_gradients(case.oracle(inputs), inputs)


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_dense_attention(name: str) -> None:
    case = CASES[name]
    inputs = case.inputs()
    for found, expected in zip(
        with_gradients(case.run(inputs, "torch"), inputs), exact(case), strict=True
    ):
        check(found, expected)


def test_the_reference_passes_finite_differences() -> None:
    case = Case(((0, 3, 0), (3, 5, 3), (5, 7, 5)), 2, size=3, softcap=2.0, window=4, sinks=True)
    inputs = [x.detach().double().requires_grad_() for x in case.inputs()]
    assert torch.autograd.gradcheck(lambda *leaves: case.run(list(leaves), "torch"), inputs)


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_dense_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Walks of 32 or more are split, as those of thousands are.
    monkeypatch.setattr(layout, "_CHUNK", 32)
    case = CASES[name]
    inputs = case.inputs()
    for found, expected in zip(
        with_gradients(case.run(inputs, "triton"), inputs), exact(case), strict=True
    ):
        check(found, expected)


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_errs_at_most_twice_as_much_as_torch(dtype: torch.dtype) -> None:
    case = dataclasses.replace(CASES["softcap"], size=64, dtype=dtype)
    inputs = case.inputs()
    found = with_gradients(case.run(inputs, "triton"), inputs)
    same = with_gradients(case.oracle(inputs), inputs)
    for ours, torchs, expected in zip(found, same, exact(case), strict=True):
        check(ours, expected, torchs)
        assert ours.dtype == (torch.float32 if ours.ndim == 2 else dtype)


@pytest.mark.usefixtures("nan_empty", "triton")
def test_a_tail_over_a_thousand_keys_is_split() -> None:
    documents = tuple((start, min(start + 205, 1022), 0) for start in range(0, 1022, 205))
    ranges = (*documents, (1022, 1025, 1022))
    case = Case(ranges)
    work = Blocks(ranges).forward_work(32, torch.device(DEVICE))
    assert (work.slots, len(work.joins)) == (0, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "_CHUNK", 200)
        work = Blocks(ranges).forward_work(32, torch.device(DEVICE))
        assert (work.slots, len(work.joins)) == (5, 1)
        with torch.no_grad():
            inputs = case.inputs()
            for found, expected in zip(
                case.run(inputs, "triton"), case.oracle([x.double() for x in inputs]), strict=True
            ):
                check(found, expected)


@pytest.mark.usefixtures("triton")
def test_three_runs_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_CHUNK", 16)
    ranges = ((0, 7, 0), (7, 20, 7), (20, 38, 7), (38, 41, 38))
    case = Case(ranges, group=3, softcap=2.0, sinks=True)
    assert len(Blocks(ranges).forward_work(10, torch.device(DEVICE)).joins) == 1
    assert len(Blocks(ranges).backward_work(32, torch.device(DEVICE)).joins) == 1
    runs = []
    for _ in range(3):
        inputs = case.inputs()
        runs.append(with_gradients(case.run(inputs, "triton"), inputs))
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.usefixtures("nan_empty", "triton")
def test_inputs_may_be_views_and_stay_as_they_are() -> None:
    case = dataclasses.replace(CASES["a prefix that ends within a block"], size=24)
    inputs = [x.detach() for x in case.inputs()]
    # As layers hand them over, [P, heads, D], and with every second element of a wider tensor.
    views = [inputs[0].transpose(0, 1).contiguous().transpose(0, 1)]
    views += [torch.stack([x, x + 1], -1)[..., 0] for x in inputs[1:]]
    assert not any(view.is_contiguous() for view in views)
    before = [view.clone() for view in views]
    found = with_gradients(case.run([x.requires_grad_() for x in views], "triton"), views)
    assert all(torch.equal(x, y) for x, y in zip(before, views, strict=True))
    for ours, expected in zip(found, exact(case), strict=True):
        check(ours, expected)


@pytest.mark.usefixtures("triton")
def test_a_document_comes_out_the_same_wherever_it_stands() -> None:
    lengths = [21, 1, 34]
    whole = Case(((0, 17 + sum(lengths), 0),), group=3)
    query, key, value = (x.detach() for x in whole.inputs())
    pieces = torch.split(torch.arange(17, 17 + sum(lengths)), lengths)
    outputs = []
    for order in ([0, 1, 2], [2, 0, 1]):
        tokens = torch.cat([torch.arange(17), *(pieces[n] for n in order)]).to(DEVICE)
        ranges, start = [(0, 17, 0)], 17
        for n in order:
            ranges.append((start, start + lengths[n], 17))
            start += lengths[n]
        found = block_attention(
            query[:, tokens], key[:, tokens], value[:, tokens], Blocks(tuple(ranges)),
            scale=0.25, backend="triton",
        )  # fmt: skip
        back = torch.empty_like(tokens)
        back[tokens] = torch.arange(len(tokens), device=DEVICE)
        outputs.append(found.output[:, back])
    assert torch.equal(*outputs)


@pytest.mark.usefixtures("triton")
def test_no_tokens_give_no_output() -> None:
    empty = randn(2, 0, 16, seed=1)
    for backend in get_args(Backend):
        found = block_attention(empty, empty, empty, Blocks(()), scale=1.0, backend=backend)
        assert (found.output.shape, found.lse.shape) == ((2, 0, 16), (2, 0))


@pytest.mark.usefixtures("triton")
def test_what_is_compiled_does_not_depend_on_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from ranklens.rerank.kernels import blocks

    launches: list[dict[str, Any]] = []

    class Recorder:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **constants: launches.append(constants)

    monkeypatch.setattr(blocks, "_blocks_fwd_kernel", Recorder())
    for ranges in (PROMPT, ((0, 5, 0),), ((0, 200, 0), (200, 201, 100))):
        case = Case(ranges, group=4)
        case.run(case.inputs(), "triton")
    assert len(launches) == 3
    assert launches[0] == launches[1] == launches[2]


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        (((0, 5, 0), (6, 9, 0)), r"block \[6, 9\) follows token 5"),
        (((0, 5, 0), (4, 9, 0)), r"block \[4, 9\) follows token 5"),
        (((0, 5, 0), (5, 9, 6)), r"block \[5, 9\) cannot see a prefix of 6"),
    ],
)
def test_blocks_that_are_no_prompt_are_refused(ranges: Ranges, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Blocks(ranges)


@pytest.mark.usefixtures("nan_empty")
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("backend", get_args(Backend))
def test_rows_behind_kept_keys_find_what_they_find_in_the_whole(
    backend: Backend, window: int | None, triton: None
) -> None:
    """A pass over kept documents has the keys of all tokens and the queries of its tails."""
    case = Case(PROMPT, group=3, key_heads=2, window=window)
    query, key, value = (x.detach() for x in case.inputs())
    whole = case.run([query, key, value], backend)
    options: dict[str, Any] = {"window": window, "scale": 0.25, "backend": backend}
    if window is not None:
        options["positions"] = case.positions()
    tails = Blocks(PROMPT[-2:], base=81)
    found = block_attention(query[:, 81:], key, value, tails, **options)
    assert torch.equal(found.output, whole[0][:, 81:])
    assert torch.equal(found.lse, whole[1][:, 81:])
    with pytest.raises(UsageError, match="tokens 81 to 97 are not one prompt"):
        block_attention(query, key, value, tails, **options)
    with pytest.raises(UsageError, match="follows token 80"):
        Blocks(PROMPT[-2:], base=80)


@pytest.mark.usefixtures("triton", "nan_empty")
@pytest.mark.parametrize("chunk", [None, 16])
def test_rows_behind_kept_keys_have_the_gradients_of_the_whole(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys before the rows are seen by tails, by one tail of the two, or by nobody."""
    if chunk is not None:
        monkeypatch.setattr(layout, "_CHUNK", chunk)
    ranges = ((0, 90, 0), (90, 97, 60), (97, 130, 33))
    case = Case(ranges, group=3, key_heads=2, window=70, sinks=True, softcap=3.0)
    inputs = case.inputs()
    query, key, value, sinks = inputs
    options: dict[str, Any] = {
        "window": 70, "scale": 0.25, "positions": case.positions(), "sinks": sinks, "softcap": 3.0
    }  # fmt: skip
    gradients = []
    for backend in get_args(Backend):
        found = block_attention(
            query[:, 90:], key, value, Blocks(ranges[1:], base=90), backend=backend, **options
        )
        gradients.append(with_gradients((found.output, found.lse), inputs))
    for ours, theirs in zip(*gradients, strict=True):
        check(ours, theirs.double())
    assert not gradients[0][3][:, 60:90].any()
    assert gradients[0][3][:, :60].any()
