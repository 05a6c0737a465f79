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
    │   └── WorkerError    5  a child process crashed, hung or ran out of memory
    └── DeviceError        6  a device or a transfer failed

A missed budget (1) and an undecided one (3) are verdicts, not errors: the report owns those exit codes.
Anything else that is raised is a bug in edgeopt and exits with 70.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeoptError(Exception):
    """A fault that the user can act on: `message` says what and where, `hint` what to do next."""

    exit_code = 5

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint)


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


class WorkerError(BuildError):
    """A child process that did not answer; `log` holds the last lines that it wrote."""

    def __init__(self, message: str, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint)
        self.log = log

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint, self.log)


class DeviceError(EdgeoptError):
    exit_code = 6


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the closest of `known` names, or lists them when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(names)}" if names else ""
