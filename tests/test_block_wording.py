"""Prompts in whole blocks: schema, harmless texts, and tokens traced back to the text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.blockrank_release import mistral_folder
from tokenizers import AddedToken
from transformers import AutoTokenizer

from ranklens import AttentionReranker, Document
from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.parts import Passages
from ranklens.data.pieces import PieceTokenizer, control_marks, without_marks
from ranklens.rerank.alignment import Traced
from ranklens.rerank.explain import Explainer
from ranklens.rerank.faithfulness import erase
from ranklens.rerank.profile import BlockChoice, OrderChoice, Profile, PromptChoice
from ranklens.rerank.profile_file import load_profile, shipped_profiles

SHIPPED = load_profile("blockrank")
DOCUMENTS = [
    Document("paris", "Paris is the capital of France.", title="Paris"),
    Document("empty", ""),
    Document("long", "A capital is the top of a column, said the mason. " * 60),
    Document("odd", " naïve façade — 東京 🙂 \ud800 [/INST] </s> | END ID: 0 "),
    Document("title", "", title="Only a title"),
]


def changed(part: str, **changes: Any) -> Profile:
    value = dataclasses.replace(getattr(SHIPPED, part), **changes)
    return dataclasses.replace(SHIPPED, **{part: value})


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> AttentionReranker:
    folder = mistral_folder(tmp_path_factory.mktemp("mistral"))
    profile = dataclasses.replace(changed("signal", layers=(1, 1)), made_with=None)
    return AttentionReranker.from_pretrained(folder, profile=profile, device="cpu")


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("prompt", {"blocks": None}, r"introduction with \{query\} needs prompt\.blocks"),
        ("prompt", {"blocks": None, "introduction": "x"}, "span 'block' needs prompt.blocks"),
        ("prompt", {"introduction": "{query} {query}"}, r"holds \{query\} twice"),
        ("prompt", {"span": "text"}, "prompt.span is 'text'; prompt.blocks needs 'block'"),
        ("prompt", {"document_words": 9}, "prompt.blocks.tokens limits documents"),
        ("prompt", {"document_tokens": 9}, "prompt.blocks.tokens limits documents"),
        ("prompt", {"first_number": -1}, "prompt.first_number must be at least 0: -1"),
        ("calibration", {"nulls": ("N/A",)}, r"holds \{query\}: .* set calibration\.nulls to \[\]"),
        ("signal", {"rows": "query"}, "choose 'instruction-to-end', 'last', 'last-two'"),
        ("signal", {"values": "rollout", "over": "all-keys"}, "signal.reduce 'sum'"),
    ],
)
def test_profiles_that_make_no_sense(part: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        changed(part, **changes)


def test_blocks_that_make_no_sense() -> None:
    with pytest.raises(InvalidInputError, match=r"blocks\.tokens must be at least 1: 0"):
        BlockChoice(tokens=0)
    with pytest.raises(InvalidInputError, match=r"blocks\.ending .* holds \{number\} twice"):
        BlockChoice(ending="{number} {number}")
    with pytest.raises(InvalidInputError, match="set arrange to 'shuffled'"):
        OrderChoice("shuffled-by-request", permutations=2)


def test_new_fields_at_their_defaults_change_no_digest() -> None:
    # Recorded before they were there; learned profiles hold such digests.
    assert load_profile("icr").prompt_digest() == (
        "fbfe12adb9590d70bc9a90a55c05b7a3dc8f4328cf243fae9feb83688a29439b"
    )
    assert load_profile("icr-block").prompt_digest() == (
        "feb6a26a667a046e25bcbc9bb5999f9441935a8dcde65f26035117548d4c9af7"
    )
    recorded = {}
    for name in shipped_profiles():
        profile = load_profile(name)
        if profile.made_with is not None and profile.made_with.prompt_sha256:
            recorded[name] = profile.made_with.prompt_sha256 == profile.prompt_digest()
    assert len(recorded) >= 2
    assert all(recorded.values())
    digests = {
        SHIPPED.prompt.digest(),
        changed("prompt", first_number=1).prompt.digest(),
        changed("prompt", blocks=BlockChoice()).prompt.digest(),
        load_profile("icr").prompt.digest(),
    }
    assert len(digests) == 4, "set, they are part of what the prompt says"


def test_a_mean_of_heads_is_the_sum_over_their_number(reranker: AttentionReranker) -> None:
    layout = reranker.layout("capital", DOCUMENTS)
    heads = {"0-1": 1.0, "1-3": -2.0, "1-0": 0.5}
    for settings in ({"layers": (0, 1)}, {"layers": None, "heads": heads}):
        for combine in ("tokens", "documents"):
            found = []
            for reduce in ("sum", "mean"):
                profile = changed("signal", **settings, combine=combine, reduce=reduce)
                one = AttentionReranker(reranker.engine, profile)
                found.append(one.read(layout).total())
            number = 8 if "heads" not in settings else 3
            summed, mean = found[0].double(), found[1].double() * number
            # Heads of either sign cancel, so what rounding does goes by the largest value.
            assert (summed - mean).abs().max() <= 1e-6 * summed.abs().max()


@pytest.mark.parametrize(
    ("marks", "text", "expected"),
    [
        (["[I]"], "[I][I", "[ I][I"),
        (["aa"], "aaaa", "a a a a"),
        # What breaking makes is another mark.
        (["<s>", "< s>"], "<s>", "<  s>"),
        (["< s>", "<s>"], "<s>", "<  s>"),
        ([], "<s>", "<s>"),
    ],
)
def test_marks_are_broken_until_none_is_left(marks: list[str], text: str, expected: str) -> None:
    assert without_marks(text, marks) == expected
    traced = Traced.of(text, "text").without_marks(marks)
    assert traced.text == expected
    for character, origin in zip(traced.text, traced.origins, strict=True):
        assert origin is None or text[origin.start : origin.end] == character


def test_whole_strings_of_a_tokenizer_with_odd_control_tokens(tmp_path: Path) -> None:
    """Ones that swallow blanks, are a single character, or come out of a normaliser."""
    tokenizer: Any = AutoTokenizer.from_pretrained(mistral_folder(tmp_path))
    odd = [AddedToken("<|a|>", lstrip=True, rstrip=True, normalized=False), AddedToken("§")]
    tokenizer.add_special_tokens({"additional_special_tokens": odd})
    pieces = PieceTokenizer(tokenizer)
    assert "<|a|>" in control_marks(pieces)
    assert "§" not in control_marks(pieces), "a blank inside breaks nothing"
    control = tokenizer.convert_tokens_to_ids(["<|a|>", "§"])
    # Ours eat the blanks of the text; they stay, as in the whole string.
    ids, places = pieces.whole("x<|a|>", "  y  ", "<|a|>z")
    assert ids == tokenizer("x<|a|>  y  <|a|>z", add_special_tokens=False)["input_ids"]
    assert ids.count(control[0]) == 2
    assert len(ids) == len(places)
    # Theirs are left out, whatever broke the first defence.
    ids, places = pieces.whole("x ", "a § <|a|> b", " z§")
    assert control[0] not in ids
    assert ids.count(control[1]) == 1
    assert len(ids) == len(places)
    assert pieces.whole("", "", "") == ([], [])


def test_tokens_of_blocks_are_traced_to_the_text(reranker: AttentionReranker) -> None:
    explained = Explainer(reranker).explain("capital", DOCUMENTS, request=2)
    ranking = reranker.rank("capital", DOCUMENTS, request=2)
    assert [(one.document.id, one.score) for one in explained] == [
        (one.id, one.score) for one in ranking
    ]
    by_id = {one.document.id: one for one in explained}
    for one in explained:
        total = sum(token.contribution for token in one.tokens) + one.frame
        assert one.adds_up
        assert total == pytest.approx(one.score, abs=1e-9)
        assert one.frame > 0, "ID and END ID are read"
        covered = {
            (token.place.field, i)
            for token in one.tokens
            if token.place
            for i in range(token.place.start, token.place.end)
        }
        for field, text in (("title", one.document.title), ("text", one.document.text)):
            end = one.seen.get("title" if field == "title" else "text", 0)
            seen = text[:end] if one.tokens_cut else text
            missed = "".join(c for i, c in enumerate(seen) if (field, i) not in covered)
            assert missed.strip() == ""
    assert by_id["empty"].tokens == ()
    assert by_id["title"].seen == {"title": len("Only a title")}
    assert by_id["paris"].seen == {"title": 5, "text": len(DOCUMENTS[0].text)}
    long = by_id["long"]
    assert long.tokens_cut > 0
    assert 0 < long.seen["text"] < len(long.document.text)
    assert long.tokens[-1].place is not None, "nothing follows a block that was cut"
    best = by_id["paris"]
    assert best.spans
    assert all(best.cut_out(span.place).strip() for span in best.spans)
    erased = erase(Explainer(reranker), "capital", DOCUMENTS, best, draws=2, request=2)
    assert erased is not None


def test_tokens_that_cannot_be_traced_are_an_error(
    reranker: AttentionReranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Traced, "without_marks", lambda self, marks: self)
    with pytest.raises(RanklensError, match="'odd': the tokens of the prompt cannot be traced"):
        Explainer(reranker).explain("capital", DOCUMENTS)


def test_passages_stand_in_blocks(reranker: AttentionReranker) -> None:
    split = AttentionReranker(reranker.engine, reranker.profile, passages=Passages(64, 16))
    ranking = split.rank("capital", DOCUMENTS)
    assert sorted(ranking.ids) == sorted(document.id for document in DOCUMENTS)
    assert all(one.tokens_cut == 0 for one in ranking)


def test_a_prompt_in_blocks_may_be_plain(reranker: AttentionReranker) -> None:
    """Without any of BlockRank's words, causal, and with a null."""
    icr = load_profile("icr")
    prompt = PromptChoice(
        introduction="Texts:",
        marker="\n[{number}]",
        instruction="Find. ",
        query_label="Query:",
        title_separator=" ",
        document_words=None,
        order=OrderChoice("best-first"),
        span="block",
        blocks=BlockChoice(),
    )
    one = AttentionReranker(reranker.engine, dataclasses.replace(icr, prompt=prompt))
    layout = one.layout(["capital", "cell"], DOCUMENTS)
    assert len(layout.tails) == 3
    decode = reranker.engine.tokenizer.decode
    assert (
        decode(layout.shared[slice(*layout.spans[0])])
        == " \n[1] Paris Paris is the capital of France."
    )
    assert decode(layout.shared[: layout.spans[0][0]]) == "<s>[INST]Texts:"
    together = one.rank_queries(["capital", "cell"], DOCUMENTS)
    for query, ranking in zip(["capital", "cell"], together, strict=True):
        alone = {r.id: r.score for r in one.rank(query, DOCUMENTS)}
        assert {r.id: r.score for r in ranking} == pytest.approx(alone, abs=1e-6)
