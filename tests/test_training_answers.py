"""BlockRank's next-token loss on the answer, against transformers' own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.dense_training import DOCUMENTS, LIST, QUERIES, mask_of, positions_of, saved, tiny_engine
from torch import Tensor
from transformers import AutoModelForCausalLM

from ranklens.data.errors import InvalidInputError
from ranklens.rerank.engine import AttentionEngine
from ranklens.rerank.frames import Frame
from ranklens.rerank.profile import Profile
from ranklens.rerank.profile_file import load_profile
from ranklens.rerank.training.lists import TrainingList
from ranklens.rerank.training.objectives import parse_objective
from ranklens.rerank.training.student import Student

pytest_plugins = ["kernel_fixtures"]

ALONE = parse_objective("next-token")
BOTH = parse_objective("next-token + 0.1*infonce")
END = 2  # <|im_end|>


def blockrank(**prompt: Any) -> Profile:
    """Return the shipped profile with a layer and a frame that the tiny model has."""
    shipped = load_profile("blockrank")
    frame = Frame("chatml", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "")
    return dataclasses.replace(
        shipped,
        prompt=dataclasses.replace(shipped.prompt, **({"frame": frame} | prompt)),
        signal=dataclasses.replace(shipped.signal, layers=(0, 0)),
        made_with=None,
    )


SEVERAL = "Read the documents.\n\nDocuments:"
"""An introduction without the query, so that several queries share a pass."""


@pytest.fixture(scope="module", params=[False, True], ids=["own output", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tied: bool = request.param
    return saved(tmp_path_factory.mktemp("model"), tie_word_embeddings=tied)


@pytest.fixture
def engine(folder: Path) -> AttentionEngine:
    found = AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32")
    assert found.tokenizer.eos_token_id == END
    return found


def theirs(model: Any, student: Student, number: int, answer: str) -> Tensor:
    """Return the loss of transformers' language model on a query's answer, behind a dense mask."""
    query = QUERIES[number].text
    layout = student._prompts.build([query], DOCUMENTS, student.engine.context)
    tail = layout.tails[0].ids
    told = student.engine.tokenizer(answer)["input_ids"]
    ids = [*layout.shared, *tail, *told[1:], END]
    behind = len(ids) - len(layout.shared)
    mask = mask_of(layout, behind)
    bias = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    labels = torch.full((1, len(ids)), -100)
    labels[0, -len(told) - 1 :] = torch.tensor([*told, END])
    loss: Tensor = model(
        input_ids=torch.tensor([ids]),
        attention_mask=bias[None, None],
        position_ids=positions_of(layout, behind, student.profile.layout.tail_position)[None],
        labels=labels,
    ).loss
    return loss


@pytest.mark.parametrize("introduction", [None, SEVERAL], ids=["query first", "shared pass"])
def test_loss_and_gradients_are_those_of_a_causal_language_model(
    folder: Path, engine: AttentionEngine, introduction: str | None
) -> None:
    profile = blockrank(**({} if introduction is None else {"introduction": introduction}))
    student = Student(engine, profile, train_heads=False)
    order = student._orders(len(DOCUMENTS))[0]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    expected = []
    for number, relevant in enumerate(((0, 2), (1,))):
        named = ", ".join(str(slot) for slot, index in enumerate(order) if index in relevant)
        expected.append(theirs(model, student, number, f"[{named}]"))
    mean = torch.stack(expected).mean()

    loss = student.losses(LIST, ALONE)
    assert loss is not None
    assert loss.item() == pytest.approx(mean.item(), rel=1e-5)
    torch.autograd.backward([loss, mean])
    with torch.no_grad():
        ours, exact = dict(engine.model.named_parameters()), dict(model.named_parameters())
        for name, weight in ours.items():
            found, gradient = weight.grad, exact[f"model.{name}"].grad
            assert found is not None
            assert gradient is not None
            assert (found - gradient).abs().max() < 2e-4 * gradient.abs().max(), name


def test_gradients_reach_what_is_behind_the_reading_layer(engine: AttentionEngine) -> None:
    """With recomputed layers they are the same to the last bit."""
    found = []
    for checkpointing in (False, True):
        student = Student(engine, blockrank(), checkpointing=checkpointing, train_heads=False)
        loss = student.losses(LIST, BOTH)
        assert loss is not None
        named = dict(engine.model.named_parameters())
        gradients = torch.autograd.grad(loss, list(named.values()))
        found.append(dict(zip(named, gradients, strict=True)))
    assert all(bool(gradient.any()) for gradient in found[0].values())
    assert all(torch.equal(found[1][name], gradient) for name, gradient in found[0].items())
    tied = engine.config.tie_word_embeddings
    assert student._output.weight.requires_grad is tied


def test_the_answer_changes_nothing_of_what_is_read(engine: AttentionEngine) -> None:
    student = Student(engine, blockrank(introduction=SEVERAL), train_heads=False)
    infonce = parse_objective("0.1*infonce")
    with torch.no_grad():
        plain = student.scores([query.text for query in QUERIES], DOCUMENTS)
        read = student._with_answers(LIST)
        parts = [student.losses(LIST, objective) for objective in (ALONE, infonce, BOTH)]
    scores = torch.stack([row for row, _ in read])
    assert scores.std() > 1e-3
    # BlockRank's S is a distribution over the documents.
    torch.testing.assert_close(scores.sum(1), torch.ones(3))
    torch.testing.assert_close(scores, plain, rtol=1e-5, atol=1e-7)
    assert [told is None for _, told in read] == [False, False, True]
    tokens, attention, both = (0.0 if part is None else part.item() for part in parts)
    assert both == pytest.approx(tokens + attention, rel=1e-5)


def test_kernels_find_the_same(folder: Path, triton: Any) -> None:
    losses = []
    for backend in ("torch", "triton"):
        engine = AttentionEngine.from_pretrained(
            folder, device="cpu", dtype="float32", backend=backend
        )
        profile = blockrank(introduction="x", instruction="seek", query_label="")
        with torch.no_grad():
            loss = Student(engine, profile, train_heads=False).losses(
                TrainingList(DOCUMENTS[1:2], (dataclasses.replace(
                    QUERIES[1], grades=(1,), teachers={}),)), ALONE
            )  # fmt: skip
        assert loss is not None
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_queries_without_relevant_documents_have_no_answer(engine: AttentionEngine) -> None:
    student = Student(engine, blockrank(), train_heads=False)
    unjudged = TrainingList(DOCUMENTS, QUERIES[2:])
    assert student.losses(unjudged, BOTH) is None


def test_missing_layers_and_embeddings_are_named(folder: Path) -> None:
    shortened = AttentionEngine.from_pretrained(folder, device="cpu", dtype="float32", layers=1)
    with pytest.raises(InvalidInputError, match=r"needs all 2 layers .* 1 are loaded"):
        Student(shortened, blockrank(), train_heads=False).losses(LIST, ALONE)
    near = dataclasses.replace(
        blockrank(), layout=dataclasses.replace(blockrank().layout, tail_position=1000)
    )
    with pytest.raises(InvalidInputError, match=r"no safetensors file with 'lm_head.weight'"):
        Student(tiny_engine(torch.float32), near, train_heads=False).losses(LIST, ALONE)


def test_profiles_whose_documents_have_no_numbers_are_refused(engine: AttentionEngine) -> None:
    plain = load_profile("icr-block")
    with pytest.raises(InvalidInputError, match=r"put {number} into prompt\.marker"):
        Student(engine, plain, train_heads=False).losses(LIST, ALONE)
    blocks = blockrank().prompt.blocks
    assert blocks is not None
    other = blockrank(blocks=dataclasses.replace(blocks, completion="Relevant: "))
    with pytest.raises(InvalidInputError, match="'Relevant: '"):
        Student(engine, other, train_heads=False).losses(LIST, ALONE)


@pytest.mark.parametrize(
    ("family", "changes", "option"),
    [
        ("granite", {"logits_scaling": 4.0}, "factor"),
        ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8}, "softcap"),
    ],
)
def test_logits_are_scaled_and_capped_as_the_family_does(
    family: str, changes: dict[str, Any], option: str
) -> None:
    from tests.tiny_decoder import SIZES
    from transformers import AutoConfig

    from ranklens.rerank.training.answers import output_embeddings

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family, **SIZES, vocab_size=50, tie_word_embeddings=True, **changes
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    told = torch.tensor([3, 5, 7])
    with torch.no_grad():
        states = model.model(told[None]).last_hidden_state[0]
        logits = model(told[None]).logits[0]
    stand_in: Any = type("Engine", (), {"model": model.model, "config": config})
    found = output_embeddings(stand_in)
    assert getattr(found, option) not in (None, 1.0)
    expected = torch.nn.functional.cross_entropy(logits, told, reduction="none")
    torch.testing.assert_close(found.losses(states, told.tolist()), expected)
