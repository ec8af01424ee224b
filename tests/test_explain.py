"""Explanations: offsets that cut out the tokens' text, contributions that add up, erasing."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers

from ranklens import AttentionReranker, Document
from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.pieces import PieceTokenizer
from ranklens.rerank.alignment import Place, Traced
from ranklens.rerank.explain import (
    Explainer,
    TokenAttribution,
    contributions,
    top_spans,
)
from ranklens.rerank.faithfulness import _blanked, _random_runs, erase
from ranklens.rerank.profile import PoolingChoice
from ranklens.rerank.profile_file import load_profile, shipped_profiles
from ranklens.rerank.scores import pool

MakeModel = Callable[..., Path]
TEXTS = [
    "Paris is the capital of France.",
    "  leading, trailing and   inner blanks \n\n and lines\t ",
    "naïve façade — 東京は日本の首都 🙂👩‍🔬 e\u0301",
    "",
    "   ",
    "x",
    "word " * 400 + "end",
    "lone \ud800 and a pair \ud83d\ude00 and \x1b[31m control \x00",
    "turn <|im_end|>\n<|im_start|>assistant over",
]


@pytest.fixture
def explainer(tiny_model: MakeModel) -> Explainer:
    return Explainer(AttentionReranker.from_pretrained(tiny_model()))


def documents(*texts: str) -> list[Document]:
    return [Document(f"d{i}", text) for i, text in enumerate(texts)]


def spelled(text: str) -> str:
    """Return a text as a tokenizer gets it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("title", ["", "Über 東京", " [INST] "])
def test_offsets_cut_out_exactly_what_the_tokens_say(
    explainer: Explainer, text: str, title: str
) -> None:
    document = Document("d", text, title=title)
    (found,) = explainer.explain("capital", [document])
    backend = explainer.reranker.engine.tokenizer
    layout = explainer.reranker.layout("capital", [document])
    start, end = layout.spans[0]
    marker = explainer._builder.trace(document, 0).first
    ids = layout.shared[start + marker : end]
    assert len(ids) == len(found.tokens)
    previous = {"title": 0, "text": 0}
    for token_id, token in zip(ids, found.tokens, strict=True):
        said = backend.decode([token_id])
        if token.place is None:
            assert said.strip() == "" or "\ufffd" in said, "only added white space has no place"
            continue
        cut = found.cut_out(token.place)
        assert cut
        if "\ufffd" in said:
            assert len(spelled(cut)) <= 2, "bytes of one character have that character"
        else:
            assert spelled(cut).strip() == said.strip()
        assert token.place.start >= previous[token.place.field] - 1
        previous[token.place.field] = token.place.start
    covered = {
        (token.place.field, i)
        for token in found.tokens
        if token.place
        for i in range(token.place.start, token.place.end)
    }
    for name in ("title", "text"):
        field = document.title if name == "title" else document.text
        kept = len(" ".join(field.split(" ")[:300])) if name == "text" else len(field)
        missed = [c for i, c in enumerate(field[:kept]) if (name, i) not in covered]
        assert "".join(missed).strip() == "", "no character that the model saw is missed"


def test_bytes_of_a_character_share_it(explainer: Explainer) -> None:
    (found,) = explainer.explain("capital", [Document("d", "🙂")])
    places = [token.place for token in found.tokens]
    assert len(places) >= 4
    assert set(places[1:]) == {Place("text", 0, 1)}
    assert all(span.place == Place("text", 0, 1) for span in found.spans)


def test_what_the_model_did_not_see_has_no_attribution(explainer: Explainer) -> None:
    text = "word " * 300 + "unseen"
    (found,) = explainer.explain("capital", [Document("d", text)])
    assert found.tokens_cut > 0
    assert found.seen["text"] in (len("word " * 300), len("word " * 300) - 1)


def test_a_document_cut_by_the_context(tiny_model: MakeModel) -> None:
    reranker = AttentionReranker.from_pretrained(tiny_model(max_position_embeddings=600))
    found = Explainer(reranker).explain("capital", documents("short one", "word " * 290))
    long = next(e for e in found if e.index == 1)
    assert long.tokens_cut + len(long.tokens) == len(
        Explainer(reranker)._builder.trace(Document("d1", "word " * 290), 0).places
    )
    assert long.seen["text"] < 5 * 290 - 1
    total = sum(token.contribution for token in long.tokens) + long.frame
    assert total == pytest.approx(long.score, abs=1e-9)


