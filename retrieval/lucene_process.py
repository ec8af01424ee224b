"""The other end of ``lucene_worker``: starts the process, asks, and notices when it is gone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterable
from typing import IO, Any

from ranklens.data.errors import InvalidInputError, RanklensError
from ranklens.data.extras import require
from ranklens.retrieval.java import find_java
from ranklens.retrieval.lucene_worker import CLOSE

_LAST = 8
"""Lines of a dead worker's output that are repeated."""


class WorkerDiedError(RanklensError):
    """The process is gone; the message has the last lines that it printed."""


class LuceneProcess:
    """One process with Lucene in it, ``heap`` as for Java's -Xmx.

    Raises MissingPrerequisiteError without the ``lucene`` extra or a Java, WorkerDiedError when
    the process does not come up.
    """

    def __init__(self, heap: str) -> None:
        require("lucene", "pyserini", "jnius")
        java = find_java()
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ranklens.retrieval.lucene_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            # Ctrl-C is for us; the worker ends when its input does.
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._process, self._printed)
        self.ask(
            {"do": "start", "java": str(java.home), "library": str(java.library), "heap": heap}
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether the process was ended from here."""
        return not self._finalizer.alive

    def ask(self, request: dict[str, Any], documents: Iterable[dict[str, Any]] = ()) -> Any:
        """Return the answer to a request, after sending ``documents`` where it is for an index.

        Raises WorkerDiedError when the process ends before it answers, InvalidInputError with
        what Lucene says when it cannot do it. Whatever else ends the exchange, an interrupt or
        what reading ``documents`` raises, ends the process.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(_line(request))
            if request["do"] == "index":
                for document in documents:
                    stdin.write(_line(document))
                stdin.write(CLOSE.encode())
            stdin.flush()
            answered = stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            answered = b""
        except BaseException:
            # Half a request, or an answer that nobody reads, would be taken for what comes next.
            self.close()
            raise
        if not answered.endswith(b"\n"):
            raise WorkerDiedError(self._death())
        answer = json.loads(answered)
        if "error" in answer:
            raise InvalidInputError(f"Lucene: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._finalizer()

    def _death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)
        code = self._process.returncode
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        said = "".join(f"\n  {line}" for line in lines[-_LAST:]) or " nothing"
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return f"the Lucene process ended {how}; it last printed:{said}"


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _end(process: subprocess.Popen[bytes], printed: IO[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, printed):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
