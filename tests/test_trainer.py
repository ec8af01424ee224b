"""Training end to end on a task a tiny decoder can learn, and what each part of it promises."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("peft", reason="the extra train is not installed")

import torch
from tests.word_task import (
    held_out_words,
    settings_of,
    trainer_in,
    word_list,
    word_lists,
)

from ranklens.data.errors import InvalidInputError, NumericalError, UsageError
from ranklens.data.models import resolve
from ranklens.data.work_folder import OtherSettingsError
from ranklens.rerank.attention_reranker import AttentionReranker
from ranklens.rerank.training.checkpoint import open_training_folder
from ranklens.rerank.training.curve import Curve, curve_picture, means, read_curve
from ranklens.rerank.training.export import Provenance, export
from ranklens.rerank.training.order import epoch_order, shuffled, visited
from ranklens.rerank.training.settings import Schedule
from ranklens.rerank.training.trainer import HEADS, Step, Trainer, highest_layer
from ranklens.rerank.training.validation import HeldOut, Validation

pytest_plugins = ["word_fixtures"]

MANIFEST = {
    "counts": {"documents": 5, "lists": 1, "queries": 4},
    "collections": [{"name": "words", "origin": "made up <b>here</b>\n# not a heading"}],
}


@pytest.mark.parametrize(
    ("changes", "reached"),
    [({"steps": 160}, 0.97), ({"steps": 100, "lora": 16, "learning_rate": 2e-2}, 0.9)],
    ids=["all-weights", "lora"],
)
def test_a_tiny_decoder_learns_to_point_at_the_word(
    base: Path, tmp_path: Path, changes: dict[str, Any], reached: float
) -> None:
    held_out = held_out_words(20)
    settings = settings_of(base, validation=held_out.digest, validate_every=40, **changes)
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings, lists=200, held_out=held_out, save_every=50)
        events: list[Step | Validation] = []
        trainer.run(events.append)
        manifest = export(
            folder.model,
            trainer,
            Provenance(resolve(str(base)), MANIFEST),
            held_out=held_out,
            dtype="float32",
        )
    losses = [event.loss for event in events if isinstance(event, Step)]
    first, last = losses[:10], losses[-10:]
    assert sum(last) < 0.5 * sum(first), "the loss falls"
    # A relevant document in one of five places, each as likely, has 0.59.
    before, *_, after = trainer.validations
    assert before.ndcg < 0.75
    assert after.ndcg > reached
    assert trainer.best is not None
    assert manifest["figures"]["held-out nDCG@10"] == trainer.best.ndcg, "fp32 loses nothing"

    model = folder.model
    reranker = AttentionReranker.from_pretrained(model, device="cpu", dtype="float32")
    assert reranker.engine.config.num_hidden_layers == 1, "nothing behind the layer that is read"
    part = held_out.lists[0]
    with torch.no_grad():
        scores = trainer.student.scores([query.text for query in part.queries], part.documents)
    for row, query in zip(scores, part.queries, strict=True):
        ranking = reranker.rank(query.text, part.documents)
        found = {ranked.index: ranked.score for ranked in ranking}
        assert [found[place] for place in range(len(row))] == pytest.approx(row.tolist(), rel=1e-4)
        assert ranking[0].index == int(row.argmax())

    card = (model / "README.md").read_text()
    assert "\\<b\\>here\\</b\\> \\# not a heading" in card, "one line, and no markup"
    assert f"| held\\-out nDCG@10 | {trainer.best.ndcg:.4f} |" in card
    written = json.loads((model / "training.json").read_text())
    assert written == manifest
    assert written["settings"]["revision"] == resolve(str(base)).revision
    assert written["lists"] == MANIFEST


def test_bf16_steps_on_copies_in_fp32(base: Path, tmp_path: Path) -> None:
    settings = settings_of(base, dtype="bfloat16", learning_rate=1e-5, steps=3)
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings)
        before = {name: copy.detach().clone() for name, copy in trainer.weights.copies.items()}
        trainer.run()
    moved = {n for n, own in before.items() if not torch.equal(trainer.weights.copies[n], own)}
    # Behind the attention of the last layer read nothing is reached.
    reached = {name for name in before if "q_proj" in name or "k_proj" in name}
    assert reached
    assert reached <= moved
    for name, own in trainer.weights.named.items():
        assert own.dtype == torch.bfloat16
        assert torch.equal(own, trainer.weights.copies[name].bfloat16()), name
    stuck = [
        (own == before[name].bfloat16()) & (trainer.weights.copies[name] != before[name])
        for name, own in trainer.weights.named.items()
    ]
    assert any(bool(weights.any()) for weights in stuck), "steps that bf16 alone would have lost"


def test_accumulated_lists_are_one_step(base: Path, tmp_path: Path) -> None:
    """Two lists in a step have the mean of their gradients, whatever the order of summation."""
    settings = settings_of(base, accumulate=2, steps=1, clip=1e9)
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings)
        alone = []
        for visit in range(2):
            number = visited(visit, 40, settings.seed)
            part = shuffled(word_lists(40, "train")[number], settings.seed, visit)
            loss = trainer.student.losses(part, trainer.objective)
            assert loss is not None
            found = torch.autograd.grad(loss, list(trainer.parameters.values()), allow_unused=True)
            alone.append((loss.item(), found))
        events: list[Step | Validation] = []
        trainer.run(events.append)
    (step,) = events
    assert isinstance(step, Step)
    assert step.loss == pytest.approx((alone[0][0] + alone[1][0]) / 2)
    assert (step.queries, step.documents, step.skipped) == (8, 10, 0)
    squares = 0.0
    for one, two, own in zip(alone[0][1], alone[1][1], trainer.parameters.values(), strict=True):
        if one is None:
            assert own.grad is None, "what does not take part has no gradient"
            continue
        assert own.grad is not None
        torch.testing.assert_close(own.grad, (one + two) / 2)
        squares += float(own.grad.square().sum())
    assert step.norm == pytest.approx(math.sqrt(squares))


def test_the_norm_of_gradients_is_bounded(base: Path, tmp_path: Path) -> None:
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings_of(base, clip=1e-3, steps=1))
        trainer.run()
    grads = [own.grad for own in trainer.parameters.values() if own.grad is not None]
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


def test_head_weights_without_a_rate_stay(base: Path, tmp_path: Path) -> None:
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings_of(base, head_learning_rate=0.0, steps=2))
        trainer.run()
    assert HEADS not in trainer.parameters
    assert trainer.student.head_weights.tolist() == [0.25] * 4


def test_the_best_weights_are_what_remains_and_patience_ends(base: Path, tmp_path: Path) -> None:
    held_out = held_out_words(4)
    # After two good steps the rate is far too high.
    settings = settings_of(
        base, validation=held_out.digest, validate_every=1, patience=3, steps=30,
        learning_rate=3.0, schedule=Schedule("constant", 30), accumulate=1,
    )  # fmt: skip
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings, held_out=held_out)
        trainer.run()
        assert trainer.stopped_early
        assert trainer.best is not None
        assert trainer.step == trainer.best.step + 3 < 30
        again = held_out.validate(trainer.student, trainer.objective, trainer.best.step)
        assert again == trainer.best, "the student has the weights of the best step"
        curve = read_curve(folder.curve_file)
    assert [step for step, _ in curve.losses] == list(range(1, trainer.step + 1))
    assert max(value for _, value in curve.ndcg) == trainer.best.ndcg


def _poisoned(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, at: str) -> None:
    """Make the third step's loss, or one gradient of it, NaN."""
    real = trainer.student.losses

    def losses(*arguments: Any) -> Any:
        loss: Any = real(*arguments)
        if loss is None or trainer.step != 2:
            return loss
        if at == "loss":
            raise NumericalError("the loss of query 'q' is nan")
        loss.register_hook(lambda grad: grad * math.nan)
        return loss

    monkeypatch.setattr(trainer.student, "losses", losses)


