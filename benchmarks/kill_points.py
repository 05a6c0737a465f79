"""Kill -9 before every system call that changes a file: is what was there still there, or what was to come?

    for operation in make_operations(Publisher.make(folder / "keys"), folder):
        found = try_kills(operation, folder, kill_by_strace)

Each operation starts from a fresh copy of one folder, is killed, looked at, run again, and looked at for leftovers.
`kill_by_observer` needs no strace, and kills where `edgeopt.files` says that it is about to change something.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.operations import Act, Operation
from benchmarks.syscalls import killed_before, record
from edgeopt import files
from edgeopt.device.home import DEVICE_FILE, Home
from edgeopt.errors import EdgeoptError


@dataclass
class Tried:
    """What came of killing one operation: numbers of points, and a line for each fault."""

    name: str
    points: int = 0
    broken: list[str] = field(default_factory=list)
    failed_again: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


#: kills an operation in a fresh folder each time, at one point after another: tells the point and the folder
Kill = Callable[[Act, Callable[[], Path]], Iterator[tuple[str, Path]]]


def try_kills(operation: Operation, scratch: Path, kill: Kill) -> Tried:
    """Kill an operation wherever it changes something, one run for each place."""
    numbers, tried = itertools.count(), Tried(operation.name)

    def fresh() -> Path:
        return Path(shutil.copytree(operation.before, scratch / operation.name / str(next(numbers))))

    warm = fresh()
    old = operation.look(warm)
    operation.act(warm)
    new = operation.look(warm)
    for point, place in kill(operation.act, fresh):
        _examine(operation, place, (old, new), point, tried)
        shutil.rmtree(place)
    return tried


def kill_by_strace(act: Act, fresh: Callable[[], Path]) -> Iterator[tuple[str, Path]]:
    """Before each system call that changes something."""
    recorded = fresh()
    for call in record(lambda: act(recorded)):
        if call.is_mutating() and call.touches(recorded):
            place = fresh()
            killed_before(call, functools.partial(act, place))
            yield f"{call.name} {call.number}", place


def kill_by_observer(act: Act, fresh: Callable[[], Path]) -> Iterator[tuple[str, Path]]:
    """Before each change that `edgeopt.files` makes."""
    for allowed in itertools.count():
        place = fresh()
        child = os.fork()
        if child == 0:
            _run_until(allowed, functools.partial(act, place))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            return
        if code != -signal.SIGKILL:
            raise RuntimeError(f"not killed at change {allowed + 1}, but ended with {code}")
        yield f"change {allowed + 1}", place


def _run_until(allowed: int, act: Callable[[], object]) -> None:
    """What a child does: so many changes, and no more."""
    changes = itertools.count()

    def kill(operation: str, path: Path) -> None:
        if next(changes) >= allowed:
            os.kill(os.getpid(), signal.SIGKILL)

    files.observe = kill
    try:
        act()
    except BaseException:  # the exit code is all that the parent hears
        os._exit(1)
    os._exit(0)


def _examine(operation: Operation, place: Path, allowed: tuple[object, object], point: str, tried: Tried) -> None:
    """Look at what a kill has left, run the operation again, and start what uses it once more."""
    tried.points += 1
    try:
        if operation.look(place) not in allowed:
            tried.broken.append(f"{point}: neither the old nor the new")
    except (EdgeoptError, OSError) as error:
        tried.broken.append(f"{point}: {error}")
    try:
        operation.act(place)
        if operation.look(place) not in allowed:
            tried.failed_again.append(f"{point}: neither the old nor the new")
        operation.clear(place)
        tried.leftovers += [f"{point}: {name}" for name in _leftovers(place)]
    except (EdgeoptError, OSError) as error:
        tried.failed_again.append(f"{point}: {error}")


def _leftovers(place: Path) -> Iterator[str]:
    yield from (str(path.relative_to(place)) for path in place.rglob(f"{files.TEMPORARY}*"))
    if (place / DEVICE_FILE).is_file():
        known = Home(place).state().releases
        yield from (path.name for path in (place / "releases").iterdir() if path.name not in known)
