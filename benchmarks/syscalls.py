"""Run a function in a child under strace: write down its system calls, or kill it before one of them.

    calls = record(lambda: install(home, bundle))
    for call in filter(Call.is_mutating, calls):
        killed_before(call, lambda: install(home, bundle))

The child is a fork that waits for strace, so nothing but the function is seen, and a try takes milliseconds. Whatever
the function loads when it is first run must be loaded before, or the calls of two children would differ: run it once.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: calls that change what a file system holds; the others of `TRACED` say when it is on the disk
CHANGES = (
    "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "link", "linkat", "symlink",
    "symlinkat", "write", "pwrite64", "writev", "pwritev", "ftruncate", "truncate", "fallocate", "sendfile",
    "copy_file_range", "chmod", "fchmod", "fchmodat",
)  # fmt: skip
TRACED = ("open", "openat", "creat", "fsync", "fdatasync", *CHANGES)

_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(?:<(\S*)>)?.*")
_ARGUMENT = re.compile(r'(\w*)(?:<(\S*)>)|"(\S*)"(?:\.\.\.)?|([^,]+)')


@dataclass(frozen=True)
class Call:
    """One system call: the `number`-th of its `name`, with a path for each descriptor, and its result.

    `opened` is the path of the descriptor that it returned.
    """

    name: str
    number: int
    arguments: tuple[bytes | str, ...]
    result: int
    opened: str = ""

    def is_mutating(self) -> bool:
        """Whether it changes what some file system holds."""
        return self.result >= 0 and (self.name in CHANGES or self.creates())

    def creates(self) -> bool:
        return self.name in ("open", "openat", "creat") and any("O_CREAT" in str(one) for one in self.arguments)

    def path(self, at: int = 0) -> Path:
        """The path that the argument `at` names, or that a descriptor at `at` and the name behind it do."""
        first = self.arguments[at]
        if isinstance(first, str):  # a descriptor
            follows = self.arguments[at + 1] if at + 1 < len(self.arguments) else ""
            is_named = self.name.endswith(("at", "at2")) and isinstance(follows, bytes)
            return Path(first, os.fsdecode(follows)) if is_named else Path(first)
        return Path(os.fsdecode(first))

    def touches(self, folder: Path) -> bool:
        """Whether it names something in `folder`."""
        named = (Path(os.fsdecode(one)) for one in self.arguments)
        return any(folder == path or folder in path.parents for path in (*named, self.path()))


def is_available() -> bool:
    return shutil.which("strace") is not None


def record(act: Callable[[], Any]) -> list[Call]:
    """What `act` asks of the system, in order.

    Raises:
        RuntimeError: it failed.
    """
    code, calls = _run_logged(act, [])
    if code != 0:
        raise RuntimeError(f"what was to be recorded ended with {code}")
    return calls


def killed_before(call: Call, act: Callable[[], Any]) -> list[Call]:
    """Run `act` and kill it before it makes this call; returns those that it has made.

    Raises:
        RuntimeError: it never came to that.
    """
    code, calls = _run_logged(act, ["-e", f"inject={call.name}:signal=KILL:when={call.number}"])
    if code != -signal.SIGKILL:
        raise RuntimeError(f"not killed before {call.name} {call.number}, but ended with {code}")
    return calls


def _run_logged(act: Callable[[], Any], options: list[str]) -> tuple[int, list[Call]]:
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        options = ["-y", "-xx", f"-s{1 << 26}", "-o", str(log), "-e", f"trace={','.join(TRACED)}", *options]
        code = _run_traced(act, options)
        return code, list(_parse(log.read_text().splitlines()))


def _run_traced(act: Callable[[], Any], options: list[str]) -> int:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _run_child(act, reading)
    os.close(reading)
    tracer = subprocess.Popen(["strace", "-q", "-p", str(child), *options], stderr=subprocess.PIPE)
    try:
        _wait_for_tracer(child, tracer)
        os.write(writing, b"go")
    finally:
        os.close(writing)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        tracer.communicate()
    return code


def _run_child(act: Callable[[], Any], reading: int) -> None:
    """Wait for a word, run, and end without any of the clearing up that belongs to the parent."""
    if not os.read(reading, 2):  # the parent has given up
        os._exit(3)
    try:
        act()
    except BaseException as error:  # the exit code is all that the parent hears
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)


def _wait_for_tracer(child: int, tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            assert tracer.stderr is not None
            raise RuntimeError(f"strace does not attach: {tracer.stderr.read().decode().strip()}")
        time.sleep(0.001)


def _parse(lines: list[str]) -> Iterator[Call]:
    counts: dict[str, int] = {}
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            continue  # how the process ended, or a call that it did not return from
        name, arguments, result, opened = found.groups()
        counts[name] = counts.get(name, 0) + 1
        values = tuple(map(_value, arguments.split(", "))) if arguments else ()
        yield Call(name, counts[name], values, int(result), os.fsdecode(_unescaped(opened or "")))


def _value(text: str) -> bytes | str:
    """A descriptor as the path that it stands for, a string as its bytes, all else as it is written."""
    if text.startswith('"'):
        return _unescaped(text.strip('".'))
    if text.endswith(">"):
        return os.fsdecode(_unescaped(text[text.index("<") + 1 : -1]))
    return text


def _unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
