"""Every error that edgeopt raises on purpose, and the exit code that each one means.

    EdgeoptError
    ├── UsageError         2  wrong usage
    │   ├── RecipeError    2  faults in a recipe, all of them together, each with its line and column
    │   ├── SourceError    2  a network that cannot be loaded as the recipe describes it
    │   └── DataError      2  samples, labels or splits that cannot be used
    ├── TrustError         4  a digest or trust rule failed; code in a pickle; an inconsistent report
    ├── BuildError         5  something needed for the result failed or is missing
    │   ├── PassError      5  a pass failed
    │   ├── BackendError   5  a backend could not build, open or run an artifact
    │   ├── MissingError   5  a library or resource is not there
    │   │   └── DiskError  5  the disk is full, which is no candidate's fault
    │   └── WorkerError    5  a child process crashed, hung or ran out of memory
    └── DeviceError        6  a device or a transfer failed

A missed budget (1) and an undecided one (3) are verdicts, not errors: the report owns those exit codes.
Anything else that is raised is a bug in edgeopt and exits with 70.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
import traceback
from collections.abc import Iterable, Iterator

#: top-level module → the extra that brings it, where that is not `compile`
EXTRAS = {
    "asyncssh": "ssh", "httpx": "registry", "onnxruntime": "cpu", "openvino": "openvino", "polygraphy": "tensorrt",
    "sklearn": "data", "tensorrt": "tensorrt", "waitress": "serve",
}  # fmt: skip
#: what the extra `compile` brings
COMPILE = ("jinja2", "onnx", "onnxscript", "onnxslim", "rich", "safetensors", "torch", "torch_pruning")

TRACE_LINES = 60

#: characters of what somebody else has written
LEGIBLE = 100


class EdgeoptError(Exception):
    """A fault that the user can act on: `message` says what and where, `hint` what to do next.

    `log` holds last lines that tell more: of a traceback that did not leave its process, or what a process wrote.
    """

    exit_code = 5

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def keep_trace(self, cause: BaseException | None) -> EdgeoptError:
        """This error, with the end of the cause's traceback as its log unless it has one: causes cross no pipe."""
        if cause is not None and not self.log:
            lines = "".join(traceback.format_exception(cause)).splitlines()
            self.log = "\n".join(line[:400] for line in lines[-TRACE_LINES:])
        return self

    def at(self, place: str) -> EdgeoptError:
        """This error, and what it happened in."""
        self.message = f"{place}: {self.message}"
        return self


class UsageError(EdgeoptError):
    exit_code = 2


class RecipeError(UsageError):
    """All the faults of one recipe; the message has one line for each."""


class SourceError(UsageError):
    pass


class DataError(UsageError):
    pass


class TrustError(EdgeoptError):
    exit_code = 4


class BuildError(EdgeoptError):
    exit_code = 5


class PassError(BuildError):
    pass


class BackendError(BuildError):
    pass


class MissingError(BuildError):
    pass


class DiskError(MissingError):
    """A full disk. It says nothing of what was being made, so no candidate may lose by it."""

    def __init__(self, message: str = "no space left on the disk", hint: str = "", log: str = "") -> None:
        super().__init__(message, hint or "free some space, then run again", log)


class WorkerError(BuildError):
    """A child process that did not answer; `log` holds the last lines that it wrote."""


class DeviceError(EdgeoptError):
    exit_code = 6


@contextlib.contextmanager
def unforeseen(what: str, kind: type[EdgeoptError]) -> Iterator[None]:
    """Name what a part that edgeopt calls raises without foresight: it fails alone, and the run goes on.

    Args:
        what: what it was and did, as in `` `onnxruntime_cpu` could not build ``.

    Raises:
        kind: it raised something.
        MissingError: a library is not installed, or the disk is full.
    """
    try:
        yield
    except (EdgeoptError, MemoryError):  # the worker names a lack of memory
        raise
    except Exception as error:
        hint = "`edgeopt compile --verbose` shows where it failed"
        raise fault_of_place(error) or kind(f"{what}: {type(error).__name__}: {error}", hint) from error


def fault_of_place(error: BaseException) -> MissingError | None:
    """The name of what nobody's code is to blame for: a library that is not installed, or a full disk."""
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        if error.name == "edgeopt" or error.name in sys.stdlib_module_names:
            return None
        extra = EXTRAS.get(error.name, "compile" if error.name in COMPILE else "")
        hint = f"pip install 'edgeopt[{extra}]'" if extra else "install it into the Python that runs edgeopt"
        return MissingError(f"`{error.name}` is not installed", hint)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"no space left on the disk{_place(error)}")
    return None


def fault_of_file(error: BaseException) -> UsageError | None:
    """The name of what the system says of a file that it names: nothing else in the error is for a user."""
    if isinstance(error, OSError) and error.filename is not None:
        hint = "check that it is there, and that you may use it"
        return UsageError(f"cannot use {_quoted(error)}: {(error.strerror or type(error).__name__).lower()}", hint)
    return None


def _place(error: OSError) -> str:
    return f" for {_quoted(error)}" if error.filename is not None else ""


def _quoted(error: OSError) -> str:
    name = error.filename
    return f"`{name.decode(errors='replace') if isinstance(name, bytes) else name}`"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest of `known` names, or lists them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(names)}" if names else ""


def legible(text: str) -> str:
    """What anybody may have written, for a message: short, on one line, with nothing that a terminal would obey."""
    return (text if text.isprintable() else ascii(text)[1:-1])[:LEGIBLE]
