"""Column mass: the reference against dense masks anywhere, the kernels against the same."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from tests.kernel_cases import (
    DEVICE,
    HALVES,
    check,
    dense_softmax,
    randn,
    sweep_mask,
    window_mask,
)

from ranklens.data.errors import UsageError
from ranklens.rerank.kernels import layout
from ranklens.rerank.kernels.dispatch import Backend, block_attention, column_mass
from ranklens.rerank.kernels.layout import Blocks, Sweep
from ranklens.rerank.kernels.reference import Mass

pytest_plugins = ["kernel_fixtures"]

SPANS = ((3, 40), (40, 41), (7, 7), (50, 97))


@dataclass(frozen=True)
class Case:
    """Tails behind ``shared`` keys; ``counted`` rows of each; weights 0 are heads not read."""

    shared: int = 97
    tails: tuple[int, ...] = (9, 1)
    counted: tuple[tuple[int, int], ...] = ((2, 9), (0, 1))
    spans: tuple[tuple[int, int], ...] = SPANS
    group: int = 1
    key_heads: int = 1
    size: int = 16
    weights: tuple[float, ...] | None = None
    softcap: float | None = None
    window: int | None = None
    sinks: bool = False
    only_documents: bool = False
    given: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def heads(self) -> int:
        return self.group * self.key_heads

    @property
    def rows(self) -> int:
        return sum(self.tails)

    @property
    def sweep(self) -> Sweep:
        return Sweep.of_tails(self.shared, self.tails, self.counted, self.spans)

    def inputs(self) -> list[torch.Tensor]:
        """Return query, key and perhaps sinks or LSE, leaves of autograd."""
        keys = self.shared + self.rows
        found = [
            randn(self.heads, self.rows, self.size, seed=1, dtype=self.dtype),
            randn(self.key_heads, keys, self.size, seed=2, dtype=self.dtype),
        ]
        if self.sinks:
            found.append(randn(self.heads, seed=3))
        if self.given:
            found.append(randn(self.heads, self.rows, seed=4).abs() + 4)
        return [x.requires_grad_() for x in found]

    def mask(self) -> torch.Tensor:
        keys = self.shared + self.rows
        first = [
            self.shared + sum(self.tails[:n]) for n, t in enumerate(self.tails) for _ in range(t)
        ]
        mask = sweep_mask(self.shared, first, range(self.shared, keys), keys)
        if self.window:
            places = torch.arange(keys, device=DEVICE)
            mask &= window_mask(places[self.shared :], places, self.window)
        return mask if self.only is None else mask & self.only

    @property
    def only(self) -> torch.Tensor | None:
        """The keys that count: those of documents, where only they do."""
        if not self.only_documents:
            return None
        keys = torch.zeros(self.shared + self.rows, dtype=torch.bool, device=DEVICE)
        for start, end in self.spans:
            keys[start:end] = True
        return keys

    def run(self, inputs: list[torch.Tensor], backend: Backend, **wanted: bool) -> Mass:
        places = torch.arange(self.shared + self.rows, device=DEVICE)
        query, key = inputs[:2]
        return column_mass(
            query,
            key,
            self.sweep,
            scale=self.size**-0.5,
            head_weights=None if self.weights is None else torch.tensor(self.weights),
            softcap=self.softcap,
            window=self.window,
            positions=places if self.window else None,
            row_positions=places[self.shared :] if self.window else None,
            sinks=inputs[2] if self.sinks else None,
            counted=self.only,
            lse=inputs[-1] if self.given else None,
            backend=backend,
            tokens=wanted.get("tokens", not wanted),
            by_head=wanted.get("by_head", not wanted),
            documents=wanted.get("documents", not wanted),
        )

    def found(self, inputs: list[torch.Tensor], backend: Backend) -> tuple[torch.Tensor, ...]:
        """Return tokens, heads, documents and the LSE of the heads that are read."""
        mass = self.run(inputs, backend)
        assert mass.tokens is not None
        assert mass.by_head is not None
        assert mass.documents is not None
        return mass.tokens, mass.by_head, mass.documents, mass.lse[list(mass.heads)]

    def oracle(self, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the same from dense masks, in the inputs' dtype."""
        query, key = inputs[:2]
        mask = self.mask()
        weights, lse = dense_softmax(
            query, key, mask, scale=self.size**-0.5, softcap=self.softcap,
            sinks=inputs[2] if self.sinks else None,
        )  # fmt: skip
        if self.given:
            # Weights over their own sum, times what the given LSE says that the sum is.
            weights = weights * torch.exp(lse - inputs[-1])[..., None]
            lse = inputs[-1]
        of_heads = self.weights or (1.0,) * self.heads
        read = [head for head, weight in enumerate(of_heads) if weight]
        start, means = 0, []
        for length, (first, end) in zip(self.tails, self.counted, strict=True):
            rows = weights[read, start + first : start + end, : self.shared]
            means.append(rows.mean(1) if first < end else rows.sum(1))
            start += length
        by_head = torch.stack(means, 1)
        chosen = torch.tensor([of_heads[head] for head in read]).to(by_head)
        tokens = (chosen[:, None, None] * by_head).sum(0)
        documents = torch.stack([by_head[..., a:b].sum(-1) for a, b in self.spans], -1)
        return tokens, by_head, documents, lse[read]


