"""Child processes with limits that run any named function; they know no backend and no pass.

    run("edgeopt.passes:run_pass", ...)                 one call, one process, its result
    with Worker("edgeopt.validation.subject:Subject", ...) as worker:
        worker.call("run_block", 20)                     an object that lives in a process, called by method name

A function is named `module:attribute`. Arguments and results cross a private pipe between a parent and the child that
it started from the same installation, so they are pickled; nothing from a file ever is. What the child raises on
purpose (an `EdgeoptError`) is raised again in the parent, with the traceback of its cause as a log; a crash, a hang or
a kill becomes a `WorkerError` with the last lines that the child wrote. A child never outlives its parent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from edgeopt import environment
from edgeopt.errors import EdgeoptError, WorkerError

#: what to do about a child that does not answer
HUNG = "see what it waits for, or give it more time"
CRASHED = "`edgeopt compile --verbose` shows the last lines that it wrote"

CHILD = Path(__file__).with_name("child.py")

LOG_LINES = 12
LOG_TAIL_BYTES = 16_384

#: how long a child that closed its pipe may take to end, before it is ended
GRACE_S = 10.0

#: what a running function tells of itself: a short text, and how far it is from 0 to 1 (None: not known)
Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Limits:
    """How long one call may take, and how much private memory the child may hold (default: that of the machine)."""

    seconds: float = 3600.0
    memory_bytes: int | None = None


class RemoteBug(Exception):  # noqa: N818
    """Something that is not an `EdgeoptError` was raised in a child; the text is the child's traceback."""


def ignore_progress(text: str, fraction: float | None) -> None:
    """The progress that nobody watches."""


def report_progress(text: str, fraction: float | None = None) -> None:
    """Tell whoever waits for the running function how far it is; silent outside a worker."""
    from edgeopt.workers import child

    child.send_progress(text, fraction)


def ask_parent(*question: Any) -> Any:
    """What the process that waits for the running function answers: for what only it can do, as reach a device.

    Raises:
        EdgeoptError: what the parent raised.
    """
    from edgeopt.workers import child

    return child.ask(*question)


def run(
    function: str,
    *arguments: Any,
    limits: Limits | None = None,
    progress: Progress = ignore_progress,
    environ: dict[str, str] | None = None,
    name: str = "",
    lend: Callable[..., Any] | None = None,
) -> Any:
    """Run `function(*arguments)` in a process of its own and return what it returns.

    Args:
        name: for messages.
        lend: answers what the function asks by `ask_parent`; the time that it takes is not the function's.

    Raises:
        EdgeoptError: what the function raised.
        WorkerError: it crashed, hung or ran out of memory.
    """
    once = "edgeopt.workers.child:Once"
    name = name or function
    with Worker(once, function, limits=limits, progress=progress, environ=environ, name=name, lend=lend) as worker:
        return worker.call("run", *arguments)


class Worker:
    """An object, made by the named factory, that lives in a child process until the block ends."""

    def __init__(
        self,
        factory: str,
        *arguments: Any,
        limits: Limits | None = None,
        progress: Progress = ignore_progress,
        environ: dict[str, str] | None = None,
        name: str = "",
        lend: Callable[..., Any] | None = None,
    ) -> None:
        self._request = ("make", factory, arguments)
        self._limits = limits or Limits()
        self._progress, self._lend = progress, lend
        self._environ = environ or {}
        self._stack = contextlib.ExitStack()
        self._name = name or factory

    def __enter__(self) -> Worker:
        self.start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the process and ask for the object, without waiting: several can start side by side."""
        with contextlib.ExitStack() as stack:
            self._log = stack.enter_context(tempfile.TemporaryFile())
            ours, theirs = socket.socketpair()
            with theirs:
                self._connection = stack.enter_context(Connection(ours.detach()))
                self._process = self._spawn(theirs.fileno())
            stack.callback(self._kill)
            with self._broken_pipe_named():
                self._connection.send(self._request)
            self._stack = stack.pop_all()

    def wait_ready(self) -> None:
        """Wait until the object is made; the process is gone if it could not be."""
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the object in the child and return its result."""
        with self._broken_pipe_named():
            self._connection.send(("call", method, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process, by force where it does not answer; safe to call twice."""
        self._stack.close()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def _spawn(self, descriptor: int) -> subprocess.Popen[bytes]:
        memory = self._limits.memory_bytes or environment.memory_bytes()
        # The child is run by path and not by `-m`: it finds the modules that the parent finds and no others, so a file
        # of the working folder that is named like a library shadows nothing.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environ = os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"} | self._environ
        return subprocess.Popen(
            [sys.executable, str(CHILD), str(descriptor), str(os.getpid()), str(memory)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env=environ,
            pass_fds=[descriptor],
            start_new_session=True,
        )

    def _answer(self) -> Any:
        deadline = time.monotonic() + self._limits.seconds
        while True:
            with self._broken_pipe_named():
                if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                    self._kill()
                    raise self._error(f"did not answer within {self._limits.seconds:g} s and was ended", HUNG)
                kind, content = self._connection.recv()
            if kind == "progress":
                self._progress(*content)
            elif kind == "ask":
                asked = time.monotonic()
                self._reply(content)
                deadline += time.monotonic() - asked
            elif kind == "error":
                raise content
            elif kind == "bug":
                raise RemoteBug(content)
            else:
                return content

    def _reply(self, question: tuple[Any, ...]) -> None:
        """Answer the child; what goes wrong is its own to handle."""
        assert self._lend is not None, f"`{self._name}` asks, and nothing is lent to it"
        try:
            told = ("answer", self._lend(*question))
        except EdgeoptError as error:
            told = ("error", error.keep_trace(error.__cause__))
        with self._broken_pipe_named():
            self._connection.send(told)

    @contextlib.contextmanager
    def _broken_pipe_named(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def _died(self) -> WorkerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_S)
        self._kill()
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return self._error("was killed", "most often the machine ran out of memory: use fewer or smaller inputs")
        if code < 0:
            return self._error(f"crashed with {signal.Signals(-code).name}", CRASHED)
        return self._error(f"ended early with exit code {code}", CRASHED)

    def _error(self, what: str, hint: str) -> WorkerError:
        # `pread` because the child writes at the same file's offset, which a seek here would move.
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))
        lines = tail.decode(errors="replace").splitlines()[-LOG_LINES:]
        log = "\n".join(line[:400] for line in lines)
        return WorkerError(f"the process of `{self._name}` {what}", hint, log)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
