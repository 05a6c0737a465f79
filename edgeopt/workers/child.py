"""The child's side of a worker: makes the object that it is asked for and answers calls until the pipe closes."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from edgeopt.errors import BuildError, EdgeoptError, fault_of_file, fault_of_place

PR_SET_PDEATHSIG = 1

#: how the loader says that it had no memory for a library, and that its file system allows no code
UNMAPPED, NO_EXEC = "failed to map segment from shared object", "Operation not permitted"

_connection: Connection | None = None


class Once:
    """Holds a named function for `workers.run`."""

    def __init__(self, function: str) -> None:
        self._function = _named(function)

    def run(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def send_progress(text: str, fraction: float | None) -> None:
    if _connection is not None:
        _connection.send(("progress", (text, fraction)))


def ask(*question: Any) -> Any:
    """See `workers.ask_parent`."""
    assert _connection is not None, "nobody waits for this process"
    _connection.send(("ask", question))
    kind, content = _connection.recv()
    if kind == "error":
        raise content
    return content


def main() -> None:
    """Serve one parent, whose process, pipe and memory limit the command line names, until it closes the pipe."""
    global _connection
    descriptor, parent, memory = (int(argument) for argument in sys.argv[1:])
    _die_with(parent)
    _limit_memory(memory)
    faulthandler.enable()  # a crash in native code leaves its Python lines in the log
    _connection = Connection(descriptor)
    hosted: Any = None
    while True:
        try:
            kind, name, arguments = _connection.recv()
        except EOFError:
            return
        if kind == "make":
            hosted = _answer(_connection, partial(_named, name), arguments, keep=True)
        else:
            _answer(_connection, partial(getattr, hosted, name), arguments, keep=False)


def _answer(connection: Connection, find: Callable[[], Callable[..., Any]], arguments: Any, *, keep: bool) -> Any:
    """Do the work and send what came of it; a made object stays here and only its success is told."""
    try:
        result = find()(*arguments)
        # A result that does not pickle fails before a byte of it is sent, so it can still be told as a bug.
        connection.send(("result", None if keep else result))
        return result
    except EdgeoptError as error:
        connection.send(("error", error.keep_trace(error.__cause__)))
    except Exception as error:
        fault = _lack_of_memory(error) or fault_of_place(error) or fault_of_file(error)
        told = ("bug", traceback.format_exc()) if fault is None else ("error", fault.keep_trace(error))
        connection.send(told)
    return None


def _lack_of_memory(error: Exception) -> EdgeoptError | None:
    """What to say if memory ran out, be it while a library was loaded: the loader has no error of its own for that."""
    unmapped = isinstance(error, ImportError) and UNMAPPED in str(error) and NO_EXEC not in str(error)
    if not (unmapped or isinstance(error, MemoryError)):
        return None
    return BuildError("out of memory", "use fewer or smaller inputs, or a smaller batch")


def _named(function: str) -> Callable[..., Any]:
    module, _, attribute = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and end at once if that has happened already.

    The kernel counts the thread that started this process as its parent, so a thread must outlive its workers.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def _limit_memory(memory_bytes: int) -> None:
    # RLIMIT_DATA counts private writable memory; RLIMIT_AS would count mapped libraries and reserved space too,
    # which for torch is gigabytes that are never used.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    # Run as `edgeopt.workers.child`, not as `__main__`, so that `report_progress` finds this module's connection.
    importlib.import_module("edgeopt.workers.child").main()
