"""The exactness of training: gradients and losses against dense passes, kernels and other ways."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from tests.dense_training import (
    DOCUMENTS,
    LIST,
    QUERIES,
    distilled,
    graded,
    mask_of,
    scores,
    tiny_engine,
)
from torch import Tensor

from ranklens.data.errors import InvalidInputError, NumericalError
from ranklens.data.records import Document
from ranklens.rerank import attention
from ranklens.rerank.attention import AttentionRun, branch_attention
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.kernels.dispatch import Backend
from ranklens.rerank.plan import SignalPlan
from ranklens.rerank.profile import (
    CalibrationChoice,
    LayoutChoice,
    PoolingChoice,
    Profile,
)
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.prompt import PromptLayout, Tail
from ranklens.rerank.training.lists import TrainingList, TrainingQuery
from ranklens.rerank.training.objectives import parse_objective
from ranklens.rerank.training.student import Student, Weights

pytest_plugins = ["kernel_fixtures"]

BLOCK = load_profile("icr-block")
OBJECTIVE = parse_objective("graded + 0.5*kl(t, 0.3)")
HEADS = {"0-1": 0.7, "0-2": -1.3, "1-0": 2.0, "1-3": 0.4}
LINEAR = PoolingChoice(None, "sum")


def profile(
    signal: dict[str, Any] | None = None,
    calibration: CalibrationChoice | None = None,
    pooling: PoolingChoice = LINEAR,
    **changes: Any,
) -> Profile:
    """Return the block profile that keeps heads apart, with changes."""
    chosen = {"combine": "documents", "heads": HEADS, "layers": None} | (signal or {})
    return dataclasses.replace(
        BLOCK,
        signal=dataclasses.replace(BLOCK.signal, **chosen),
        calibration=calibration or CalibrationChoice(()),
        pooling=pooling,
        **changes,
    )


PROFILES = {
    "log": profile(pooling=PoolingChoice(None, "sum", scale="log")),
    "difference": profile(calibration=CalibrationChoice(("N/A",))),
    "log-ratio": profile(calibration=CalibrationChoice(("N/A", "x"), 0.3, "log-ratio")),
    "documents": profile({"rows": "last-two", "over": "documents", "heads": None}),
    "without-sink": profile({"over": "without-sink", "rows": "query"}),
    "causal": profile(calibration=CalibrationChoice(("N/A",)), layout=LayoutChoice()),
    "far": profile(layout=LayoutChoice("block", "shared", 300)),
}


@pytest.fixture(scope="module")
def engine() -> AttentionEngine:
    return tiny_engine()


@pytest.fixture
def single() -> AttentionEngine:
    return tiny_engine(torch.float32)


def gradients(loss: Tensor, student: Student) -> dict[str, Tensor]:
    """Return the gradient of every parameter that has one."""
    named = dict(student.engine.model.named_parameters()) | {"heads": student.head_weights}
    named = {name: weight for name, weight in named.items() if weight.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if grad is None else grad
        for (name, weight), grad in zip(named.items(), found, strict=True)
    }


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare each parameter's gradient by the largest difference over its largest value."""
    assert found.keys() == expected.keys()
    largest = max(float(grad.abs().max()) for grad in expected.values())
    assert largest > 1e-3
    for name, grad in expected.items():
        scale = float(grad.abs().max())
        if scale < 1e-9 * largest:
            assert float(found[name].abs().max()) < 1e-9 * largest, name
            continue
        assert float((found[name] - grad).abs().max()) / scale < tolerance, name


def dense_loss(student: Student, start: int | None) -> Tensor:
    layout = student._prompts.build([q.text for q in QUERIES], DOCUMENTS, student.engine.context)
    found = scores(student.engine.model, layout, student.profile, student.head_weights, start)
    each = [
        graded(row, query) + 0.5 * distilled(row, query, 0.3) if query.grades else
        0.5 * distilled(row, query, 0.3)
        for row, query in zip(found, QUERIES, strict=True)
    ]  # fmt: skip
    return torch.stack(each).mean()


@pytest.mark.parametrize("name", PROFILES)
def test_all_weights_have_the_gradients_of_a_dense_pass(engine: AttentionEngine, name: str) -> None:
    student = Student(engine, PROFILES[name])
    loss = student.losses(LIST, OBJECTIVE)
    assert loss is not None
    assert loss.dtype == torch.float64
    expected = dense_loss(student, PROFILES[name].layout.tail_position)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    compare(gradients(loss, student), gradients(expected, student), 1e-9)


