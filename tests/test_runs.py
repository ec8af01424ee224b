import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.records import ScoredDoc
from ranklens.data.runs import Run, read_run, strictly_decreasing, write_run

FLOAT32_MAX = float(np.finfo(np.float32).max)


def run_file(tmp_path: Path, text: str, name: str = "a.run") -> Path:
    path = tmp_path / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def ids(run: Run, query_id: str) -> list[str]:
    return [doc.doc_id for doc in run[query_id]]


@pytest.mark.parametrize("name", ["a.run", "a.run.gz"])
def test_a_run_is_read_in_score_order_with_comments_skipped(tmp_path: Path, name: str) -> None:
    text = "# ir_metadata.start\nq1 Q0 low 1 -2e-1 bm25\nq1\tQ0\thigh\t2\t1.5E+1\tbm25\n"
    run = read_run(run_file(tmp_path, text + "q2 Q0 d 1 7 bm25\n", name))
    assert run["q1"] == (ScoredDoc("high", 15.0), ScoredDoc("low", -0.2))
    assert list(run) == ["q1", "q2"]
    assert run.tag == "bm25"


def test_a_pipe_is_refused_before_anything_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"q1 Q0 d 1 7 bm25\n")
    os.close(writer)
    with pytest.raises(MissingResourceError, match="no such file: /dev/fd/"):
        read_run(Path(f"/dev/fd/{reader}"))
    with os.fdopen(reader) as stream:
        assert stream.read()


def test_ties_are_ordered_by_rank_then_by_document_id(tmp_path: Path) -> None:
    rows = [("d", 10, 1.0), ("b", 9, 1.0), ("c", 9, 1.0), ("a", 11, 1.0), ("top", 99, 2.0)]
    text = "".join(f"q Q0 {doc} {rank} {score} t\n" for doc, rank, score in rows)
    assert ids(read_run(run_file(tmp_path, text)), "q") == ["top", "b", "c", "d", "a"]


def test_a_rank_may_be_any_number_and_is_compared_as_one(tmp_path: Path) -> None:
    text = "q Q0 b 1.7 5 t\nq Q0 a 1.2 5 t\nq Q0 c 1.0 5 t\n"
    assert ids(read_run(run_file(tmp_path, text)), "q") == ["c", "a", "b"]


def test_what_follows_the_tag_is_ignored_and_the_last_tag_counts(tmp_path: Path) -> None:
    text = "q Q0 a 1 2.0 first more junk at\nq Q0 b 2 1.0 last the end\n"
    run = read_run(run_file(tmp_path, text))
    assert run.tag == "last"
    write_run(run, tmp_path / "again.run")
    assert read_run(tmp_path / "again.run")["q"] == run["q"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 1.0", r"a\.run:3: expected 6 columns \(.*\), got 5: 'q Q0 d 1 1\.0'"),
        ("nonsense", r"a\.run:3: expected 6 columns .* got 1: 'nonsense'"),
        ("q Q0 d 1 nan t", r"a\.run:3: the score 'nan' is not a finite number"),
        ("q Q0 d 1 -inf t", r"a\.run:3: the score '-inf' is not a finite number"),
        ("q Q0 d 1 1e999 t", r"a\.run:3: the score '1e999' is not a finite number"),
        ("q Q0 d 1 high t", r"a\.run:3: the score 'high' is not a finite number"),
        ("q Q0 d 1 1_5 t", r"a\.run:3: the score '1_5' is not a finite number"),
        ("q Q0 d 1 1,5 t", r"a\.run:3: the score '1,5' is not a finite number"),
        ("q Q0 d first 1.0 t", r"a\.run:3: the rank 'first' is not a finite number"),
        ("q Q0 d nan 1.0 t", r"a\.run:3: the rank 'nan' is not a finite number"),
        ("q Q0 known 5 0.1 t", r"a\.run:3: document 'known' occurs twice for query 'q' .*line 1"),
    ],
)
def test_a_bad_line_names_file_line_and_value(tmp_path: Path, line: str, message: str) -> None:
    path = run_file(tmp_path, f"q Q0 known 1 9.0 t\n\n{line}\n")
    with pytest.raises(InvalidInputError, match=message):
        read_run(path)


