"""Collections, candidates and models that cannot be used: refused early, with what is wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(call: Call, collection: Path, tmp_path: Path) -> Call:
    """Return a function that calls ``ranklens run`` on the collection."""
    return lambda *arguments: call("run", collection, "--out", tmp_path / "out", *arguments)


def test_an_unknown_profile_lists_the_known_ones(run: Call) -> None:
    done = run("--profile", "irc")
    assert done.returncode == 4
    assert "no profile 'irc'" in done.stderr
    assert "did you mean 'icr'?" in done.stderr


def test_a_profile_with_an_unknown_field_names_it(run: Call, tmp_path: Path) -> None:
    profile = tmp_path / "mine.json"
    profile.write_text('{"name": "mine", "heads": "all"}')
    done = run("--profile", profile)
    assert done.returncode == 5
    assert "mine.json: unknown field 'heads'" in done.stderr


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("smollm2", "did you mean smollm2-135m?"),
        ("./nowhere", "there is no model folder"),
        ("somebody/something", "HF_HUB_OFFLINE is set"),
    ],
)
def test_an_unknown_model_says_what_can_be_given(run: Call, model: str, named: str) -> None:
    pytest.importorskip("torch", reason="the extra llm is not installed")
    done = run("--reranker", f"attention:{model}")
    assert done.returncode == 4
    assert named in done.stderr


@pytest.mark.parametrize(("option", "value"), [("--device", "tpu"), ("--dtype", "float8")])
def test_a_device_or_dtype_that_does_not_exist(
    run: Call, decoder: str, option: str, value: str
) -> None:
    done = run("--reranker", decoder, option, value)
    assert done.returncode == 2
    assert repr(value) in done.stderr


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_model_that_is_no_decoder(
    run: Call, tiny_model: Callable[..., Path], kind: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the extra llm is not installed")
    from transformers import BertConfig, BertModel, T5Config, T5Model

    # The folder and its tokenizer, with another model in it.
    model = tiny_model()
    if kind == "bert":
        BertModel(
            BertConfig(
                hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
            )
        ).save_pretrained(model)
    else:
        T5Model(T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)).save_pretrained(
            model
        )
    done = run("--reranker", f"attention:{model}")
    assert done.returncode == 5
    assert "needs a decoder" in done.stderr
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_a_model_folder_without_weights(run: Call, decoder: str) -> None:
    folder = Path(decoder.partition(":")[2])
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    done = run("--reranker", decoder)
    assert done.returncode == 5
    assert f"the model folder {folder} has no weights" in done.stderr


def test_a_model_folder_that_lacks_some_weights(run: Call, decoder: str) -> None:
    from safetensors.torch import load_file, save_file

    [weights] = Path(decoder.partition(":")[2]).glob("*.safetensors")
    kept = {n: t for n, t in load_file(weights).items() if "layers.1.self_attn.q_proj" not in n}
    save_file(kept, weights, metadata={"format": "pt"})
    done = run("--reranker", decoder)
    assert done.returncode == 5
    assert "layers.1.self_attn.q_proj.weight" in done.stderr


def test_candidates_that_do_not_exist(run: Call) -> None:
    done = run("--candidates", "al")
    assert done.returncode == 4
    assert "no candidates named 'al' (it has: all)" in done.stderr


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("q1 Q0 d0 1 1.0 tag\nq1 Q0 d1 2 high tag\n", "own.run:2: the score 'high'"),
        ("x1 Q0 d0 1 1.0 tag\n", "have none of the 4 queries of collection 'tiny'"),
        ("q1 Q0 elsewhere 1 1.0 tag\n", "no judged document"),
        ("q1 Q0 d0 1 1.0 tag\nq1 Q0 d99 2 0.5 tag\n", "not in the collection, for example 'd99'"),
    ],
)
def test_candidates_that_cannot_be_used(
    run: Call, call: Call, collection: Path, decoder: str, content: str, named: str
) -> None:
    candidates = collection / "own.run"
    candidates.write_text(content)
    done = run("--candidates", candidates, "--reranker", decoder)
    assert done.returncode == 5
    assert named in done.stderr
    if "elsewhere" not in content:
        output = collection / "x.run"
        done = call("rerank", collection, candidates, "-o", output, "--reranker", decoder)
        assert done.returncode == 5
        assert named in done.stderr
        assert not output.exists()


@pytest.mark.parametrize(
    ("file", "content", "code", "named"),
    [
        ("docs.jsonl", "", 5, "0 documents"),
        ("docs.jsonl", '{"_id": "d0", "text": "a"}\n{"_id": "d0", "text": "b"}\n', 5, "jsonl:2:"),
        ("docs.jsonl", '{"_id": "d0", "text": "nothing alike"}\n', 5, "a word of any query"),
        ("docs.jsonl", None, 4, "no such file"),
        ("queries.jsonl", '{"_id": "q1", "text": "bake"}\n{"_id": "q2"}\n', 5, "jsonl:2: no field"),
        ("queries.jsonl", "", 5, "no query id"),
        ("qrels.txt", "other 0 d0 1\n", 5, "no query id of the qrels (first: 'other')"),
        ("qrels.txt", "q1 0 d0\n", 5, "qrels.txt:1: expected 4 columns"),
        ("collection.toml", 'docs = "docs.jsonl"\nquery = "q"\n', 5, "unknown key 'query'"),
        ("collection.toml", "docs\n", 5, "not valid TOML"),
    ],
)
def test_a_collection_that_cannot_be_used(
    call: Call, collection: Path, file: str, content: str | None, code: int, named: str
) -> None:
    if content is None:
        (collection / file).unlink()
    else:
        (collection / file).write_text(content)
    output = collection / "x.run"
    done = call("retrieve", collection, "-o", output)
    assert done.returncode == code
    assert named in done.stderr
    assert not output.exists()


def test_long_lists_are_refused_or_spread(run: Call) -> None:
    done = run("--long-lists", "split")
    assert done.returncode == 2
    assert "--long-lists is 'split'; choose refuse or anchors" in done.stderr


@pytest.mark.parametrize("passages", ["mean", "max:", "max:many", "max:²", "max:0"])
def test_passages_that_make_no_sense_are_refused(run: Call, passages: str) -> None:
    done = run("--passages", passages)
    assert done.returncode == 2, done.stderr
    assert f"--passages is {passages!r}; expected max" in done.stderr