@pytest.mark.parametrize(
    ("at", "said"), [("loss", "the loss of query 'q' is nan"), ("gradient", "a gradient is NaN")]
)
def test_numbers_gone_wrong_name_step_and_list_and_leave_the_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, said: str
) -> None:
    settings = settings_of(base, accumulate=1)
    number = visited(2, 40, settings.seed) + 1
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings)
        _poisoned(monkeypatch, trainer, at)
        with pytest.raises(NumericalError, match=f"step 3, list {number} of 40: ") as caught:
            trainer.run()
        assert said in str(caught.value)
        assert "the checkpoint of step 2 is kept" in str(caught.value)
        again = trainer_in(folder, base, settings)
        assert again.step == 2
        for name, own in again.parameters.items():
            assert torch.equal(own, trainer.parameters[name]), name


def test_weights_that_are_not_finite_are_never_saved(base: Path, tmp_path: Path) -> None:
    with open_training_folder(tmp_path / "out") as folder:
        trainer = trainer_in(folder, base, settings_of(base), save_every=1)

        def spoil(event: Step | Validation) -> None:
            if event.step == 2:
                next(iter(trainer.parameters.values())).data.fill_(math.inf)

        with pytest.raises(NumericalError, match=r"after step 2 .* holds NaN or infinite"):
            trainer.run(spoil)
        assert trainer_in(folder, base, settings_of(base)).step == 1


