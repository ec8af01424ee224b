import gzip
import os
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.qrels import Qrels, read_qrels
from ranklens.data.records import Judgement

TREC = "q1 0 d1 2\nq1\t0\td2\t-1\nq2 Q0 d1 +1\n"
BEIR = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t-1\nq2\td1\t1\n"
GRADES = {"q1": {"d1": 2, "d2": -1}, "q2": {"d1": 1}}


def qrels_file(tmp_path: Path, text: str, name: str = "qrels.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["q.txt", "q.tsv.gz"])
@pytest.mark.parametrize("text", [TREC, BEIR], ids=["trec", "beir"])
def test_both_formats_plain_and_packed(tmp_path: Path, text: str, name: str) -> None:
    qrels = read_qrels(qrels_file(tmp_path, text, name))
    assert {query_id: dict(grades) for query_id, grades in qrels.items()} == GRADES
    assert repr(qrels) == "Qrels(queries=2, judgements=3)"


def test_a_pipe_is_refused_before_anything_is_read() -> None:
    reader, writer = os.pipe()
    os.write(writer, TREC.encode())
    os.close(writer)
    with pytest.raises(MissingResourceError, match="no such file: /dev/fd/"):
        read_qrels(Path(f"/dev/fd/{reader}"))
    with os.fdopen(reader) as stream:
        assert stream.read()


def test_comments_blank_lines_and_a_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    text = "\ufeffquery-id\tcorpus-id\tscore\n# by hand\n\nq1\td1\t1\n"
    assert dict(read_qrels(qrels_file(tmp_path, text))["q1"]) == {"d1": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q 0 d 1\nq 0 d\n", r"qrels\.txt:2: expected 4 columns \(query 0 document grade\), got 3"),
        ("q 0 d 1 extra\n", r"qrels\.txt:1: expected 4 columns .* got 5: 'q 0 d 1 extra'"),
        ("q\td\t1\n", r"qrels\.txt:1: expected 4 columns .* got 3"),
        (BEIR + "q1 0 d9 1\n", r"qrels\.txt:5: expected 3 columns \(.*as its header\), got 4"),
        ("q 0 d high\n", r"qrels\.txt:1: the grade 'high' is not an integer"),
        ("q 0 d 1.0\n", r"qrels\.txt:1: the grade '1\.0' is not an integer"),
        ("q 0 d 1_0\n", r"qrels\.txt:1: the grade '1_0' is not an integer"),
        ("q 0 d nan\n", r"qrels\.txt:1: the grade 'nan' is not an integer"),
        # trec_eval would take gigabytes for the one, and another grade for the others.
        ("q 0 d 2147483647\n", r"qrels\.txt:1: the grade '2147483647' is not .* within ±1,000,000"),
        ("q 0 d 1000001\n", r"qrels\.txt:1: the grade '1000001' is not an integer within"),
        ("q 0 d -4294967297\n", r"qrels\.txt:1: the grade '-4294967297' is not an integer within"),
        (f"q 0 d {'9' * 5000}\n", r"qrels\.txt:1: the grade '9{79}… \(5002 characters\) is not an"),
        (
            "q 0 d 1\nq 0 e 1\nq 0 d 2\n",
            r"qrels\.txt:3: document 'd' of query 'q' is judged 2 here and 1 on line 1",
        ),
    ],
)
def test_a_bad_line_names_file_line_and_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_qrels(qrels_file(tmp_path, text))


def test_a_pair_judged_twice_alike_counts_once(tmp_path: Path) -> None:
    qrels = read_qrels(qrels_file(tmp_path, "q 0 d 1\nq 0 d 1\n"))
    assert repr(qrels) == "Qrels(queries=1, judgements=1)"


@pytest.mark.parametrize("text", ["", "\n", "query-id\tcorpus-id\tscore\n", "# none\n"])
def test_no_judgement_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"qrels\.txt: the qrels file is empty"):
        read_qrels(qrels_file(tmp_path, text))


def test_a_missing_file_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such file"):
        read_qrels(tmp_path / "absent.tsv")


def test_qrels_refuse_contradictions_and_what_is_no_judgement() -> None:
    pair = Judgement("q", "d", 1)
    assert dict(Qrels([pair, pair])["q"]) == {"d": 1}
    with pytest.raises(InvalidInputError, match="query 'q': document 'd' is judged twice, 1 and 2"):
        Qrels([pair, Judgement("q", "d", 2)])
    with pytest.raises(InvalidInputError, match="query id must be a str, got int 1"):
        Qrels([Judgement(1, "d", 1)])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="document id must be a str, got int 2"):
        Qrels([Judgement("q", 2, 1)])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="grade of document 'd' must be an int, got float"):
        Qrels([Judgement("q", "d", 0.5)])  # type: ignore[arg-type]
    with pytest.raises(
        InvalidInputError, match="of document 'd' must lie within ±1,000,000, got 4"
    ):
        Qrels([Judgement("q", "d", 4294967297)])
    assert Qrels([Judgement("q", "d", -(10**6))])["q"]["d"] == -(10**6)


def test_restriction_keeps_the_wanted_queries_only() -> None:
    qrels = Qrels([Judgement("a", "d", 1), Judgement("b", "d", 0), Judgement("b", "e", 3)])
    assert {q: dict(g) for q, g in qrels.restricted_to(["b", "absent"]).items()} == {
        "b": {"d": 0, "e": 3}
    }
    assert len(qrels) == 2
