"""Practical UDCG against its authors' figures, and the file format."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.eval.udcg.dataset import models, read_examples, write_examples
from ranklens.eval.udcg.discounted import log2_utility
from ranklens.eval.udcg.practical import REFERENCE_EMPTY, Udcg, attainable, practical_udcg
from ranklens.eval.udcg.utility import PassageUtility

# data/dataset_with_udcg.json of GiovanniTRA/UDCG at daeee3b2 (MIT): p_abs of
# Llama-3.2-3B-Instruct, the number of relevant passages, which come first, and the file's values,
# made with gamma = 0.333.
GOLDEN = {
    "example_1": (
        [2.086162567138672e-06, 1.341104507446289e-05, 0.1318359375, 0.1812744140625,
         0.02081298828125],
        2, 0.5553808928170055, 0.5553370029055983, 0.2224361949920654, 0.6691,
    ),
    "example_2": (
        [5.960464477539063e-08, 6.616115570068359e-06, 0.00018215179443359375,
         0.006114959716796875, 0.0093536376953125],
        2, 0.5501411475208001, 0.5500919080793032, 0.2012410047531128, 0.6612,
    ),
    "example_3": (
        [3.0100345611572266e-05, 0.00010311603546142578, 0.007602691650390625,
         0.01299285888671875, 0.00013053417205810547],
        1, 0.4837510250741193, 0.4836847758879023, -0.06501879529953004, 0.6612,
    ),
}  # fmt: skip


def passages(name: str) -> list[PassageUtility]:
    p_abs, relevant = GOLDEN[name][:2]
    return [PassageUtility(p, place < relevant) for place, p in enumerate(p_abs)]


@pytest.mark.parametrize("name", GOLDEN)
def test_the_authors_values(name: str) -> None:
    _, _, published, of_third, raw, _ = GOLDEN[name]
    found = practical_udcg(passages(name), gamma=0.333)
    assert found.value == published
    assert found.raw == pytest.approx(raw, abs=1e-15)
    assert practical_udcg(passages(name)).value == pytest.approx(of_third, abs=1e-15)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_form_with_two_means_is_another_number(name: str) -> None:
    relevant = [p.gain for p in passages(name) if p.relevant]
    others = [-p.loss for p in passages(name) if not p.relevant]
    s = math.fsum(relevant) / len(relevant) - 0.333 * math.fsum(others) / len(others)
    two_means = 1 / (1 + math.exp(-s))
    assert two_means == pytest.approx(GOLDEN[name][5], abs=5e-5)
    assert abs(two_means - practical_udcg(passages(name), 0.333).value) > 0.1


def test_the_order_plays_no_part_down_to_the_last_bit() -> None:
    generator = random.Random(3)
    listed = [PassageUtility(generator.random(), generator.random() < 0.4) for _ in range(12)]
    values = {
        practical_udcg(generator.sample(listed, len(listed))) for _ in range(200)
    }  # fmt: skip
    assert len(values) == 1


def test_the_ends_of_the_range_are_reached_and_not_passed() -> None:
    assert [round(end, 4) for end in attainable()] == [0.4174, 0.7311]
    worst = practical_udcg([PassageUtility(0.0, relevant=False)] * 3)
    best = practical_udcg([PassageUtility(0.0, relevant=True)] * 3)
    assert (worst.value, best.value) == pytest.approx(attainable(), abs=1e-15)
    silent = practical_udcg([PassageUtility(1.0, relevant=r) for r in (True, False)])
    assert (silent.value, silent.raw) == (0.5, 0.0)
    generator = random.Random(5)
    for _ in range(300):
        gamma = generator.random()
        drawn = [PassageUtility(generator.random(), generator.random() < 0.5) for _ in range(4)]
        low, high = attainable(gamma)
        assert low <= practical_udcg(drawn, gamma).value <= high


def test_an_empty_list_is_neutral_unless_the_reference_is_asked_for() -> None:
    assert practical_udcg([]) == Udcg(0.5, 0.0, 0, 0)
    assert practical_udcg([], empty=REFERENCE_EMPTY).value == 0.0 < attainable()[0]


def test_what_is_missing_is_counted_in_n_and_reported() -> None:
    known = [PassageUtility(0.2, relevant=True), PassageUtility(0.5, relevant=False)]
    holes = [PassageUtility(None, relevant=True), PassageUtility(0.1, relevant=None)]
    found = practical_udcg([*known, *holes])
    assert (found.passages, found.missing) == (4, 2)
    assert found.raw == pytest.approx((0.8 - 0.5 / 3) / 4)


def test_the_cut_off_is_what_changes_the_value() -> None:
    listed = passages("example_1")
    for depth in (1, 3, 5):
        assert practical_udcg(listed, depth=depth) == practical_udcg(listed[:depth])
    # Fewer passages than the depth: n is what there is.
    assert practical_udcg(listed, depth=50) == practical_udcg(listed)
    with pytest.raises(UsageError, match="depth must be at least 1, got 0"):
        practical_udcg(listed, depth=0)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_a_gamma_that_is_no_weight_is_refused(gamma: float) -> None:
    with pytest.raises(UsageError, match="gamma must lie in"):
        practical_udcg(passages("example_1"), gamma)


@pytest.mark.parametrize("p_abs", [-0.01, 1.01, math.nan])
def test_a_p_abs_that_is_no_probability_is_refused(p_abs: float) -> None:
    with pytest.raises(InvalidInputError, match="p_abs must be a probability"):
        PassageUtility(p_abs, relevant=True)


def test_the_discounted_sum_depends_on_the_order() -> None:
    listed = [PassageUtility(0.0, relevant=True), PassageUtility(0.25, relevant=False)]
    assert log2_utility(listed, 0.5) == pytest.approx(1 - 0.5 * 0.75 / math.log2(3))
    assert log2_utility(listed[::-1], 0.5) == pytest.approx(-0.5 * 0.75 + 1 / math.log2(3))
    assert log2_utility(listed, depth=1) == 1.0
    assert log2_utility([]) == 0.0


def test_the_real_sample_is_read_and_written_without_a_loss(
    shared_collection: Callable[[str], Path], tmp_path: Path
) -> None:
    source = shared_collection("udcg-sample") / "dataset_with_udcg.json"
    examples = read_examples(source)
    [model] = models(examples)
    assert model == "meta-llama/Llama-3.2-3B-Instruct"
    for example in examples:
        found = practical_udcg(example.utilities(model), gamma=0.333)
        assert found.value == example.udcg[model] == GOLDEN[example.example_id][2]
    write_examples(examples, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(source.read_text())


def test_other_keys_and_missing_values_survive(tmp_path: Path) -> None:
    record = {
        "example_id": "e1",
        "question": "who?",
        "answers": ["Ann"],
        "source": {"split": "dev"},
        "generated": {"m": {"depth": 2, "text": "Ann", "exact_match": 1.0}},
        "passages": [
            {"doc_id": "d1", "text": "Ann — ½", "is_relevant": None, "rank": 1,
             "models_info": {"m": {"no_res_prob": 0.5, "dtype": "float32"}, "n": {}}},
            {"doc_id": "d2", "text": "", "is_relevant": False},
        ],
    }  # fmt: skip
    path = tmp_path / "in.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    [example] = read_examples(path)
    assert models([example]) == ["m"]
    assert [u.missing for u in example.utilities("m")] == [True, True]
    write_examples([example], tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == [record]


def good() -> dict[str, Any]:
    return {
        "example_id": "e1",
        "question": "who?",
        "passages": [{"doc_id": 7, "text": "Ann", "is_relevant": True,
                      "models_info": {"m": {"no_res_prob": 0.5}}}],
    }  # fmt: skip


def test_integer_ids_are_held_as_text(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps([good()]))
    assert read_examples(path)[0].passages[0].doc_id == "7"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("example_id"), "example 1: 'example_id' must be an id, got None"),
        (lambda e: e.update(question=3), r"example 1 \('e1'\): 'question' must be a text, got 3"),
        (lambda e: e.update(passages={}), r"'passages' must be a list, got \{\}"),
        (lambda e: e["passages"].append(7), "passage 2: expected a JSON object, got 7"),
        (lambda e: e["passages"].append(e["passages"][0]), "passage 2: 'doc_id' '7' occurs twice"),
        (
            lambda e: e["passages"][0].update(is_relevant="yes"),
            r"passage 1 \('7'\): 'is_relevant' must be true, false or null, got 'yes'",
        ),
        (
            lambda e: e["passages"][0]["models_info"]["m"].update(no_res_prob=1.5),
            r"'no_res_prob' of 'm' must be a number in \[0, 1\], got 1.5",
        ),
        (
            lambda e: e["passages"][0]["models_info"].update(m=0.5),
            "'models_info' of 'm': expected a JSON object, got 0.5",
        ),
        (lambda e: e["passages"][0].update(text="\ud800"), r"example 1 \('e1'\): a \\ud800 to"),
        (lambda e: e.update(source="\udfff"), "escape without its other half is not text"),
        (lambda e: e.update(udcg={"m": True}), "'udcg' of 'm' must be a number"),
        (lambda e: e.update(answers="Ann"), "'answers' must be a list of texts, got 'Ann'"),
        (lambda e: e.update(generated={"m": {}}), "'generated' of 'm': 'depth' must say"),
    ],
)
def test_a_bad_value_is_named_with_its_place(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    example = good()
    change(example)
    path = tmp_path / "in.json"
    path.write_text(json.dumps([example]))
    with pytest.raises(InvalidInputError, match=message) as failed:
        read_examples(path)
    assert str(path) in str(failed.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "in.json:1: not JSON"),
        ("{}", r"expected a JSON list of examples, got \{\}"),
        ("[]", "the list of examples is empty"),
        ('[{"example_id": NaN}]', "NaN is no number"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_list_of_examples_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_examples(path)


def test_two_examples_of_one_id_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps([good(), good()]))
    with pytest.raises(InvalidInputError, match="example 2: 'example_id' 'e1' occurs twice"):
        read_examples(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such file"):
        read_examples(tmp_path / "none.json")