def test_lists_that_say_nothing_are_passed_over_or_refused(base: Path, tmp_path: Path) -> None:
    part = word_list(0, "train")
    mute = dataclasses.replace(
        part, queries=tuple(dataclasses.replace(q, grades=None) for q in part.queries)
    )
    settings = settings_of(base, steps=2, accumulate=1)
    events: list[Step | Validation] = []
    with open_training_folder(tmp_path / "some") as folder:
        trainer = trainer_in(folder, base, settings)
        trainer._lists = [mute, part]
        trainer.run(events.append)
    assert sum(event.skipped for event in events if isinstance(event, Step)) >= 1
    with open_training_folder(tmp_path / "none") as folder:
        trainer = trainer_in(folder, base, settings)
        trainer._lists = [mute, mute]
        with pytest.raises(InvalidInputError, match="nothing to go by in any of 2 lists"):
            trainer.run()


def test_an_epoch_visits_every_list_once_and_another_order_of_documents() -> None:
    first, second = epoch_order(7, 3, 0), epoch_order(7, 3, 1)
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second
    assert [visited(visit, 7, 3) for visit in range(14)] == [*first, *second]
    assert epoch_order(7, 4, 0) != first, "another seed"
    part = word_list(0, "train")
    moved = [shuffled(part, 3, visit) for visit in range(4)]
    assert len({tuple(document.id for document in one.documents) for one in moved}) > 1
    for one in moved:
        place = {document.id: n for n, document in enumerate(part.documents)}
        for query, was in zip(one.queries, part.queries, strict=True):
            assert query.grades is not None
            assert was.grades is not None
            for n, document in enumerate(one.documents):
                assert query.grades[n] == was.grades[place[document.id]]
                assert query.teachers["oracle"][n] == was.teachers["oracle"][place[document.id]]


def test_the_schedule_rises_and_falls() -> None:
    schedule = Schedule("cosine", 2)
    assert [round(schedule.factor(step, 6), 4) for step in range(6)] == [
        0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464,
    ]  # fmt: skip
    assert [Schedule("constant", 1).factor(step, 3) for step in range(3)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": math.nan}, "the learning rate must be 0 or more, and finite: nan"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"schedule": Schedule("cosine", 7)}, "7 steps of warm-up do not fit into 6 steps"),
        ({"dtype": "float16"}, "cannot train in float16"),
        ({"patience": 2}, "patience counts validations"),
        ({"objective": "graded + "}, "objective 'graded + '"),
    ],
)
def test_settings_that_make_no_sense(base: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings_of(base, **changes)
    assert said in str(caught.value)


def test_other_settings_on_a_folder_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    with open_training_folder(tmp_path / "out") as folder:
        assert not folder.begin(settings_of(base))
        assert folder.begin(settings_of(base))
        with pytest.raises(OtherSettingsError, match=r"schedule\.warmup was 1 and is now 0"):
            folder.begin(settings_of(base, schedule=Schedule("cosine", 0)))
    other = tmp_path / "others"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InvalidInputError, match=r"holds other files \(thesis\.tex\)"),
        open_training_folder(other),
    ):
        pass