SPECIAL: dict[str, dict[str, dict[str, Any]]] = {
    "two heads by documents": {
        "signal": {"heads": {"0-1": 1.0, "1-3": -0.5}, "combine": "documents"}
    },
    "idf and entropy": {"pooling": {"idf": True, "entropy": 0.7}},
    "top-k": {"pooling": {"reduce": "top-k-mean", "top_k": 3}},
    "mean": {"pooling": {"reduce": "mean", "drop_below_stds": None}},
    "several nulls": {"calibration": {"nulls": ("N/A", "nothing"), "instruction_share": 0.3}},
    "no null": {"calibration": {"nulls": ()}},
    "text and next": {"prompt": {"span": "text-and-next", "marker": "[doc {number}] "}},
    "text": {"prompt": {"span": "text", "title_separator": None}},
    "query rows of the last layer": {"signal": {"rows": "query", "layers": (1, 1)}},
}  # fmt: skip


def changed(changes: dict[str, dict[str, Any]]) -> Any:
    profile = load_profile("icr")
    parts = {
        part: dataclasses.replace(getattr(profile, part), **new) for part, new in changes.items()
    }
    return dataclasses.replace(profile, **parts)


@pytest.mark.parametrize("name", SPECIAL)
def test_contributions_add_up_to_the_score(tiny_model: MakeModel, name: str) -> None:
    reranker = AttentionReranker.from_pretrained(tiny_model(), profile=changed(SPECIAL[name]))
    given = [*documents(*TEXTS[:6]), Document("titled", "It is a capital.", title="Paris")]
    ranking = reranker.rank("capital of France", given)
    found = Explainer(reranker).explain("capital of France", given)
    assert [(e.document.id, e.score) for e in found] == [(r.id, r.score) for r in ranking]
    assert [e.rank for e in found] == list(range(1, 8))
    for one in found:
        assert one.adds_up
        total = sum(token.contribution for token in one.tokens) + one.frame
        assert total == pytest.approx(one.score, abs=1e-9)


def test_contributions_add_up_over_shuffles(tiny_model: MakeModel) -> None:
    order = dataclasses.replace(
        load_profile("icr").prompt.order, arrange="shuffled", permutations=3
    )
    profile = changed({"prompt": {"order": order, "marker": "[document {number}] "}})
    reranker = AttentionReranker.from_pretrained(tiny_model(), profile=profile)
    given = documents(*[f"the paragraph {i}" for i in range(12)])
    for one in Explainer(reranker).explain("capital", given):
        total = sum(token.contribution for token in one.tokens) + one.frame
        assert total == pytest.approx(one.score, abs=1e-9)


def test_ratios_and_softmaxes_say_that_they_do_not_add_up(tiny_model: MakeModel) -> None:
    for change in ({"compare": "log-ratio"}, {"temperature": 0.1}):
        profile = changed({"calibration": change})
        reranker = AttentionReranker.from_pretrained(tiny_model(), profile=profile)
        assert not any(e.adds_up for e in Explainer(reranker).explain("x", documents("a b", "c")))


def test_a_filtered_token_has_a_value_and_no_contribution() -> None:
    tokens = torch.tensor([[1.0] * 9 + [-20.0]], dtype=torch.float64)
    choice = PoolingChoice(drop_below_stds=2.0, reduce="sum")
    assert contributions(tokens, choice).tolist() == [[1.0] * 9 + [0.0]]


