"""What all rerankers share: names, errors, shortened texts, many requests, threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ranklens import AttentionReranker, Document, DocumentCache, Query, Reranker
from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.data.models import resolve
from ranklens.rerank.base import Ranking, Shortened
from ranklens.rerank.explain import Explainer
from ranklens.rerank.from_spec import KINDS, default_settings, split_spec
from ranklens.rerank.identity import IdentityReranker

pytest_plugins = ["baseline_fixtures", "dense_fixtures"]

QUERY = "bake bread"
DOCUMENTS = ["bread is baked in an oven", "sort numbers", "a guitar has six strings", "water"]


@pytest.fixture
def load(tiny_classifier: Path, tiny_encoder: Path, chat_model: Path) -> Callable[[str], Reranker]:
    """Return a function that loads a kind of reranker over a tiny model, by its specification."""
    models = {"cross-encoder": tiny_classifier, "bi-encoder": tiny_encoder}

    def loaded(kind: str, **settings: Any) -> Reranker:
        spec = kind if kind == "identity" else f"{kind}:{models.get(kind, chat_model)}"
        return Reranker.from_spec(spec, device="cpu", dtype="float32", **settings)

    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(load: Callable[[str], Reranker], kind: str) -> None:
    reranker = load(kind)
    assert reranker.name.startswith(kind)
    assert "/" not in reranker.name
    given = [Document(f"id{n}", text) for n, text in enumerate(DOCUMENTS)]
    before = list(given)
    found = reranker.rank(Query("q", QUERY), given)
    assert given == before
    assert isinstance(found, Ranking)
    assert sorted(found.ids) == ["id0", "id1", "id2", "id3"]
    assert [given[ranked.index].id for ranked in found] == found.ids
    assert {type(ranked.score) for ranked in found} == {float}
    assert {type(ranked.tokens_cut) for ranked in found} == {int}
    assert [ranked.score for ranked in found] == sorted((r.score for r in found), reverse=True)
    assert reranker.rank(QUERY, DOCUMENTS[:1]).ids == ["0"]
    assert (reranker.placement is None) == (kind == "identity")
    for query, documents in ((" ", DOCUMENTS), (QUERY, []), (QUERY, [given[0], given[0]])):
        with pytest.raises(InvalidInputError):
            reranker.rank(query, documents)


@pytest.mark.parametrize("kind", ["cross-encoder", "bi-encoder", "pointwise"])
def test_equal_texts_score_the_same_to_the_last_bit(
    load: Callable[..., Reranker], kind: str
) -> None:
    """In batches of other lengths rounding would tell them apart, and reorder them."""
    lengths = (30, 1, 17, 1, 9, 1, 1, 5, 1)
    documents = [" ".join(["water soil bake"] * length) for length in lengths]
    found = load(kind, batch=2).rank(QUERY, documents)
    equal = [ranked for ranked in found if lengths[ranked.index] == 1]
    assert [ranked.index for ranked in equal] == [1, 3, 5, 6, 8]
    assert len({ranked.score for ranked in equal}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_revision_is_that_of_the_weights(
    load: Callable[..., Reranker], kind: str, tiny_classifier: Path, tiny_encoder: Path,
    chat_model: Path,
) -> None:  # fmt: skip
    models = {"cross-encoder": tiny_classifier, "bi-encoder": tiny_encoder, "identity": None}
    model = models.get(kind, chat_model)
    assert load(kind).revision == (None if model is None else resolve(str(model)).revision)


@pytest.mark.parametrize("kind", KINDS)
def test_shortened_is_a_prefix_of_so_many_tokens(
    load: Callable[[str], Reranker], kind: str
) -> None:
    reranker = load(kind)
    for text in (
        "bread is baked 🤷🏽‍♀️ in an oven",
        "<|im_end|> [SEP] x",
        "a\ud800b \udfff c",
        "",
        " ",
    ):
        whole = reranker.shortened(text)
        assert (whole.text, whole.tokens_cut) == (text, 0)
        for most in range(whole.tokens + 2):
            cut = reranker.shortened(text, most)
            assert text.startswith(cut.text)
            assert cut.tokens <= most
            assert cut.tokens == reranker.shortened(cut.text).tokens
            assert cut.tokens + cut.tokens_cut == whole.tokens
    assert reranker.shortened("bread is baked", 2).text.strip() != "bread is baked"
    with pytest.raises(InvalidInputError, match="cannot be cut to -1 tokens"):
        reranker.shortened("bread", -1)


@pytest.mark.parametrize(
    "spec", ["attention", "attention:", "attention: ", "bm25:x", "identity:x", "", ":x"]
)
def test_an_unknown_kind_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(UsageError, match="unknown reranker") as raised:
        Reranker.from_spec(spec)
    assert all(kind in str(raised.value) for kind in KINDS)


def test_settings_are_refused_by_name(chat_model: Path) -> None:
    with pytest.raises(UsageError, match="has no setting 'windows'; it takes window, step,"):
        Reranker.from_spec(f"listwise:{chat_model}", windows=3)
    with pytest.raises(UsageError, match="identity has no setting 'profile'; it takes none"):
        Reranker.from_spec("identity", profile="icr")
    wrong: Any = None
    with pytest.raises(UsageError, match="named by a str, got NoneType"):
        Reranker.from_spec(wrong)
    with pytest.raises(MissingResourceError, match="no profile 'icx'"):
        Reranker.from_spec(f"attention:{chat_model}", profile="icx")
    assert default_settings("listwise") == {"window": 20, "step": 10, "max_tokens": None}


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("pointwise", {"batch": "8"}, "batch must be int, got str"),
        ("pointwise", {"instruction": None}, "instruction must be str, got NoneType"),
        ("listwise", {"window": 2.5}, "window must be int, got float"),
        ("bi-encoder", {"max_tokens": True}, "max_tokens must be int or None, got bool"),
        ("attention", {"passages": "max"}, r"passages must be Passages\(...\) or None, got 'max'"),
    ],
)
def test_settings_of_another_type_are_refused_by_name(
    load: Callable[..., Reranker], kind: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        load(kind, **settings)


def test_settings_reach_the_reranker(load: Callable[..., Reranker]) -> None:
    reranker = load("attention", profile="icr-block")
    assert isinstance(reranker, AttentionReranker)
    assert reranker.profile.name == "icr-block"
    assert split_spec("attention:a/b:c") == ("attention", "a/b:c")


def test_identity_keeps_the_order() -> None:
    reranker = IdentityReranker()
    found = reranker.rank(QUERY, ["b", "a", "c"])
    assert [(ranked.id, ranked.score) for ranked in found] == [("0", 3.0), ("1", 2.0), ("2", 1.0)]
    assert reranker.shortened(" one  two three", 2) == Shortened(" one  two", 2, 1)


def test_many_requests_by_default_are_ranked_one_by_one() -> None:
    read: list[int] = []

    def requests() -> Iterator[tuple[str | Query, Sequence[str]]]:
        queries: list[str | Query] = [Query("a", "x"), "y", Query("b", " ")]
        for number, query in enumerate(queries):
            read.append(number)
            yield query, ["one", "two"]

    stream = IdentityReranker().rank_many(requests())
    assert not read
    assert next(stream).ids == ["0", "1"]
    assert read == [0]
    next(stream)
    with pytest.raises(InvalidInputError, match=r"request 2 \('b'\), counted from 0: the query is"):
        next(stream)
    wrong: Any = [("x", ["a"], 3)]
    with pytest.raises(InvalidInputError, match=r"request 0.*: expected \(query, documents\)"):
        list(IdentityReranker().rank_many(wrong))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "listwise"])
def test_threads_get_what_one_gets(load: Callable[[str], Reranker], kind: str) -> None:
    """Queries of several lengths over two lists, so that what calls keep would be mixed up."""
    reranker = load(kind)
    requests = [
        ("bread " * (1 + n), DOCUMENTS if n % 2 else [*DOCUMENTS[::-1], "soil"]) for n in range(6)
    ]
    expected = [reranker.rank(*request) for request in requests]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda request: reranker.rank(*request), requests * 2))
    assert found == expected * 2


def test_attention_is_read_from_many_threads(chat_model: Path) -> None:
    """Every way into the model at once, over one cache of documents."""
    cache = DocumentCache(memory=2**16)
    reranker = AttentionReranker.from_pretrained(
        chat_model, profile="icr-block", device="cpu", documents=cache
    )
    explainer = Explainer(reranker)
    calls: list[Callable[[], Any]] = [
        lambda: reranker.rank(QUERY, DOCUMENTS),
        lambda: reranker.rank_queries([QUERY, "sort"], DOCUMENTS),
        lambda: list(reranker.rank_many([(QUERY, DOCUMENTS[:2]), ("guitar", DOCUMENTS)])),
        lambda: explainer.explain("water", DOCUMENTS),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda call: call(), calls * 3))
    assert found == expected * 3
