"""The adapter that comes with the package: the default reranker, on its real base model."""

from __future__ import annotations

import json
import random

import pytest
import torch

from ranklens import AttentionReranker, Document, DocumentCache, Reranker
from ranklens.data.models import REGISTRY, pull, resolve
from ranklens.data.models.adapter import SHIPPED, read_settings, shipped_adapters
from ranklens.rerank.from_spec import DEFAULT
from ranklens.rerank.origin import doubts

pytestmark = pytest.mark.model

NAME = "ranklens-135m"
FOLDER = SHIPPED / NAME
QUERY = "which function sorts a list"
TEXTS = [
    "len(s) returns the number of items of a container.",
    "sorted(xs) returns a new sorted list from the items of an iterable.",
    "A list of towns is kept at the office. " * 4,
    "open(path) opens a file and returns a stream.",
    "sorts of apples",
]


@pytest.fixture(scope="module")
def reranker() -> AttentionReranker:
    pull(NAME)
    return AttentionReranker.from_pretrained(NAME, device="cpu", dtype="float32")


def scores(reranker: AttentionReranker, texts: list[str]) -> dict[str, float]:
    ranking = reranker.rank(QUERY, [Document(text, text) for text in texts])
    return {ranked.id: ranked.score for ranked in ranking}


def test_it_is_the_default_and_small() -> None:
    assert f"attention:{NAME}" == DEFAULT
    assert FOLDER in shipped_adapters().values()
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_it_fits_its_base_and_raises_no_doubt(reranker: AttentionReranker) -> None:
    base = resolve("smollm2-135m")
    assert read_settings(FOLDER)["base_model_name_or_path"] == "smollm2-135m"
    assert read_settings(FOLDER)["revision"] == base.revision
    assert REGISTRY["smollm2-135m"].licence == "Apache-2.0"
    assert reranker.profile.made_with is not None
    assert reranker.profile.made_with.revision == resolve(NAME).revision
    assert doubts(reranker.profile, resolve(NAME)) == []


def test_its_card_says_what_it_was_trained_on() -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    manifest = json.loads((FOLDER / "training.json").read_text("utf-8"))
    assert manifest["trained_before"]["lists"] == manifest["lists"], "two runs, the same lists"
    assert "trained_before" not in manifest["trained_before"]
    names = {source["name"] for source in manifest["lists"]["collections"]}
    assert names == {
        "trec-dl-2021", "trec-dl-2022", "llmjudge-dl23-dev", "fiqa-positives/test",
        "scifact-train", "trec-dl-2021-lm", "trec-dl-2022-lm", "llmjudge-dl23-lm",
    }  # fmt: skip
    for name in names:
        assert name.replace("-", "\\-") in card
    assert card.count("non\\-commercial research purposes only") == 6, "of MS MARCO's passages"
    evaluation = {"trec-dl-2019", "llmjudge-dl23-test", "scifact/test"}
    for part in manifest["lists"]["parts"]:
        found = {source["name"] for source in part["collections"]}
        assert set(part["kept_out"]) == (
            {"scifact/test"} if "scifact-train" in found else evaluation
        )


def test_order_has_no_part_in_a_score(reranker: AttentionReranker) -> None:
    found = scores(reranker, TEXTS)
    for seed in range(3):
        mixed = random.Random(seed).sample(TEXTS, len(TEXTS))
        assert scores(reranker, mixed) == found, "to the last bit"
    assert max(found, key=lambda text: found[text]) == TEXTS[1]


def test_kept_documents_score_the_same(reranker: AttentionReranker) -> None:
    kept = AttentionReranker.from_pretrained(
        NAME, device="cpu", dtype="float32", documents=DocumentCache()
    )
    first = scores(kept, TEXTS)
    assert scores(kept, TEXTS) == first, "from the cache, to the last bit"
    assert first == pytest.approx(scores(reranker, TEXTS), abs=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_scores_are_those_of_an_eager_pass_over_weights_that_peft_merged(
    reranker: AttentionReranker,
) -> None:
    peft = pytest.importorskip("peft", reason="the extra train is not installed")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        resolve("smollm2-135m").path, attn_implementation="eager", dtype=torch.float32
    )
    model = peft.PeftModel.from_pretrained(model, FOLDER).merge_and_unload().eval()
    layout = reranker.layout(QUERY, [Document(text, text) for text in TEXTS])
    (tail,) = layout.tails
    ids = [*layout.shared, *tail.ids]
    assert layout.positions is not None
    assert layout.tail_start is not None
    positions = [*layout.positions]
    positions += range(layout.tail_start, layout.tail_start + len(tail.ids))
    hidden = torch.ones(len(ids), len(ids)).triu(1) > 0
    for first, end in layout.blocks:
        hidden[first:end, layout.blocks[0][0] : first] = True
    mask = torch.zeros(1, 1, *hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        attentions = model(
            torch.tensor([ids]), attention_mask=mask, output_attentions=True,
            position_ids=torch.tensor([positions]),
        ).attentions  # fmt: skip
    rows = slice(*(len(layout.shared) + row for row in tail.rows))
    expected = torch.zeros(len(TEXTS), dtype=torch.float64)
    for name, weight in (reranker.profile.signal.heads or {}).items():
        layer, head = map(int, name.split("-"))
        paid = attentions[layer][0, head, rows].mean(0).double()
        expected += weight * torch.stack([paid[a:b].sum() for a, b in layout.spans]).log()
    found = scores(reranker, TEXTS)
    assert [found[text] for text in TEXTS] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_default_is_loaded_by_its_name() -> None:
    found = Reranker.from_spec(DEFAULT, device="cpu")
    assert found.name == DEFAULT
    assert found.rank(QUERY, TEXTS)[0].index == 1
