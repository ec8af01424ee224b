"""Verdicts as they come, one JSON line a pair, so that work goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranklens.data.errors import InvalidInputError
from ranklens.data.files import shown
from ranklens.eval.judge.verdict import Call, Pair, Verdict

_FORMAT = "ranklens judge 1"


class VerdictStore:
    """An append-only JSONL file: a line that says who judges and how, then one line a pair.

    A last line without its end, of a process that was killed, is cut off. A pair is found again
    only if its texts are the same. ``judge`` is what makes a label: a store with verdicts of
    another is refused with InvalidInputError that names what differs, and so is a damaged line.
    One process at a time may have a store open; use it as a context manager.
    """

    def __init__(self, path: Path, judge: Mapping[str, Any]) -> None:
        from filelock import FileLock, Timeout

        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._verdicts: dict[tuple[str, str], tuple[str, Verdict]] = {}
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InvalidInputError(f"{path} is in use by another process") from None
        except OSError as error:
            raise InvalidInputError(f"cannot write {path}: {error.strerror}") from None
        try:
            self._load({"format": _FORMAT, **judge})
            self._stream = path.open("a", encoding="utf-8", newline="\n")
            if not path.stat().st_size:
                self._write({"format": _FORMAT, **judge})
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
        self._lock.release()

    def get(self, pair: Pair) -> Verdict | None:
        """Return the verdict on a pair, None where there is none on these texts."""
        texts, verdict = self._verdicts.get((pair.query_id, pair.doc_id), ("", None))
        return verdict if texts == _digest(pair) else None

    def add(self, pair: Pair, verdict: Verdict) -> None:
        """Append a verdict; it survives the process from here on."""
        texts = _digest(pair)
        self._verdicts[pair.query_id, pair.doc_id] = texts, verdict
        calls = [
            {
                "name": call.name,
                "grade": call.grade,
                **({"answer": call.answer} if call.answer is not None else {}),
                **({"p": call.probabilities, "mass": call.mass} if call.probabilities else {}),
            }
            for call in verdict.calls
        ]
        self._write(
            {
                "query": pair.query_id,
                "doc": pair.doc_id,
                "texts": texts,
                "label": verdict.grade,
                "calls": calls,
                "tokens_in": verdict.tokens_in,
                "tokens_out": verdict.tokens_out,
                "tokens_cut": verdict.tokens_cut,
            }
        )

    def _write(self, row: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n")
        self._stream.flush()

    def _load(self, judge: Mapping[str, Any]) -> None:
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        lines = raw[:whole].splitlines()
        if not whole and not _begins(raw, judge):
            # No line of ours that was torn: somebody's file, which is not to be lost.
            lines = [raw]
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if number == 1 and len(lines) == 1 and row["format"] == _FORMAT:
                    # Nothing was judged: a mistyped judge is no reason to refuse the right one.
                    whole = whole if row == judge else 0
                elif number == 1:
                    self._check(row, judge)
                else:
                    self._verdicts[row["query"], row["doc"]] = row["texts"], _verdict(row)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, InvalidInputError):
                    raise
                raise InvalidInputError(
                    f"{self.path}:{number}: not a line of a store of verdicts "
                    f"({shown(line.decode(errors='replace'))}); mend or remove it, or give "
                    "another -o"
                ) from None
        if whole < len(raw):
            with self.path.open("r+b") as stream:
                stream.truncate(whole)

    def _check(self, found: Mapping[str, Any], judge: Mapping[str, Any]) -> None:
        for key in judge.keys() | found.keys():
            if found.get(key) != judge.get(key):
                raise InvalidInputError(
                    f"{self.path} holds verdicts of another judge: {key} is "
                    f"{shown(found.get(key))} there and {shown(judge.get(key))} now; give another "
                    "-o, or remove the file to judge all pairs anew"
                )


def _begins(torn: bytes, judge: Mapping[str, Any]) -> bool:
    """Tell whether bytes can be the beginning of a first line."""
    first = json.dumps({"format": judge["format"]}).encode()[:-1]
    return torn[: len(first)] == first[: len(torn)]


def _verdict(row: Mapping[str, Any]) -> Verdict:
    for number in (row["tokens_in"], row["tokens_out"], row["tokens_cut"]):
        if type(number) is not int:
            raise TypeError
    if not all(call["grade"] is None or type(call["grade"]) is int for call in row["calls"]):
        raise TypeError
    calls = tuple(
        Call(
            call["name"], call["grade"], call.get("answer"), tuple(call.get("p", ())),
            call.get("mass"),
        )
        for call in row["calls"]
    )  # fmt: skip
    return Verdict(calls, row["tokens_in"], row["tokens_out"], row["tokens_cut"])


def _digest(pair: Pair) -> str:
    texts = json.dumps([pair.query, pair.passage]).encode()
    return hashlib.sha256(texts).hexdigest()[:12]
