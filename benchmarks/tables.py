"""What the benchmarks share: a table on the terminal, and running a command with its time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EDGEOPT = [sys.executable, "-m", "edgeopt"]


@dataclass(frozen=True)
class Ran:
    """A finished command: exit code, seconds, what it printed."""

    code: int
    seconds: float
    output: str


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(columns), *cells]) for at in range(len(columns))]
    print(f"\n{title}\n")
    for row in [list(columns), ["-" * width for width in widths], *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.stdout.flush()


def describe_machine() -> str:
    """One line: the machine that the figures hold for, as ratios."""
    from edgeopt import environment

    return f"{environment.describe()}, {environment.cpu_cores()} cores, {platform.system()}"


def run(command: Sequence[str], **environ: str) -> Ran:
    """Run a command to its end from the root of the project."""
    started = time.monotonic()
    process = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | environ, text=True
    )
    return Ran(process.returncode, time.monotonic() - started, process.stdout)