def test_one_document_may_answer_two_queries(tmp_path: Path) -> None:
    run = read_run(run_file(tmp_path, "q1 Q0 d 1 1 t\nq2 Q0 d 1 1 t\n"))
    assert ids(run, "q1") == ids(run, "q2") == ["d"]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_file_without_lines_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"a\.run: the run file is empty"):
        read_run(run_file(tmp_path, text))


def test_a_missing_run_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such file"):
        read_run(tmp_path / "absent.run")


SCORE_LISTS = {
    "ties": [1.0] * 50,
    "zeros": [0.0, 0.0, -0.0, 0.0],
    "near ties below float32": [20.000000002, 20.000000001, 20.0],
    "negative": [-1.0, -1.0, -1.0000000001, -2.0],
    "huge": [1e300, 1e299, 1e39, 3.5e38, FLOAT32_MAX],
    "huge negative": [-1e38, -1e300, -1e301, -1e302],
    "both ends": [1e300, 1e300, -1e300, -1e300],
    "tiny": [1e-300, 1e-301, 0.0, -1e-300],
    "subnormal": [1.4e-45, 1.4e-45, 1.4e-45],
    "cascade": [1.0, 1.0, float(np.nextafter(np.float32(1), np.float32(0))), 0.5],
}


@pytest.mark.parametrize("scores", SCORE_LISTS.values(), ids=SCORE_LISTS.keys())
def test_written_scores_strictly_decrease_in_single_precision(
    tmp_path: Path, scores: list[float]
) -> None:
    # Ids ascend, so that any tie left over would turn the order round.
    order = [f"d{index:02}" for index in range(len(scores))]
    run = Run({"q": [ScoredDoc(doc, score) for doc, score in zip(order, scores, strict=True)]})
    write_run(run, tmp_path / "a.run")

    lines = (tmp_path / "a.run").read_text(encoding="utf-8").splitlines()
    assert [line.split()[2:4] for line in lines] == [
        [doc, str(rank)] for rank, doc in enumerate(order, start=1)
    ]
    written = [float(line.split()[4]) for line in lines]
    single = np.array(written, dtype=np.float32)
    assert np.isfinite(single).all()
    assert (np.diff(single.astype(np.float64)) < 0).all()
    # The text carries exactly the single-precision number.
    assert [float(f"{value:.9g}") for value in single.tolist()] == written
    back = read_run(tmp_path / "a.run")
    assert ids(back, "q") == order
    assert back.tied_queries == ()


def test_scores_that_decrease_already_are_not_changed() -> None:
    scores = [3.5, 1.25, 0.0, -7.75, -1e30]
    assert strictly_decreasing(scores) == [float(np.float32(score)) for score in scores]
    assert strictly_decreasing([]) == []


def test_only_the_equal_score_moves_and_by_one_step() -> None:
    below = float(np.nextafter(np.float32(2.0), np.float32(0)))
    assert strictly_decreasing([2.0, 2.0, 1.0]) == [2.0, below, 1.0]


