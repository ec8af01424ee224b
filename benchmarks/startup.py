"""Start-up: ``ranklens --help`` and ``import ranklens`` against ``import typer``, in one run.

    python benchmarks/startup.py [--repeat N] [--output FILE]

Whole processes on a warm disk, in turn; medians, and ratios to ``python -c "import typer"``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "import typer": [sys.executable, "-c", "import typer"],
    "import ranklens": [sys.executable, "-c", "import ranklens"],
    "ranklens --help": [sys.executable, "-m", "ranklens.cli.main", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--output")
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(arguments.repeat + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, check=True)
            elapsed = time.perf_counter() - start
            if name.endswith("--help") and b"evaluate" not in done.stdout:
                sys.exit("--help did not print the commands: no figures")
            # The first turn warms the disk and the bytecode.
            if turn:
                seconds[name].append(elapsed)
    base = statistics.median(seconds["import typer"])
    lines = [f"command: python benchmarks/startup.py --repeat {arguments.repeat}"]
    lines += [
        f"{name:16} median {statistics.median(times):.3f} s  min {min(times):.3f}  "
        f"max {max(times):.3f}  ×typer {statistics.median(times) / base:.2f}"
        for name, times in seconds.items()
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        Path(arguments.output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