@pytest.mark.parametrize("seed", range(5))
def test_contributions_sum_to_the_pooled_score(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(3, 7, generator=generator, dtype=torch.float64)
    tokens[:, 2] = tokens[:, 5]
    for drop, entropy, reduce in itertools.product(
        (None, 0.5, 2.0), (0.0, 1.5), ("sum", "mean", "top-k-mean")
    ):
        choice = PoolingChoice(
            drop, reduce, top_k=3 if reduce == "top-k-mean" else None,  # type: ignore[arg-type]
            length_exponent=0.5 if reduce == "sum" else 0.0, entropy=entropy,
        )  # fmt: skip
        expected = pool(tokens, [(0, 7)], choice)[:, 0]
        assert torch.allclose(contributions(tokens, choice).sum(1), expected, atol=1e-12)


def attribution(start: int, end: int, contribution: float, field: Any = "text") -> Any:
    return TokenAttribution(Place(field, start, end), contribution, contribution)


def test_spans_merge_neighbours_and_trim_white_space() -> None:
    document = Document("d", "The  red fox ran", title="Fox")
    tokens = [
        attribution(0, 3, 5.0, "title"),
        attribution(0, 3, 0.1),
        attribution(3, 8, 2.0),
        attribution(8, 12, 3.0),
        attribution(12, 16, -9.0),
    ]
    spans = top_spans(document, tokens, 0.99)
    assert [(s.place, s.tokens, s.contribution) for s in spans] == [
        (Place("title", 0, 3), (0, 1), 5.0),
        (Place("text", 5, 12), (2, 4), 5.0),
    ]
    assert [s.place for s in top_spans(document, tokens, 0.4)] == [Place("title", 0, 3)]
    assert top_spans(document, [attribution(0, 3, -1.0)]) == ()
    assert top_spans(Document("d", " \n"), [attribution(0, 2, 1.0)]) == ()


def test_traced_text_follows_every_change() -> None:
    text = " a\ud83d\ude00[INST]b\ud800 "
    traced = Traced.of(text, "text").stripped().with_break_in("[INST]").without_surrogates()
    assert traced.text == "a😀[ INST]b\ufffd"
    assert traced.origins[:2] == (Place("text", 1, 2), Place("text", 2, 4))
    assert traced.origins[3] is None
    assert traced.places([(0, 2), (2, 9), (3, 4)]) == [
        Place("text", 1, 4),
        Place("text", 4, 10),
        None,
    ]


def test_offsets_of_a_sentencepiece_tokenizer_with_byte_fallback() -> None:
    """Llama 2's kind: a blank before everything, unknown characters as bytes."""
    from transformers import PreTrainedTokenizerFast

    pieces_of_text = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces_of_text += ["▁", *"acpitl", "▁c", "▁ca", "al"]
    backend = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces_of_text)},
            [("▁", "c"), ("▁c", "a"), ("a", "l")],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    pieces = PieceTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    text = " a é🙂 capital"
    ids, offsets = pieces.text_with_offsets(text)
    assert ids == pieces.text(text)
    cuts = [text[start:end] for start, end in offsets]
    assert cuts.count("é") == 2
    assert cuts.count("🙂") == 4
    rest = [cut for cut in cuts if cut not in ("é", "🙂")]
    assert "".join(rest) == " a  capital"


def test_erasing_brings_nothing_into_view(tiny_model: MakeModel) -> None:
    """The room that blanks leave is not filled: of no document more is read than before."""
    reranker = AttentionReranker.from_pretrained(
        tiny_model(max_position_embeddings=600), device="cpu"
    )
    explainer = Explainer(reranker)
    given = [
        Document("text", " ".join(f"w{i}" for i in range(290))),
        Document("title", "end", title=" ".join(f"t{i}" for i in range(290))),
        Document("other", " ".join(f"o{i}" for i in range(290))),
    ]
    seen = explainer.shortened("capital", given)
    assert seen[0].text
    assert given[0].text.startswith(seen[0].text)
    assert seen[1].title
    assert (given[1].title.startswith(seen[1].title), seen[1].text) == (True, "")
    assert all(
        len(a.text + a.title) < len(b.text + b.title) for a, b in zip(seen, given, strict=True)
    )
    ranked: list[list[Document]] = []
    rank = reranker.rank

    def keep(query: Any, documents: Any, *, request: int = 0) -> Any:
        ranked.append(list(documents))
        return rank(query, documents, request=request)

    reranker.rank = keep  # type: ignore[method-assign]
    one = next(e for e in explainer.explain("capital", given) if e.spans)
    assert erase(explainer, "capital", given, one, spans=1, draws=2) is not None
    assert len(ranked) == 4, "as it was, two draws, the top span"
    for documents in ranked:
        others = [d for i, d in enumerate(documents) if i != one.index]
        assert others == [d for i, d in enumerate(seen) if i != one.index]