def test_a_run_keeps_its_order_its_queries_and_its_tag_in_a_file(tmp_path: Path) -> None:
    run = Run(
        {"q2": [ScoredDoc("é", 2.0), ScoredDoc("a", 1.0)], "q1": [ScoredDoc("a", 0.5)]}, tag="mine"
    )
    write_run(run, tmp_path / "a.run")
    back = read_run(tmp_path / "a.run")
    assert dict(back) == dict(run)
    assert list(back) == ["q2", "q1"]
    assert back.tag == "mine"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run({"q": [ScoredDoc("a b", 1.0)]}), "the document id 'a b' has white space"),
        (Run({"q": [ScoredDoc("a\u00a0b", 1.0)]}), "the document id .* has white space"),
        (Run({"q 1": [ScoredDoc("a", 1.0)]}), "the query id 'q 1' has white space"),
        (Run({"#1": [ScoredDoc("a", 1.0)]}), "the query id '#1' starts with '#'"),
        (Run({"q": [ScoredDoc("a", 1.0)]}, tag="my run"), "the run tag 'my run' has white space"),
    ],
)
def test_what_the_format_cannot_carry_is_refused_and_nothing_is_left(
    tmp_path: Path, run: Run, message: str
) -> None:
    path = run_file(tmp_path, "old\n")
    good = {"first": [ScoredDoc("fine", 1.0)]}
    with pytest.raises(InvalidInputError, match=message):
        write_run(Run({**good, **run}, tag=run.tag), path)
    assert path.read_text(encoding="utf-8") == "old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        ([ScoredDoc("a", 1.0), ScoredDoc("a", 0.5)], "'q': document 'a' occurs twice"),
        ([ScoredDoc("a", 1.0), ScoredDoc("b", 1.5)], "document 'b' scores higher than"),
        ([ScoredDoc("a", math.nan)], "document 'a' has the score nan"),
        ([ScoredDoc("a", math.inf)], "document 'a' has the score inf"),
        ([ScoredDoc(7, 1.0)], "document id must be a str, got int 7"),  # type: ignore[arg-type]
        ([ScoredDoc("", 1.0)], "document id must not be empty"),
    ],
)
def test_a_run_refuses_what_is_no_ranking(docs: list[ScoredDoc], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Run({"q": docs})


def test_a_run_refuses_a_query_id_that_is_no_text() -> None:
    with pytest.raises(InvalidInputError, match="query id must be a str, got int 1"):
        Run({1: [ScoredDoc("a", 1.0)]})  # type: ignore[dict-item]


def test_a_run_keeps_equal_scores_as_given_and_names_the_queries() -> None:
    run = Run(
        {
            "equal": [ScoredDoc("z", 1.0), ScoredDoc("a", 1.0)],
            "equal as float32": [ScoredDoc("z", 20.000000002), ScoredDoc("a", 20.000000001)],
            "beyond float32": [ScoredDoc("z", 1e300), ScoredDoc("a", 1e299)],
            "none": [ScoredDoc("z", 2.0), ScoredDoc("a", 1.0)],
            "empty": [],
        }
    )
    assert ids(run, "equal") == ["z", "a"]
    assert run.tied_queries == ("equal", "equal as float32", "beyond float32")
    assert repr(run) == "Run(tag='ranklens', queries=5, documents=8)"


def test_a_run_does_not_change_with_the_callers_list() -> None:
    docs = [ScoredDoc("a", 1.0)]
    rankings = {"q": docs}
    run = Run(rankings)
    docs.append(ScoredDoc("b", 0.5))
    rankings["q2"] = docs
    assert dict(run) == {"q": (ScoredDoc("a", 1.0),)}


def test_a_plain_file_and_one_with_comments_read_alike(tmp_path: Path) -> None:
    lines = ["q1 Q0 b 2 1.5 t", "q2 Q0 a 1 2 u", "q1 Q0 a 1 1.5 t", "q1 Q0 c 3 1e1 the last tag"]
    plain, commented = tmp_path / "plain.run", tmp_path / "commented.run"
    plain.write_text("\n".join(lines))
    # A comment or a blank line is enough to be read line by line with its place.
    commented.write_text("\n".join(["# ir_metadata.start", *lines[:2], "", *lines[2:]]))
    read = [read_run(path) for path in (plain, commented)]
    assert dict(read[0]) == dict(read[1])
    assert dict(read[0]) == {
        "q1": (ScoredDoc("c", 10.0), ScoredDoc("a", 1.5), ScoredDoc("b", 1.5)),
        "q2": (ScoredDoc("a", 2.0),),
    }
    assert [run.tag for run in read] == ["the", "the"]


def test_equal_scores_are_ordered_by_rank_then_id(tmp_path: Path) -> None:
    path = tmp_path / "a.run"
    path.write_text("q Q0 b 1 1 t\nq Q0 a 1 1 t\nq Q0 c 0 1 t\nq Q0 d 9 2 t\n")
    assert [doc.doc_id for doc in read_run(path)["q"]] == ["d", "c", "a", "b"]
