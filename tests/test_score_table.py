from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError, UsageError
from ranklens.data.score_table import read_score_table

HEADER = "run\ttopic\tndcg_cut_10\tmap"
ROWS = ["a\t1\t0.5\t0.1", "a\t2\t0.25\t0.3", "b\t1\t1.0\t0.2", "b\tall\t1.0\t0.2"]


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_measure_is_read_and_missing_topics_are_zero(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", HEADER, *ROWS)
    table = read_score_table(path, "nDCG@10")
    assert (table.systems, table.topics) == (("a", "b"), ("1", "2"))
    assert table.values.tolist() == [[0.5, 0.25], [1.0, 0.0]]
    assert table.missing == 1
    assert table.notes == ("1 pairs of a run and a topic are missing and count as 0",)
    assert table.means() == {"a": 0.375, "b": 0.5}
    assert read_score_table(path, "map").values.tolist() == [[0.1, 0.3], [0.2, 0.0]]
    assert read_score_table(path, "AP").means() == read_score_table(path, "map").means()
    small = table.restricted_to(["b", "a"], ["2"])
    assert small.values.tolist() == [[0.0], [0.25]]


def test_gzip_and_means_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv.gz"
    lines = [HEADER, *ROWS[:2], "a\tall\t0.3750\t0.2", "b\t1\t1.0\t0.2", "b\tall\t0.9\t0.2"]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    note, _ = read_score_table(path, "ndcg_cut_10").notes
    assert note.startswith(str(path))
    assert "of 1 runs" in note
    assert "'b', 0.9000 for a mean of 1.0000" in note
    [missing] = read_score_table(path, "map").notes
    assert missing.startswith("1 pairs")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["topic\trun\n"], "columns"),
        ([HEADER, "a\t1\t0.5"], r"t\.tsv:2: expected 4 columns"),
        ([HEADER, "a\t1\tx\t0"], r"t\.tsv:2: the score 'x' is not a finite number"),
        ([HEADER, "a\t1\tnan\t0"], "finite"),
        ([HEADER, "a\t1\t1_0\t0"], "finite"),
        ([HEADER, ROWS[0], ROWS[0]], r"t\.tsv:3: the topic '1' of run 'a' occurs twice"),
        ([HEADER, ROWS[3]], "no scores"),
        ([HEADER + "\tndcg_cut_10", "a\t1\t1\t0\t1"], r"t\.tsv:1: the column 'ndcg_cut_10' occurs"),
        (["q0 0 d1 1"], "expected a header with run, topic and measures"),
        ([], "expected a header"),
    ],
)
def test_broken_tables_name_the_line(tmp_path: Path, lines: list[str], message: str) -> None:
    error = UsageError if message == "columns" else InvalidInputError
    with pytest.raises(error, match="has no column" if message == "columns" else message):
        read_score_table(written(tmp_path / "t.tsv", *lines), "nDCG@10")


def test_absent_measures_and_files(tmp_path: Path) -> None:
    path = written(tmp_path / "t.tsv", HEADER, *ROWS)
    for measure in ("nDCG@20", "AP(rel=2)", "run", "topic"):
        with pytest.raises(UsageError, match="it has: ndcg_cut_10, map"):
            read_score_table(path, measure)
    with pytest.raises(MissingResourceError, match=r"none\.tsv"):
        read_score_table(tmp_path / "none.tsv", "map")
