"""``ranklens rerank`` and ``run`` with rerankers that are not attention."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ranklens import Reranker, read_run
from ranklens.cli.specs import AttentionSpec, RerankerSpec
from ranklens.data.errors import UsageError
from ranklens.data.load import load_collection

pytest_plugins = ["cli_fixtures", "baseline_fixtures", "dense_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


def test_identity_keeps_the_candidates(call: Call, collection: Path, tmp_path: Path) -> None:
    output = tmp_path / "same.run"
    done = call("rerank", collection, "all", "--reranker", "identity", "-o", output, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == 4
    before, after = read_run(collection / "all.run"), read_run(output)
    assert {q: [d.doc_id for d in docs] for q, docs in after.items()} == {
        q: [d.doc_id for d in docs] for q, docs in before.items()
    }


def test_answers_that_are_no_order_are_counted_at_the_end(
    call: Call, collection: Path, chat_model: Path, tmp_path: Path
) -> None:
    done = call("rerank", collection, "all", "--reranker", f"listwise:{chat_model}", "--depth", 3,
                "-o", tmp_path / "written.run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    # A random model writes no order.
    said = f"warning: 4 of 4 answers of listwise:{chat_model.name} were no clean order"
    assert done.stderr.count(said) == 1


def test_a_cross_encoder_reranks_a_run(
    call: Call, collection: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    output, spec = tmp_path / "reranked.run", f"cross-encoder:{tiny_classifier}"
    done = call("rerank", collection, "all", "--reranker", spec, "--depth", 5, "-o", output)
    assert done.returncode == 0, done.stderr
    loaded = load_collection(str(collection))
    first, found = loaded.candidates("all"), read_run(output)
    reranker = Reranker.from_spec(spec)
    for query in loaded.queries:
        ids = [doc.doc_id for doc in first[query.id]]
        texts = loaded.documents.get_many(ids)
        expected = reranker.rank(query, [texts[doc_id] for doc_id in ids[:5]])
        assert [doc.doc_id for doc in found[query.id]] == [*expected.ids, *ids[5:]]
        scores = [doc.score for doc in found[query.id][:5]]
        assert scores == pytest.approx([ranked.score for ranked in expected])


def test_a_run_is_described_and_resumed_to_the_same_bytes(
    call: Call, collection: Path, tiny_classifier: Path, tmp_path: Path
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    command = ("run", collection, "--reranker", f"cross-encoder:{tiny_classifier}", "--out")
    done = call(*command, whole)
    assert done.returncode == 0, done.stderr
    described = json.loads((whole / "manifest.json").read_text())["reranker"]
    assert described["kind"] == "cross-encoder"
    assert described["model"] == tiny_classifier.name
    assert described["revision"].startswith("sha256:")
    assert described["batch"] == 32
    assert described["max_tokens"] is None
    assert {"ranklens", "torch", "transformers"} <= set(described["versions"])
    assert "profile" not in described
    shutil.copytree(whole, torn)
    results = (torn / "results.jsonl").read_bytes()
    (torn / "results.jsonl").write_bytes(results[: len(results) // 2])
    for name in ("reranked.run", "metrics.json"):
        (torn / name).unlink()
    again = call(*command, torn)
    assert again.returncode == 0, again.stderr
    for file in ("manifest.json", "results.jsonl", "reranked.run", "metrics.json"):
        assert (torn / file).read_bytes() == (whole / file).read_bytes()
    other = call("run", collection, "--reranker", "identity", "--out", torn)
    assert other.returncode == 5
    assert "reranker.kind was 'cross-encoder' and is now 'identity'" in other.stderr


@pytest.mark.parametrize(
    "option",
    [
        ("--profile", "icr"),
        ("--long-lists", "anchors"),
        ("--passages", "max"),
        ("--documents", "kept"),
        ("--scale", "probability"),
    ],
)
def test_options_of_attention_are_refused(
    call: Call, collection: Path, option: tuple[str, str]
) -> None:
    done = call("rerank", collection, "all", "--reranker", "identity", *option, "-o", "x.run")
    assert done.returncode == 2
    assert option[0] in done.stderr
    assert "attention:MODEL" in done.stderr


def test_unknown_kinds_and_commands_that_read_attention(call: Call, collection: Path) -> None:
    done = call("rerank", collection, "all", "--reranker", "magic:x", "-o", "x.run")
    assert done.returncode == 2
    assert "unknown reranker 'magic:x'" in done.stderr
    assert "listwise-logits:MODEL" in done.stderr
    for command in (("bias", collection), ("explain", collection, "q1")):
        done = call(*command, "--reranker", "cross-encoder:x")
        assert done.returncode == 2
        assert "this command reads attention, which cross-encoder:x does not give" in done.stderr


def test_specifications_describe_every_kind(
    tiny_encoder: Path, chat_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RerankerSpec.parse(f"bi-encoder:{tiny_encoder}", None, "cpu", None)
    assert "sentence-transformers" in spec.describe()["versions"]
    assert spec.describe()["pooling"] is None
    written = RerankerSpec.parse(f"listwise:{chat_model}", None, "cpu", "float32")
    assert (written.describe()["window"], written.describe()["step"]) == (20, 10)
    assert written.describe()["dtype"] == "float32"
    assert written.load().name == f"listwise:{chat_model.name}"
    assert list(RerankerSpec.parse("identity", None, None, None).describe()) == ["kind", "versions"]
    attention = RerankerSpec.parse(f"attention:{chat_model}", "icr", None, None)
    assert isinstance(attention, AttentionSpec)
    assert attention.describe()["profile"]["name"] == "icr"
    with pytest.raises(UsageError, match="use attention:MODEL"):
        AttentionSpec.parse("identity", None, None, None)
