"""What the workers of these tests run: each function fails in its own way."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgeopt.errors import DataError, PassError, WorkerError
from edgeopt.workers import ask_parent, report_progress


class Counter:
    """An object that lives in a worker."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise DataError(f"`start` is {start}, at least 0 is needed", "count up")
        self.count = start

    def add(self, number: int) -> int:
        self.count += number
        return self.count

    def process_id(self) -> int:
        return os.getpid()

    def hang(self) -> None:
        report_progress("now")
        time.sleep(600)


def double(number: int) -> int:
    return 2 * number


def ask(*question: Any) -> Any:
    try:
        return ask_parent(*question)
    except DataError as error:
        return f"was told: {error.message}"


def environ(name: str) -> str | None:
    return os.environ.get(name)


def refuse() -> None:
    raise DataError("row 7 has label `12`, at most 9 is allowed", "mend the labels")


def refuse_with_log() -> None:
    raise WorkerError("inner", "hint", "its log")


def refuse_because() -> None:
    try:
        divide_by_zero()
    except ZeroDivisionError as error:
        raise PassError("it failed", "look") from error


def import_torch_where_it_is_not() -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]
    sys.path.clear()
    import torch  # noqa: F401


def import_what_is_unknown() -> None:
    import unheard_of  # type: ignore[import-not-found]  # noqa: F401


def open_what_is_not_there() -> None:
    Path("nowhere/at_all").read_bytes()


def fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def divide_by_zero() -> float:
    return 1 / 0


def segfault() -> None:
    sys.stderr.write("about to read address 0\n")
    sys.stderr.flush()
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def exit_early() -> None:
    sys.exit(3)


def hang() -> None:
    time.sleep(600)


def close_pipe_and_hang() -> None:
    os.closerange(3, 100)
    time.sleep(600)


def kill_itself() -> None:
    os.kill(os.getpid(), 9)


def write_to_stderr(size_bytes: int) -> str:
    line = b"x" * 999 + b"\n"
    for _ in range(size_bytes // len(line)):
        os.write(2, line)
    os.write(2, b"the last line\n")
    return "done"


def write_to_stderr_and_abort(size_bytes: int) -> None:
    write_to_stderr(size_bytes)
    os.abort()


def allocate(size_bytes: int) -> int:
    return len(bytearray(size_bytes))


def give_a_lambda() -> Any:
    return lambda: None


def work_in_steps() -> str:
    for step in range(3):
        report_progress(f"step {step}", step / 2)
    report_progress("no idea how far")
    return "done"


def start_a_grandchild(file: str) -> None:
    grandchild = subprocess.Popen(["sleep", "600"])
    Path(file).write_text(str(grandchild.pid))
    os.abort()


def fail_to_import(text: str) -> None:
    raise ImportError(text)
