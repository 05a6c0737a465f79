"""Ask backends and libraries whether they can be used, in processes that they may bring down.

To be asked, a library is imported and looks for devices: a broken one, or its driver, may crash or hang there. So that
happens in workers. Backends that take torch networks have one of their own: what torch loads, CUDA and cuDNN, would be
found there by the others too, and be missing in a run, where each session has a process to itself. The two go on side
by side. Who crashes or hangs is named, and the others are asked again without it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from edgeopt import registry
from edgeopt.backends import backend_errors, get
from edgeopt.errors import BuildError, EdgeoptError, MissingError
from edgeopt.examining import libraries
from edgeopt.workers import Limits, Worker, report_progress

#: for all that one process is asked; a library that hangs takes it up
LIMITS = Limits(seconds=20.0)

BACKEND, LIBRARY = "backend", "library"

Found = dict[str, Any]


def ask(backends: Iterable[str], names: Collection[str] = ()) -> tuple[list[Found], list[Found]]:
    """What backends, and libraries of `libraries.LIBRARIES`, say of this machine, each in the order that was given.

    Returns:
        Rows with `name`, `missing` (empty if nothing is) and `log` (the last lines of a process that ended early):
        those of backends with what they are and whether they are `available`, those of libraries with their `version`
        and what it `finds`.
    """
    described = [_describe(name) for name in backends]
    torch: list[str] = []
    others: list[str] = []
    for found in described:
        (torch if found["accepts"] == "torch" else others).append(f"{BACKEND} {found['name']}")
    others += [f"{LIBRARY} {name}" for name in names]  # at the end: they find what backends have loaded
    said = _ask_side_by_side([subjects for subjects in (torch, others) if subjects])
    return (
        [found | said[f"{BACKEND} {found['name']}"] for found in described],
        [{"name": name} | said[f"{LIBRARY} {name}"] for name in names],
    )


def _describe(name: str) -> Found:
    """What a backend is, wherever it runs; little of a third party's that cannot be loaded."""
    try:
        backend = registry.resolve("backends", name)
    except MissingError:  # is said when the backend is asked
        return {"name": name, "accepts": "", "about": "", "options": {}}
    about = (inspect.getdoc(backend) or "").splitlines()[0]
    options = backend.model_json_schema().get("properties", {})
    return {"name": name, "accepts": backend.accepts, "about": about, "options": options}


def _ask_side_by_side(groups: Iterable[Sequence[str]]) -> dict[str, Found]:
    """What the subjects of each group say, each group in a process of its own."""
    said: dict[str, Found] = {}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_Process(subjects)) for subjects in groups]
        for process in processes:
            said |= process.said()
    return said


class _Process:
    """A process in which subjects are asked, and the next one where they bring it down."""

    def __init__(self, subjects: Sequence[str]) -> None:
        self._left = list(subjects)
        self._said: dict[str, Found] = {}

    def __enter__(self) -> _Process:
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.close()

    def said(self) -> dict[str, Found]:
        """Wait for all answers."""
        while self._left:
            try:
                self._worker.wait_ready()
                answers: dict[str, Found] = self._worker.call("answers")
                return self._said | answers
            except BuildError as error:  # it ended, or has no memory left
                if self._asked not in self._left:  # it is none of them
                    raise
                self._said[self._asked] = _lost(self._asked, error)
                self._left.remove(self._asked)
                self._worker.close()
                self._start()
        return self._said

    def _start(self) -> None:
        self._asked = ""
        name = "edgeopt.examining.asking:Asked"
        self._worker = Worker(name, self._left, limits=LIMITS, progress=self._note, name="doctor")
        self._worker.start()

    def _note(self, subject: str, fraction: float | None) -> None:
        self._asked = subject


class Asked:
    """The subjects, asked one after the other in a worker, which tells first whose turn it is."""

    def __init__(self, subjects: Sequence[str]) -> None:
        self._answers: dict[str, Found] = {}
        for subject in subjects:
            report_progress(subject)
            kind, _, name = subject.partition(" ")
            self._answers[subject] = _ask_backend(name) if kind == BACKEND else libraries.examine(name)

    def answers(self) -> dict[str, Found]:
        return self._answers


def _ask_backend(name: str) -> Found:
    missing = ""
    try:
        with backend_errors(name, "load its libraries"):
            get(name).available()
    except MissingError as error:
        missing = f"{error.message}; {error.hint}" if error.hint else error.message
    except EdgeoptError as error:
        missing = error.message
    return {"available": not missing, "missing": missing, "log": ""}


def _lost(subject: str, error: BuildError) -> Found:
    """The answer of who brought the process down."""
    kind, _, name = subject.partition(" ")
    missing = f"{error.message} when `{name}` was loaded; install its libraries anew, or remove them"
    answer: Found = {"available": False} if kind == BACKEND else {"version": None, "finds": {}}
    return answer | {"missing": missing, "log": error.log}