CASES = {
    "one key": Case(shared=1, tails=(1,), counted=((0, 1),), spans=((0, 1),)),
    "two tails": Case(group=3, size=24),
    "grouped heads": Case(group=4, key_heads=2, size=64, tails=(17,), counted=((16, 17),)),
    "softcap": Case(group=3, softcap=1.5),
    "sinks": Case(key_heads=2, sinks=True),
    "window": Case(group=4, window=40),
    "some heads": Case(group=3, key_heads=3, weights=(0, 0, 0, 0.5, 0, -2, 0, 1, 0)),
    "documents only": Case(group=3, only_documents=True),
    "a row that sees no document": Case(only_documents=True, window=5, spans=((3, 40),)),
    "given sums": Case(group=4, given=True, weights=(1, 0, 2, 3)),
    "a tail of which no row counts": Case(shared=63, spans=((0, 63),), counted=((3, 3), (0, 1))),
    "nothing shared": Case(shared=0, spans=((0, 0),)),
}


def with_gradients(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> list[Any]:
    """Return the outputs and the gradients of a sum in which no two elements weigh the same."""
    total = sum(
        (torch.where(x.isfinite(), x, 0).double() * randn(*x.shape, seed=9 + n).double()).sum()
        for n, x in enumerate(outputs)
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
        with_gradients(case.found(inputs, "torch"), inputs), exact(case), strict=True
    ):
        check(found, expected)


@pytest.mark.parametrize("given", [False, True])
def test_the_reference_passes_finite_differences(given: bool) -> None:
    case = Case(
        5, (3, 1), ((1, 3), (0, 1)), ((1, 3),), group=2, size=3, softcap=2.0, window=7,
        sinks=not given, given=given, weights=(1.0, 0.5),
    )  # fmt: skip
    inputs = [x.detach().double().requires_grad_() for x in case.inputs()]
    assert torch.autograd.gradcheck(lambda *leaves: case.found(list(leaves), "torch"), inputs)


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_dense_attention(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Walks of 32 or more are split, as those of thousands are.
    monkeypatch.setattr(layout, "_CHUNK", 32)
    case = CASES[name]
    inputs = case.inputs()
    for found, expected in zip(
        with_gradients(case.found(inputs, "triton"), inputs), exact(case), strict=True
    ):
        check(found, expected)


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_errs_at_most_twice_as_much_as_torch(dtype: torch.dtype) -> None:
    case = dataclasses.replace(CASES["two tails"], size=64, dtype=dtype)
    inputs = case.inputs()
    found = with_gradients(case.found(inputs, "triton"), inputs)
    same = with_gradients(case.oracle(inputs), inputs)
    for ours, torchs, expected in zip(found, same, exact(case), strict=True):
        check(ours, expected, torchs)
    assert [x.dtype for x in found] == [torch.float32] * 4 + [dtype] * 2


@pytest.mark.usefixtures("nan_empty", "triton")
def test_a_thousand_keys() -> None:
    case = Case(shared=1025, tails=(2,), counted=((0, 2),), spans=((0, 512), (512, 1025)), group=4)
    with torch.no_grad():
        inputs = case.inputs()
        wide = [x.double() for x in inputs]
        found = case.found(inputs, "triton")
        for ours, expected in zip(found, case.oracle(wide), strict=True):
            check(ours, expected)
    # All attention but that to the tail itself goes to one document or the other.
    assert bool((found[2].sum(-1) < 1).all())
    assert bool((found[2].sum(-1) > 0.9).all())


@pytest.mark.usefixtures("triton")
def test_documents_share_all_of_a_softmax_over_documents() -> None:
    mass = CASES["documents only"].run(CASES["documents only"].inputs(), "triton")
    assert mass.documents is not None
    assert torch.allclose(mass.documents.sum(-1), torch.ones(3, 2, device=DEVICE), atol=1e-6)


@pytest.mark.parametrize("backend", get_args(Backend))
@pytest.mark.usefixtures("nan_empty", "triton")
def test_a_row_that_sees_nothing_pays_nothing(backend: Backend) -> None:
    case = CASES["a row that sees no document"]
    tokens, by_head, documents, lse = case.found(case.inputs(), backend)
    assert not tokens.any()
    assert not by_head.any()
    assert not documents.any()
    assert bool((lse == -torch.inf).all())


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("wanted", ["tokens", "by_head", "documents"])
def test_one_output_alone_is_what_it_is_among_all(wanted: str) -> None:
    case = Case(shared=35, spans=((3, 20), (20, 35)), group=3, weights=(0, 1, 2))
    names = ("tokens", "by_head", "documents")
    alone = case.run(case.inputs(), "triton", **{name: name == wanted for name in names})
    among = case.run(case.inputs(), "triton")
    assert torch.equal(getattr(alone, wanted), getattr(among, wanted))
    assert [getattr(alone, name) is None for name in names] == [name != wanted for name in names]


@pytest.mark.usefixtures("nan_empty", "triton")
def test_heads_of_weight_0_are_not_read() -> None:
    case = CASES["some heads"]
    query, key = (x.detach() for x in case.inputs())
    # Whatever is in them changes nothing, as they are never loaded.
    query[[0, 1, 2, 4, 6, 8]] = torch.nan
    key[0] = torch.nan
    mass = case.run([query, key], "triton")
    assert mass.heads == (3, 5, 7)
    assert mass.tokens is not None
    check(mass.tokens, case.oracle([x.detach().double() for x in case.inputs()])[0])
    assert bool((mass.lse[[0, 1, 2, 4, 6, 8]] == torch.inf).all())


@pytest.mark.usefixtures("triton")
def test_three_runs_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "_CHUNK", 16)
    case = Case(shared=35, spans=((3, 20), (20, 35)), group=2, sinks=True)
    assert case.sweep.splits(2) == 2
    runs = []
    for _ in range(3):
        inputs = case.inputs()
        runs.append(with_gradients(case.found(inputs, "triton"), inputs))
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


@pytest.mark.usefixtures("nan_empty", "triton")
def test_inputs_may_be_views_and_stay_as_they_are() -> None:
    case = CASES["two tails"]
    inputs = [x.detach() for x in case.inputs()]
    views = [inputs[0].transpose(0, 1).contiguous().transpose(0, 1)]
    views += [torch.stack([inputs[1], inputs[1] + 1], -1)[..., 0]]
    assert not any(view.is_contiguous() for view in views)
    before = [view.clone() for view in views]
    found = with_gradients(case.found([x.requires_grad_() for x in views], "triton"), views)
    assert all(torch.equal(x, y) for x, y in zip(before, views, strict=True))
    for ours, expected in zip(found, exact(case), strict=True):
        check(ours, expected)


@pytest.mark.usefixtures("nan_empty", "triton")
@pytest.mark.parametrize("backend", get_args(Backend))
def test_sums_of_the_attention_pass_serve_the_mass_and_its_gradients(backend: Backend) -> None:
    """Prefix, documents and tails in one pass, whose LSE the mass takes: as if it found it."""
    ranges = ((0, 5, 0), (5, 30, 5), (30, 41, 5), (41, 50, 41), (50, 51, 41))
    sweep = Sweep.of_tails(41, (9, 1), ((2, 9), (0, 1)), ((5, 30), (30, 41)))
    found = []
    for reused in (True, False):
        query, key, value = (randn(n, 51, 16, seed=n).requires_grad_() for n in (3, 1, 1))
        attended = block_attention(query, key, value, Blocks(ranges), scale=0.25, backend=backend)
        mass = column_mass(
            query[:, 41:], key, sweep, scale=0.25, documents=True, backend=backend,
            lse=attended.lse[:, 41:] if reused else None,
        )  # fmt: skip
        assert mass.documents is not None
        found.append(with_gradients((mass.documents, attended.output), [query, key, value]))
    for once, twice in zip(*found, strict=True):
        check(once, twice.double())


@pytest.mark.usefixtures("triton")
def test_what_is_compiled_does_not_depend_on_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from ranklens.rerank.kernels import mass

    launches: list[dict[str, Any]] = []

    class Recorder:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **constants: launches.append(constants)

    monkeypatch.setattr(mass, "_mass_fwd_kernel", Recorder())
    sizes = [Case(group=4), Case(shared=200, tails=(30,), counted=((0, 30),), spans=(), group=4)]
    for case in sizes:
        case.run(case.inputs(), "triton")
    assert len(launches) == 2
    assert launches[0] == launches[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": (0, 1, 0)}, "rows of a group must be neighbours"),
        ({"last": (5, 6)}, "last has 2 rows, groups has 3"),
        ({"spans": ((0, 3), (2, 4))}, r"span \[2, 4\) overlaps another"),
        ({"spans": ((0, 6),)}, r"span \[0, 6\) .* leaves the shared keys, \[0, 5\)"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    sweep = Sweep.of_tails(5, (2, 1), ((0, 2), (0, 1)))
    with pytest.raises(UsageError, match=said):
        dataclasses.replace(sweep, **changes)