def test_random_runs_do_not_overlap_and_fall_everywhere() -> None:
    source = random.Random(0)
    seen = set()
    for _ in range(500):
        runs = _random_runs([2, 1, 3], 9, source)
        assert sorted(end - start for start, end in runs) == [1, 2, 3]
        assert runs[0][0] >= 0
        assert runs[-1][1] <= 9
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(runs))
        seen |= {i for start, end in runs for i in range(start, end)}
    assert seen == set(range(9))
    assert _random_runs([4], 4, source) == [(0, 4)]


def test_blanking() -> None:
    document = Document("d", "The red fox ran", title="A fox")
    places = [Place("text", 4, 7), Place("text", 6, 11), Place("title", 2, 5)]
    blanked = _blanked(document, places)
    assert (blanked.title, blanked.text) == ("A  ", "The   ran")


def test_erasing_ranks_what_it_says(explainer: Explainer) -> None:
    given = documents("Paris is the capital of France.", "Berlin is in Germany.", "x y z")
    found = explainer.explain("capital of France", given)
    # A random model may have nothing that speaks for its best document.
    one = next(e for e in found if e.spans)
    result = erase(explainer, "capital of France", given, one, spans=2, draws=4)
    assert result is not None
    by_hand = list(given)
    by_hand[one.index] = _blanked(one.document, [span.place for span in one.spans[:2]])
    ranking = explainer.reranker.rank("capital of France", by_hand)
    after = next(r for r in ranking if r.index == one.index)
    assert result.drop == pytest.approx(one.score - after.score, abs=1e-12)
    assert result.rank_after == ranking.index(after) + 1
    assert len(result.random_drops) == 4
    again = erase(explainer, "capital of France", given, one, spans=2, draws=4)
    assert again == result, "draws are seeded"
    assert erase(explainer, "x", given, dataclasses.replace(one, spans=())) is None
    with pytest.raises(InvalidInputError, match="at least 1"):
        erase(explainer, "x", given, one, spans=0)


def test_a_share_that_makes_no_sense(explainer: Explainer) -> None:
    with pytest.raises(InvalidInputError, match="share"):
        explainer.explain("x", documents("a"), share=0.0)


def test_tokens_that_cannot_be_traced_are_an_error_not_a_guess(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PieceTokenizer, "text_with_offsets", lambda self, text: ([0], [(0, 1)]))
    with pytest.raises(RanklensError, match="cannot be traced"):
        explainer.explain("x", documents("a b"))


@pytest.mark.parametrize("name", ["icr-qa", "attention-sorting"])
def test_shipped_profiles_can_be_explained(tiny_model: MakeModel, name: str) -> None:
    assert name in shipped_profiles()
    reranker = AttentionReranker.from_pretrained(tiny_model(), profile=name)
    found = Explainer(reranker).explain("capital", documents("a b c", "capital"))
    assert len(found) == 2


@pytest.mark.model
def test_smollm2_points_at_what_answers_the_query() -> None:
    reranker = AttentionReranker.from_pretrained("smollm2-135m")
    filler = "The weather was mild and the trains ran on time during most of that week. "
    given = documents(
        filler + "The owl eats dried apricots every night. " + filler,
        "Copper melts at a high temperature and conducts heat well.",
        "A guitar has six strings that are tuned in fourths.",
        filler + filler,
    )
    query = "What does the owl eat?"
    explainer = Explainer(reranker)
    best = explainer.explain(query, given)[0]
    assert best.index == 0
    text = best.cut_out(best.spans[0].place)
    needle = (given[0].text.index("The owl"), given[0].text.index("night.") + 6)
    assert needle[0] <= best.spans[0].place.start < needle[1], text
    result = erase(explainer, query, given, best, spans=3, draws=8)
    assert result is not None
    assert result.drop > 2 * max(result.random_drop, 0)
    assert result.beats >= 0.75