def with_lora(engine: AttentionEngine) -> None:
    """Put adapters into an engine's model whose product is not 0, as it is at the start."""
    import peft

    for weight in engine.model.parameters():
        weight.requires_grad_(False)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=2, lora_alpha=6, target_modules=targets), engine.model
    )
    torch.manual_seed(5)
    for name, weight in engine.model.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn(weight.shape, dtype=weight.dtype)


def test_adapters_have_the_gradients_of_a_dense_pass() -> None:
    engine = tiny_engine()
    with_lora(engine)
    engine.model.double()
    student = Student(engine, PROFILES["log"])
    loss = student.losses(LIST, OBJECTIVE)
    assert loss is not None
    found = gradients(loss, student)
    assert len(found) == 1 + 2 * 7 * 2
    expected = dense_loss(student, None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    compare(found, gradients(expected, student), 1e-9)


def test_ranking_with_adapters_is_that_of_the_student(single: AttentionEngine) -> None:
    student = Student(single, PROFILES["log"])
    with torch.no_grad():
        before = student.scores(["cell"], DOCUMENTS)[0]
        with_lora(single)
        found = student.scores(["cell"], DOCUMENTS)[0]
    assert (found - before).abs().max() > 1e-2
    ranking = AttentionReranker(single, PROFILES["log"]).rank("cell", DOCUMENTS)
    expected = sorted((document.index, document.score) for document in ranking)
    assert found.tolist() == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("name", ["log", "log-ratio", "causal"])
def test_queries_of_one_pass_are_those_of_passes_of_their_own(
    engine: AttentionEngine, name: str
) -> None:
    student = Student(engine, PROFILES[name])
    together = student.losses(LIST, OBJECTIVE)
    alone = [student.losses(TrainingList(DOCUMENTS, (query,)), OBJECTIVE) for query in QUERIES]
    assert together is not None
    assert all(loss is not None for loss in alone)
    mean = torch.stack([loss for loss in alone if loss is not None]).mean()
    assert together.item() == pytest.approx(mean.item(), rel=1e-12)
    compare(gradients(together, student), gradients(mean, student), 1e-9)


def test_equal_queries_and_one_that_is_the_null_query(engine: AttentionEngine) -> None:
    student = Student(engine, PROFILES["difference"])
    with torch.no_grad():
        found = student.scores(["cell", "N/A", "cell"], DOCUMENTS)
    assert torch.equal(found[0], found[2])
    assert not found[1].any()
    assert found[0].any()


def test_documents_at_moved_places_have_gradients(engine: AttentionEngine) -> None:
    """A step along the gradient changes the loss as the gradient says."""
    moved = profile(layout=LayoutChoice("block", "moved"))
    student = Student(engine, moved)
    weight = engine.model.layers[0].self_attn.k_proj.weight

    def loss() -> Tensor:
        found = student.losses(LIST, OBJECTIVE)
        assert found is not None
        return found

    (slope,) = torch.autograd.grad(loss(), [weight])
    step = 1e-5 * slope / slope.norm()
    with torch.no_grad():
        weight += step
        above = loss()
        weight -= 2 * step
        below = loss()
        weight += step
    assert float((above - below) / 2e-5) == pytest.approx(float(slope.norm()), rel=1e-6)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("option", ["window", "softcap", "sinks"])
def test_other_softmaxes_have_the_gradients_of_a_dense_one(option: str, blocked: bool) -> None:
    shared, prefix, documents, tail = 20, 4, ((4, 11), (11, 20)), Tail([90, 91, 92], (1, 3))
    positions = (*range(prefix), *(prefix + n for a, b in documents for n in range(b - a)))
    layout = PromptLayout(list(range(shared)), (tail,), 1, documents, (0, 0))
    if blocked:
        layout = dataclasses.replace(layout, blocks=documents, positions=positions, tail_start=13)
    plan = SignalPlan({0: {1: 1.0, 2: 1.0}, 1: {0: 1.0}}, "weights", "all-keys", True)
    run = AttentionRun(layout, plan, torch.device("cpu"), dtype=torch.float64)
    torch.manual_seed(1)
    length = shared + len(tail.ids)
    made = [torch.randn(1, n, length, 8, dtype=torch.float64) for n in (4, 2, 2)]
    query, key, value = (part.requires_grad_() for part in made)
    sinks = torch.randn(4, dtype=torch.float64).requires_grad_()
    window, softcap = (9 if option == "window" else None), (1.5 if option == "softcap" else None)
    layer: Any = SimpleNamespace(layer_idx=0, is_causal=True)
    output, _ = branch_attention(
        layer, query, key, value, None, 0.4, sliding_window=window, attention_run=run,
        softcap=softcap, s_aux=sinks if option == "sinks" else None,
    )  # fmt: skip

    at = torch.arange(length)
    if blocked:
        at = torch.tensor([*positions, 13, 14, 15])
    mask = mask_of(layout, len(tail.ids))
    if window is not None:
        mask &= at[:, None] - at < window
    logits = query[0] @ key[0].repeat_interleave(2, 0).transpose(1, 2) * 0.4
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    logits = torch.where(mask, logits, -torch.inf)
    sink = sinks[:, None, None].expand(-1, length, 1)
    logits = torch.cat([logits, sink if option == "sinks" else sink.detach() - torch.inf], -1)
    weights = logits.softmax(-1)[..., :length]
    dense = (weights @ value[0].repeat_interleave(2, 0)).transpose(0, 1)[None]
    paid = weights[1:3, shared + 1 : shared + 3, :shared].mean(1)

    torch.testing.assert_close(output, dense, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(run.mass[0][:, 0], paid, rtol=1e-10, atol=1e-12)
    assert run.mass[0].dtype == torch.float64
    torch.manual_seed(2)
    of_output, of_mass = torch.randn_like(output), torch.randn_like(paid)
    inputs = [query, key, value, *([sinks] if option == "sinks" else [])]
    found = torch.autograd.grad(
        (output * of_output).sum() + (run.mass[0][:, 0] * of_mass).sum(), inputs
    )
    expected = torch.autograd.grad((dense * of_output).sum() + (paid * of_mass).sum(), inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("name", ["log", "documents", "causal"])
def test_kernels_have_the_gradients_of_torch(single: AttentionEngine, name: str) -> None:
    # The interpreter takes a millisecond for what a GPU does in one: few words.
    words = dataclasses.replace(BLOCK.prompt, introduction="", marker="", instruction="seek")
    chosen = dataclasses.replace(PROFILES[name], prompt=words)
    documents = (Document("a", "a cell"), Document("b", "Berlin"), Document("c", ""))
    asked = [
        TrainingQuery("1", "cell", (0, 1, None), {"t": (0.1, 0.9, 0.2)}),
        TrainingQuery("2", "Paris", (1, 0, 0), {"t": (0.5, 0.1, 0.3)}),
    ]
    briefly = TrainingList(documents, tuple(asked))
    found = {}
    for backend in get_args(Backend):
        single.backend = backend
        student = Student(single, chosen)
        loss = student.losses(briefly, OBJECTIVE)
        assert loss is not None
        found[backend] = {"loss": loss.detach(), **gradients(loss, student)}
    compare(found["triton"], found["torch"], 1e-4)


@pytest.mark.parametrize("room", [2**22, 1])
@pytest.mark.parametrize("name", ["log", "causal"])
def test_recomputed_layers_change_no_bit(
    single: AttentionEngine, monkeypatch: pytest.MonkeyPatch, name: str, room: int
) -> None:
    """With little room a layer's heads are read in several steps, each recorded on its own."""
    monkeypatch.setattr(attention, "_ROOM", room)
    if room == 1:
        with_lora(single)
    results = []
    for checkpointing in (False, True):
        student = Student(single, PROFILES[name], checkpointing=checkpointing)
        loss = student.losses(LIST, OBJECTIVE)
        assert loss is not None
        results.append({"loss": loss.detach(), **gradients(loss, student)})
    plain, again = results
    assert plain["heads"].abs().min() > 0
    for name_of, grad in plain.items():
        assert torch.equal(again[name_of], grad), name_of
    assert not any("forward" in vars(layer) for layer in single.model.layers)


def test_recomputed_layers_keep_less(single: AttentionEngine) -> None:
    kept = {}
    for checkpointing in (False, True):
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        student = Student(single, PROFILES["log"], checkpointing=checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = student.losses(LIST, OBJECTIVE)
        assert loss is not None
        torch.autograd.backward(loss)
        kept[checkpointing] = sum(sizes.values())
    # One of two layers is computed again; weights are counted either way.
    assert kept[True] < 0.7 * kept[False]


def test_recomputing_records_nothing_twice(
    single: AttentionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    original = Student._run

    def kept(self: Student, layout: PromptLayout, *, to_the_end: bool) -> AttentionRun:
        runs.append(original(self, layout, to_the_end=to_the_end))
        return runs[-1]

    monkeypatch.setattr(Student, "_run", kept)
    student = Student(single, PROFILES["log"], checkpointing=True)
    loss = student.losses(LIST, OBJECTIVE)
    assert loss is not None
    before = {layer: mass.clone() for layer, mass in runs[0].mass.items()}
    torch.autograd.backward(loss)
    assert len(runs) == 1
    assert runs[0].mass.keys() == before.keys()
    for layer, mass in before.items():
        assert mass.shape[0] == 2
        assert torch.equal(runs[0].mass[layer], mass)


SHIPPED = ("icr", "icr-block", "blockrank", "attention-sorting", "smollm2-135m-block")


def of_tiny(name: str) -> Profile:
    """Return a shipped profile with a layer, heads and a place that a tiny model has."""
    shipped = load_profile(name)
    signal = shipped.signal
    if signal.layers is not None:
        signal = dataclasses.replace(signal, layers=(1, 1))
    if signal.heads is not None:
        few = {head: weight for head, weight in signal.heads.items() if head in HEADS}
        signal = dataclasses.replace(signal, heads=few)
    layout = shipped.layout
    if layout.tail_position is not None:
        layout = dataclasses.replace(layout, tail_position=1000)
    return dataclasses.replace(shipped, signal=signal, layout=layout, made_with=None)


@pytest.mark.parametrize("name", SHIPPED)
def test_scores_are_those_of_ranking(single: AttentionEngine, name: str) -> None:
    chosen = of_tiny(name)
    student = Student(single, chosen, train_heads=False)
    texts = [query.text for query in QUERIES]
    with torch.no_grad():
        found = student.scores(texts, DOCUMENTS)
    rankings = AttentionReranker(single, chosen).rank_queries(texts, DOCUMENTS)
    for row, ranking in zip(found, rankings, strict=True):
        expected = torch.zeros(len(DOCUMENTS), dtype=torch.float64)
        for document in ranking:
            expected[document.index] = document.score
        assert expected.std() > 1e-4
        torch.testing.assert_close(row.double(), expected, rtol=2e-5, atol=2e-6)


POOLINGS = {
    "mean": PoolingChoice(None, "mean"),
    "length": PoolingChoice(None, "sum", length_exponent=0.5),
    "idf": PoolingChoice(None, "sum", idf=True),
    "filter": PoolingChoice(1.0, "sum"),
    "top": PoolingChoice(None, "top-k-mean", 3),
    "entropy": PoolingChoice(None, "sum", entropy=0.5),
}


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling_is_that_of_ranking(engine: AttentionEngine, name: str) -> None:
    temperature = CalibrationChoice(("N/A",), temperature=0.5 if name == "mean" else None)
    chosen = profile(calibration=temperature, pooling=POOLINGS[name])
    student = Student(engine, chosen)
    with torch.no_grad():
        found = student.scores(["capital of france"], DOCUMENTS)[0]
    ranking = AttentionReranker(engine, chosen).rank("capital of france", DOCUMENTS)
    expected = sorted((document.index, document.score) for document in ranking)
    assert [float(score) for score in found] == pytest.approx(
        [score for _, score in expected], rel=1e-5, abs=1e-7
    )


def test_orders_are_averaged_as_in_ranking(single: AttentionEngine) -> None:
    sorting = load_profile("attention-sorting")
    order = dataclasses.replace(sorting.prompt.order, arrange="shuffled", permutations=2)
    chosen = dataclasses.replace(sorting, prompt=dataclasses.replace(sorting.prompt, order=order))
    with torch.no_grad():
        found = Student(single, chosen, train_heads=False).scores(["cell"], DOCUMENTS)[0]
    ranking = AttentionReranker(single, chosen).rank("cell", DOCUMENTS)
    expected = sorted((document.index, document.score) for document in ranking)
    assert found.tolist() == pytest.approx([score for _, score in expected], rel=1e-4)


def test_a_document_without_attention_is_last_and_moves_nothing(engine: AttentionEngine) -> None:
    """Weights that add up to less than 0 would put the logarithm of nothing first."""
    student = Student(engine, PROFILES["log"])
    with torch.no_grad():
        student.head_weights.copy_(torch.tensor([-1.0, -1.0, 0.5, 0.5]))
    layout = student._prompts.build(["capital of france", "cell"], DOCUMENTS, 4000)
    empty = (layout.spans[3][0],) * 2
    scores = student.scores_of(dataclasses.replace(layout, spans=(*layout.spans[:3], empty)))
    assert torch.equal(scores[:, 3], scores[:, :3].amin(1))
    weight = engine.model.layers[0].self_attn.k_proj.weight
    (slope,) = torch.autograd.grad(scores[:, :3].sum(), [weight], retain_graph=True)
    assert slope.any()
    (slope,) = torch.autograd.grad(scores[:, 3].sum(), [weight])
    assert not slope.any(), "nothing is to be had from it"


def test_heads_summed_by_token_are_refused_for_training() -> None:
    engine: Any = None
    with pytest.raises(InvalidInputError, match="train_heads=False"):
        Student(engine, BLOCK)
    rollout = dataclasses.replace(BLOCK.signal, values="rollout")
    with pytest.raises(InvalidInputError, match="rollout"):
        Student(engine, dataclasses.replace(BLOCK, signal=rollout), train_heads=False)


def test_trained_profile_ranks_as_the_student(single: AttentionEngine) -> None:
    student = Student(single, PROFILES["documents"])
    with torch.no_grad():
        student.head_weights.add_(0.1 * torch.arange(len(student.head_weights)))
        found = student.scores(["capital"], DOCUMENTS)[0]
    trained = student.trained_profile("mine")
    heads = trained.signal.heads
    assert heads is not None
    weights = [heads[f"{layer}-{head}"] for layer, head in student.plan.heads]
    assert torch.equal(torch.tensor(weights), student.head_weights.detach())
    ranking = AttentionReranker(single, trained).rank("capital", DOCUMENTS)
    expected = sorted((document.index, document.score) for document in ranking)
    assert found.tolist() == pytest.approx([score for _, score in expected], rel=1e-5)


def test_a_loss_that_is_no_number_names_the_query(single: AttentionEngine) -> None:
    student = Student(single, PROFILES["log"])
    with torch.no_grad():
        student.head_weights[0] = torch.nan
    with pytest.raises(NumericalError, match=r"'q1' is nan"):
        student.losses(LIST, OBJECTIVE)


def test_queries_without_a_say_have_no_part(single: AttentionEngine) -> None:
    student = Student(single, PROFILES["log"])
    graded_only = parse_objective("graded")
    assert student.losses(TrainingList(DOCUMENTS, QUERIES[2:]), graded_only) is None
    with torch.no_grad():
        both = student.losses(TrainingList(DOCUMENTS, QUERIES[1:]), graded_only)
        one = student.losses(TrainingList(DOCUMENTS, QUERIES[1:2]), graded_only)
    assert both is not None
    assert one is not None
    assert both.item() == pytest.approx(one.item(), rel=1e-5)


def test_prompts_beyond_the_context_are_refused(single: AttentionEngine) -> None:
    student = Student(single, PROFILES["log"])
    with pytest.raises(InvalidInputError, match="context"):
        student.scores(["word " * 5000], [Document("d", "text")])


def test_copies_keep_updates_that_bfloat16_loses() -> None:
    own = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    lost = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    weights = Weights([("w", own)])
    steps = torch.optim.SGD(weights.copies.values(), lr=1e-3)
    direct = torch.optim.SGD([lost], lr=1e-3)
    for _ in range(16):
        own.grad = torch.ones(4, dtype=torch.bfloat16)
        lost.grad = torch.ones(4, dtype=torch.bfloat16)
        weights.collect()
        assert own.grad is None
        steps.step()
        steps.zero_grad()
        weights.publish()
        direct.step()
    assert weights.copies["w"].tolist() == pytest.approx([0.984] * 4)
    assert own.tolist() == [0.984375] * 4
    assert lost.tolist() == [1.0] * 4


def test_gradients_of_several_passes_are_added_up_in_fp32() -> None:
    own = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    weights = Weights([("w", own)])
    for value in (256.0, 1.0, 1.0):
        own.grad = torch.full((1,), value, dtype=torch.bfloat16)
        weights.collect()
    assert weights.copies["w"].grad is not None
    assert weights.copies["w"].grad.tolist() == [258.0]
    whole = torch.nn.Parameter(torch.zeros(1))
    tied = Weights([("a", whole), ("b", whole)])
    assert list(tied.copies) == ["a"]
    assert tied.copies["a"] is whole
