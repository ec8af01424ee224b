"""``ranklens judge label`` and ``judge combine``: real files, a tiny model, a real HTTP server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.judge_server import JudgeServer, Reply, completion, failure

from ranklens.data.qrels import read_qrels

pytest_plugins = ["cli_fixtures"]

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    pytest.importorskip("openai", reason="the extra judge is not installed")
    found = JudgeServer()
    yield found
    found.close()


def of(done: subprocess.CompletedProcess[str], code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def asked(server: JudgeServer) -> Counter[str]:
    return Counter(body["messages"][-1]["content"] for body in server.seen)


def test_a_local_model_labels_the_collections_pairs_and_none_twice(
    call: Call, collection: Path, decoder: str, tmp_path: Path
) -> None:
    model = decoder.removeprefix("attention:")
    command = ("judge", "label", collection, "--model", model, "-o", "labels.txt", "--json")
    # Stopped in the middle, in effect: the first five.
    first = of(call(*command, "--limit", 5))
    assert (first["pairs"], first["judged"], first["resumed"]) == (5, 5, 0)
    store = tmp_path / "labels.txt.judged.jsonl"
    held = store.read_bytes()
    found = of(call(*command, "--price", "1,10"))
    assert (found["pairs"], found["judged"], found["resumed"]) == (12, 12, 5)
    assert store.read_bytes().startswith(held)
    rows = [json.loads(line) for line in store.read_text().splitlines()][1:]
    assert len({(row["query"], row["doc"]) for row in rows}) == len(rows) == 12
    assert found["tokens_in"] == sum(row["tokens_in"] for row in rows)
    assert found["cost"] == pytest.approx((found["tokens_in"] + 120) / 1e6)
    assert 0 < found["label_mass"] < 1
    gold, labels = read_qrels(collection / "qrels.txt"), read_qrels(tmp_path / "labels.txt")
    assert [(q, d) for q in labels for d in labels[q]] == [(q, d) for q in gold for d in gold[q]]
    assert {(row["query"], row["doc"]): row["label"] for row in rows} == {
        (query_id, doc_id): grade
        for query_id, grades in labels.items()
        for doc_id, grade in grades.items()
    }
    assert sum(found["histogram"].values()) == 12
    # The same labels from a store of its own.
    other = (*command[:6], "other.txt", "--json")
    of(call(*other))
    assert (tmp_path / "other.txt").read_bytes() == (tmp_path / "labels.txt").read_bytes()
    changed = call(*command, "--prompt", "criteria")
    assert changed.returncode == 5
    assert "another judge: prompt" in changed.stderr
    changed = call(*command, "--passage-tokens", 20)
    assert (changed.returncode, "passage_tokens is None there and 20 now" in changed.stderr) == (
        5,
        True,
    )
    assert store.read_bytes().count(b"\n") == 13


def test_unparsed_and_failed_pairs_are_counted_and_have_no_label(
    call: Call, server: JudgeServer, collection: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    def reply(body: dict[str, Any], n: int) -> Reply:
        said = body["messages"][-1]["content"]
        if "quicksort" in said:
            return completion("On a scale of 0 to 3, a 2.")
        if "every day" in said and n == 0:
            return failure(400, "not now")
        return completion("Grade: 2")

    server.reply = reply
    monkeypatch.setenv("MY_KEY", "sk-secret")
    command = ("judge", "label", collection, "--endpoint", server.url, "--model", "m")
    options = ("--api-key-env", "MY_KEY", "-o", "labels.txt")
    found = of(call(*command, *options, "--json"), code=7)
    assert found["status"] == "partial"
    assert (found["pairs"], found["judged"], found["unparsed"]) == (12, 10, 1)
    ((reason, count),) = found["failed"].items()
    assert (count, "not now" in reason) == (1, True)
    labels = read_qrels(tmp_path / "labels.txt")
    assert {grade for grades in labels.values() for grade in grades.values()} == {2}
    assert "d2" not in labels["q2"]
    # Again: what failed is asked once more, what is UNPARSED is not.
    before = asked(server)
    again = call(*command, *options)
    assert again.returncode == 7
    assert "1 pairs are UNPARSED" in again.stderr
    (more,) = (asked(server) - before).items()
    assert ("every day" in more[0], more[1]) == (True, 1)
    assert sum(map(len, read_qrels(tmp_path / "labels.txt").values())) == 11
    assert set(server.keys) == {"Bearer sk-secret"}
    for path in tmp_path.iterdir():
        assert not path.is_file() or "sk-secret" not in path.read_text()


def test_holes_of_runs_are_filled_and_humans_stand(
    call: Call, server: JudgeServer, collection: Path, tmp_path: Path
) -> None:
    server.reply = lambda body, n: completion("Grade: 3")
    command = ("judge", "label", collection, "--endpoint", server.url, "--model", "m")
    human = collection / "qrels.txt"
    options = ("--pairs", collection / "all.run", "--depth", 3, "--fill", human, "-o", "all.txt")
    found = of(call(*command, *options, "--json"))
    gold, union = read_qrels(human), read_qrels(tmp_path / "all.txt")
    run = {(q, d) for q in gold for d in ("d0", "d1", "d10")}
    holes = {(q, d) for q, d in run if d not in gold[q]}
    assert (found["kept"], found["judged"]) == (12, len(holes))
    assert {(q, d) for q in union for d in union[q]} == holes | {
        (q, d) for q in gold for d in gold[q]
    }
    assert all(union[q][d] == gold[q][d] for q in gold for d in gold[q])
    assert all(union[q][d] == 3 for q, d in holes)
    filled = call(*command, "--fill", human, "-o", "none.txt")
    assert filled.returncode == 5
    assert "has a label for each" in filled.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--pairs", "nothing.run"), 4, "no candidates named 'nothing.run'"),
        (("--prompt", "umbrela"), 4, "graded or criteria"),
        (("--price", "cheap"), 2, "--price must be two numbers"),
        (("--endpoint", "http://127.0.0.1:9/v1", "--passage-tokens", 9), 2, "local models"),
        (("--model", "no-such-model"), 4, "unknown model"),
    ],
)
def test_a_wrong_call_ends_before_the_work(
    call: Call, collection: Path, tmp_path: Path, options: tuple[object, ...], code: int,
    message: str,
) -> None:  # fmt: skip
    done = call("judge", "label", collection, "--model", "m", "-o", "labels.txt", *options)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "labels.txt").exists()


def test_pairs_without_texts_are_left_out_and_said(
    call: Call, server: JudgeServer, collection: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.txt").write_text("q1 0 d0 1\nq1 0 nowhere 1\nq9 0 d0 1\n")
    command = ("judge", "label", collection, "--endpoint", server.url, "--model", "m")
    done = call(*command, "--pairs", "pairs.txt", "-o", "labels.txt")
    assert done.returncode == 0
    assert "1 pairs whose query the collection lacks" in done.stderr
    assert "1 pairs whose document the collection lacks" in done.stderr
    assert (tmp_path / "labels.txt").read_text() == "q1 0 d0 2\n"


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_killed_it_goes_on_and_asks_nothing_twice(
    server: JudgeServer, collection: Path, tmp_path: Path, program: list[str],
    program_environment: dict[str, str], run_program: Call,
) -> None:  # fmt: skip
    hold = threading.Event()

    def reply(body: dict[str, Any], n: int) -> Reply:
        # From the sixth request on there is no answer, until the process is dead.
        if len(server.seen) > 5:
            hold.wait(60)
        return completion("Grade: 1")

    server.reply = reply
    arguments = ["judge", "label", str(collection), "--endpoint", server.url, "--model", "m"]
    arguments += ["--concurrency", "1", "-o", "labels.txt", "--json"]
    process = subprocess.Popen(
        [*program, *arguments], cwd=tmp_path, env=program_environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 120
    while len(server.seen) < 6 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    hold.set()
    assert not (tmp_path / "labels.txt").exists()
    store = tmp_path / "labels.txt.judged.jsonl"
    assert store.read_bytes().count(b"\n") == 6
    # Torn, as a write in that moment would be.
    with store.open("ab") as stream:
        stream.write(b'{"query": "q2", "d')
    found = of(run_program(*arguments))
    assert (found["judged"], found["resumed"]) == (12, 5)
    counts = asked(server)
    assert len(counts) == 12
    # Twice only what had no answer yet.
    assert sorted(counts.values()) == [1] * 11 + [2]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_interrupted_it_waits_for_no_answer_and_says_what_is_kept(
    server: JudgeServer, collection: Path, tmp_path: Path, program: list[str],
    program_environment: dict[str, str],
) -> None:  # fmt: skip
    hold = threading.Event()

    def reply(body: dict[str, Any], n: int) -> Reply:
        if len(server.seen) > 3:
            hold.wait(300)
        return completion("Grade: 1")

    server.reply = reply
    arguments = ["judge", "label", str(collection), "--endpoint", server.url, "--model", "m"]
    arguments += ["--timeout", "200", "--concurrency", "1", "-o", "labels.txt"]
    process = subprocess.Popen(
        [*program, *arguments], cwd=tmp_path, env=program_environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    end = time.monotonic() + 120
    while len(server.seen) < 4 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    # Much less than the request may take.
    _, told = process.communicate(timeout=60)
    hold.set()
    assert process.returncode == 7
    assert "interrupted; 3 of 12 pairs are judged and kept in labels.txt.judged.jsonl" in told


def test_a_cost_without_tokens_is_said_to_be_more(
    call: Call, server: JudgeServer, collection: Path
) -> None:
    server.reply = lambda body, n: completion("Grade: 1", **({"usage": None} if n == 0 else {}))
    command = ("judge", "label", collection, "--endpoint", server.url, "--model", "m")
    done = call(*command, "--price", "1,1", "--limit", 2, "-o", "labels.txt")
    assert "2 answers came without their tokens" in done.stderr
    assert of(call(*command, "--limit", 2, "-o", "labels.txt", "--json"))["without_tokens"] == 2


def test_several_judges_become_one(call: Call, tmp_path: Path) -> None:
    for name, grades in {"a": "013", "b": "012", "c": "023"}.items():
        lines = (f"q 0 d{n} {grade}\n" for n, grade in enumerate(grades))
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    command = ("judge", "combine", "a.txt", "b.txt", "c.txt", "-o", "one.txt")
    found = of(call(*command, "--json"))
    counts = {name: found[name] for name in ("pairs", "unanimous", "tied", "incomplete")}
    assert counts == {"pairs": 3, "unanimous": 1, "tied": 0, "incomplete": 0}
    assert (tmp_path / "one.txt").read_text() == "q 0 d0 0\nq 0 d1 1\nq 0 d2 3\n"
    done = call(*command, "--by", "best")
    assert (done.returncode, "majority, median, mean" in done.stderr) == (2, True)
