"""What a person sees at a terminal: a progress bar with a rate, which nobody else gets."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

pytest_plugins = ["cli_fixtures"]
pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")

DEADLINE_S = 240.0


def at_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command at a pseudo-terminal of 100 columns; return exit code and what it showed."""
    import fcntl
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    end = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < end:
            try:
                read = os.read(controller, 65536)
            except OSError:
                # How Linux says that the last writer has closed the terminal.
                break
            if not read:
                break
            shown += read
    finally:
        os.close(controller)
        if time.monotonic() >= end:
            process.kill()
    return process.wait(DEADLINE_S), shown.decode()


def test_a_terminal_shows_a_bar_with_a_rate_and_a_table_that_fits(
    program: list[str],
    program_environment: dict[str, str],
    long_collection: Path,
    decoder: str,
    tmp_path: Path,
) -> None:
    environment = {**program_environment, "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "FORCE_COLOR"):
        environment.pop(name, None)
    code, shown = at_a_terminal(
        [*program, "run", str(long_collection), "--reranker", decoder, "--limit", "40",
         "--out", str(tmp_path / "out")],
        environment,
    )  # fmt: skip
    assert code == 0, shown
    assert "Traceback" not in shown
    for part in ("reranking", "━", "docs/s", "\x1b["):
        assert part in shown
    assert "nDCG@10" in shown
    assert "…" not in shown