def test_ndcg_is_within_the_list_or_of_all_judgements(base: Path) -> None:
    part = word_list(0, "held-out")
    query = dataclasses.replace(part.queries[0], grades=(0, 2, None, 1, 0))
    part = dataclasses.replace(part, queries=(query,))

    class Fixed:
        def scores(self, queries: object, documents: object) -> torch.Tensor:
            return torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])

    class Silent:
        def loss(self, scores: object, query: object) -> None:
            return None

    student: Any = Fixed()
    objective: Any = Silent()
    gain = 2 / math.log2(3) + 1 / math.log2(5)
    own = HeldOut((part,), "words").validate(student, objective, 7)
    assert own.ndcg == pytest.approx(gain / (2 + 1 / math.log2(3)))
    assert (own.step, own.loss) == (7, None)
    judged = {query.id: (3, 2, 1)}
    whole = HeldOut((part,), "words", judged=judged, unanswered=1)
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert whole.validate(student, objective, 0).ndcg == pytest.approx(gain / ideal / 2)
    assert "2 rankings of words; the ideal is of all judged documents" in whole.measured_by
    mute = dataclasses.replace(part, queries=(dataclasses.replace(query, grades=None),))
    with pytest.raises(InvalidInputError, match="nothing to validate on"):
        HeldOut((mute,), "words")


def test_equal_scores_are_ranked_by_id_as_trec_eval_does() -> None:
    part = word_list(0, "held-out")

    class Even:
        def scores(self, queries: object, documents: object) -> torch.Tensor:
            return torch.zeros(1, 5)

    class Silent:
        def loss(self, scores: object, query: object) -> None:
            return None

    student: Any = Even()
    objective: Any = Silent()
    for place, document in enumerate(part.documents):
        grades = tuple(int(n == place) for n in range(5))
        one = dataclasses.replace(part.queries[0], grades=grades)
        held_out = HeldOut((dataclasses.replace(part, queries=(one,)),), "words")
        ids = sorted((d.id for d in part.documents), reverse=True)
        expected = 1 / math.log2(ids.index(document.id) + 2)
        assert held_out.validate(student, objective, 0).ndcg == pytest.approx(expected)


def test_a_curve_is_drawn_whatever_it_holds(tmp_path: Path) -> None:
    steps = [(float(n), 2.0 - n / 100) for n in range(1, 101)]
    whole = Curve(steps, [(0.0, 0.4), (50.0, 0.6), (100.0, 0.5)], [(0.0, 2.0)])
    for curve in (whole, Curve([], [], []), Curve([(1.0, 3.0)], [], [])):
        drawn = ElementTree.fromstring(curve_picture(curve, "a <model> & 'more'"))
        titles = [node.text for node in drawn.iter("{http://www.w3.org/2000/svg}title")]
        assert titles[0] == "a <model> & 'more'"
        assert len(titles) - 1 == sum(
            len(points) for points in (curve.losses, curve.ndcg, curve.held_out_losses)
        ) + bool(curve.ndcg)
    assert "best 0.6000 at step 50" in curve_picture(whole, "")
    smooth = means(steps)
    assert len(smooth) == 25
    assert smooth[0] == pytest.approx((2.5, 1.975))
    broken = tmp_path / "curve.jsonl"
    broken.write_text('{"step": 1, "loss": 2.0}\n{"step": 2}\n')
    with pytest.raises(InvalidInputError, match=r"curve\.jsonl:2: neither a step"):
        read_curve(broken)


def test_the_last_layer_of_names() -> None:
    names = ["layers.2.self_attn.q_proj.lora_A", "model.layers.11.mlp.up_proj.weight"]
    assert highest_layer(names) == 11
    assert highest_layer(["h.3.attn.q_proj"]) is None
