import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from ranklens.data.errors import InvalidInputError, MissingResourceError
from ranklens.data.files import atomic_writer, read_json_lines, read_lines, shown, write_json


def lines_of(path: Path) -> list[tuple[int, str]]:
    return [(place.line, line) for place, line in read_lines(path)]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["plain.txt", "packed.txt.gz"])
def test_blank_lines_are_skipped_and_still_counted(tmp_path: Path, name: str) -> None:
    content = b"one\n\n  \t\nfour\n"
    path = written(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content)
    assert lines_of(path) == [(1, "one"), (4, "four")]


def test_the_last_line_needs_no_line_end(tmp_path: Path) -> None:
    assert lines_of(written(tmp_path / "f", b"one\ntwo")) == [(1, "one"), (2, "two")]


def test_crlf_and_a_byte_order_mark_are_no_content(tmp_path: Path) -> None:
    path = written(tmp_path / "f", b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert lines_of(path) == [(1, "one"), (2, "two")]


def test_a_byte_order_mark_after_the_start_is_content(tmp_path: Path) -> None:
    assert lines_of(written(tmp_path / "f", b"one\n\xef\xbb\xbftwo\n")) == [
        (1, "one"),
        (2, "\ufefftwo"),
    ]


@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x0c", "\x0b", "\x1c", "\x85", "\r"])
def test_only_lf_ends_a_line(tmp_path: Path, inside: str) -> None:
    path = written(tmp_path / "f", f"a{inside}b\nc\n".encode())
    assert lines_of(path) == [(1, f"a{inside}b"), (2, "c")]


def test_inner_and_leading_white_space_is_kept(tmp_path: Path) -> None:
    assert lines_of(written(tmp_path / "f", b" a\t b \n")) == [(1, " a\t b ")]


def test_bytes_that_are_not_utf8_name_line_and_byte(tmp_path: Path) -> None:
    path = written(tmp_path / "latin.txt", "ok\ncafé\n".encode("latin-1"))
    with pytest.raises(InvalidInputError) as caught:
        lines_of(path)
    assert str(caught.value).startswith(f"{path}:2: not UTF-8 (byte 4 of the line)")


def test_a_missing_file_and_a_folder_are_missing_resources(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match=r"no such file: .*absent"):
        lines_of(tmp_path / "absent")
    with pytest.raises(MissingResourceError, match="no such file"):
        lines_of(tmp_path)


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    assert lines_of(written(tmp_path / "f", b"")) == []
    assert lines_of(written(tmp_path / "f.gz", gzip.compress(b""))) == []


def test_a_truncated_gzip_names_file_and_line(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b"line %d\n" % number for number in range(50_000)))
    path = written(tmp_path / "cut.gz", packed[: len(packed) // 2])
    lines: list[int] = []
    with pytest.raises(InvalidInputError, match=r"cut\.gz:\d+: damaged gzip file") as caught:
        lines.extend(place.line for place, _ in read_lines(path))
    assert lines
    assert f"{path}:{lines[-1] + 1}: " in str(caught.value)


def test_a_damaged_gzip_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"".join(b"%d\n" % (n * n) for n in range(5_000))))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    with pytest.raises(InvalidInputError, match=r"bad\.gz:\d+: damaged gzip file"):
        lines_of(written(tmp_path / "bad.gz", bytes(packed)))


def test_a_plain_file_called_gz_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"plain\.gz:1: damaged gzip file .*[Nn]ot a gzip"):
        lines_of(written(tmp_path / "plain.gz", b"one\n"))


def test_json_lines_come_with_their_place(tmp_path: Path) -> None:
    path = written(tmp_path / "f.jsonl", '{"a": 1}\n\n{"b": "x\u2028y"}\n'.encode())
    rows = [(place.line, value) for place, value in read_json_lines(path)]
    assert rows == [(1, {"a": 1}), (3, {"b": "x\u2028y"})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', r"f\.jsonl:2: not JSON \(.* at column 8\)"),
        ("id\ttext", r"f\.jsonl:2: not JSON"),
        ("[1, 2]", r"f\.jsonl:2: expected a JSON object, got '?\[1, 2\]"),
        ('"text"', r"f\.jsonl:2: expected a JSON object, got 'text'"),
        ('{"a": "cut \\ud83d"}', r"f\.jsonl:2: .*without its other half"),
        ('{"a": {"b": ["\\uDE00"]}}', r"f\.jsonl:2: .*without its other half"),
    ],
)
def test_bad_json_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path / "f.jsonl", f'{{"a": 1}}\n{line}\n'.encode())
    with pytest.raises(InvalidInputError, match=message):
        list(read_json_lines(path))


def test_an_escaped_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    path = written(tmp_path / "f.jsonl", b'{"a": "\\ud83d\\ude00"}\n')
    assert [value for _, value in read_json_lines(path)] == [{"a": "😀"}]


def test_shown_cuts_long_values() -> None:
    assert shown("abc") == "'abc'"
    assert shown("x" * 1000).endswith("… (1002 characters)")
    assert len(shown("x" * 1000)) < 110


def test_a_written_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "f.txt"
    with atomic_writer(path) as stream:
        stream.write("é\n")
        assert not path.exists()
    assert path.read_bytes() == "é\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["f.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = written(tmp_path / "f.txt", b"old\n")

    def fail() -> None:
        with atomic_writer(path) as stream:
            stream.write("new\n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path;"
        "from ranklens.data.files import atomic_writer\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with atomic_writer(Path('f.txt')) as stream:\n"
        "    stream.write('x' * 100_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("File too large: 'f.txt'")
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_refused_before_the_block(tmp_path: Path) -> None:
    file = written(tmp_path / "file", b"x")
    for path in (file / "inside.txt", tmp_path, tmp_path / ("long" * 100)):
        entered = False
        with pytest.raises(InvalidInputError, match="cannot write "), atomic_writer(path):
            entered = True
        assert not entered
    assert list(tmp_path.iterdir()) == [file]


def test_json_is_written_sorted_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert path.read_text(encoding="utf-8").startswith('{\n  "a": "é"')
    assert list(tmp_path.iterdir()) == [path]
