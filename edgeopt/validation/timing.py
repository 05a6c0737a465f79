"""Timing the sides of one comparison beside each other, in fresh workers that take turns.

Each side lives in a worker of its own, and a set is one fresh worker per side. In a block every side has its turn, in
random order, while the others wait, so that drift and bursts of a shared machine meet all sides alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeopt import environment, files
from edgeopt.backends import Arrays
from edgeopt.errors import BuildError, EdgeoptError
from edgeopt.model import Artifact
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.subject import WINDOW, Block, thread_environment
from edgeopt.workers import Limits, Progress, Worker, ignore_progress

OWN_GROUPS = Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


class SideError(BuildError):
    """A side that could not be timed; `side` names it, so that the others can be measured without it."""

    def __init__(self, message: str, hint: str = "", log: str = "", side: str = "") -> None:
        super().__init__(message, hint, log)
        self.side = side

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint, self.log, self.side)


def measure_sets(
    sides: Mapping[str, Artifact],
    inputs: Sequence[Arrays],
    protocol: Protocol,
    sets: int,
    lock: Path,
    *,
    so_far: LatencySamples | None = None,
    progress: Progress = ignore_progress,
) -> LatencySamples:
    """Time the sides until there are `sets` sets of them, going on from `so_far`; fewer when the time is spent.

    Args:
        sides: name → artifact, all for the same machine and batch.
        inputs: batches that every side is timed on, in the same sequence.
        protocol: that of the first set, which fits it to how long a run takes; later sets keep what became of it.
        lock: a file that everything on this machine that times anything locks.

    Raises:
        SideError: a side crashed, hung or could not be opened.
    """
    samples = so_far
    with _alone(lock, progress):
        while samples is None or (samples.sets < sets and not samples.overdue):
            number = samples.sets if samples else 0
            progress(f"set {number + 1} of {sets}", number / sets)
            one = _measure_set(sides, inputs, samples.protocol if samples else protocol, number)
            samples = samples.extend(one) if samples else one
    return samples


@contextlib.contextmanager
def _alone(lock: Path, progress: Progress) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(files.lock(lock, wait=False)):
            progress("waiting: something else on this machine is being timed", None)
            stack.enter_context(files.lock(lock))
        yield


def _measure_set(
    sides: Mapping[str, Artifact], inputs: Sequence[Arrays], protocol: Protocol, number: int
) -> LatencySamples:
    """One fresh worker per side: started side by side, warmed up one by one, then timed in turns."""
    began, cores = time.monotonic(), _cores(protocol.threads)
    blocks: dict[tuple[int, int], Block] = {}
    names, round_ns = tuple(sides), 0.0
    with contextlib.ExitStack() as stack:
        workers = [_start(stack, name, sides[name], inputs, protocol) for name in names]
        for name, worker in zip(names, workers, strict=True):
            with _named(name):
                worker.wait_ready()
        for name, worker in zip(names, workers, strict=True):
            with _named(name):
                if cores:
                    worker.call("pin", cores)
                round_ns += statistics.median(worker.call("warm_up")[-WINDOW:])
        protocol = protocol if number else protocol.fit(round_ns / 1e9)
        random = np.random.default_rng([protocol.seed, number])
        order = np.array([random.permutation(len(sides)) for _ in range(protocol.blocks)])
        throttled = _times_throttled()
        for block, turns in enumerate(order):
            for side in turns:
                with _named(names[side]):
                    blocks[side, block] = workers[side].call("time_block", protocol.discard, protocol.iterations)
        throttled = _times_throttled() - throttled
        figures = [worker.call("figures") for worker in workers]
    grid = [[blocks[side, block] for block in range(protocol.blocks)] for side in range(len(names))]
    return LatencySamples(
        sides=names,
        digests=tuple(artifact.digest() for artifact in sides.values()),
        times_ns=np.array([[block.times_ns for block in row] for row in grid], dtype=np.int64)[:, None],
        waited_ns=np.array([[block.waited_ns for block in row] for row in grid], dtype=np.int64)[:, None],
        correctable=np.array([[block.correctable for block in row] for row in grid])[:, None],
        order=order[None],
        figures=np.array(figures, dtype=np.int64)[:, None],
        throttled=np.array([throttled > 0]),
        protocol=protocol,
        cores=cores,
        batch=len(next(iter(inputs[0].values()))),
        seconds=time.monotonic() - began,
        environment=environment.fingerprint_digest(),
    )


def _start(
    stack: contextlib.ExitStack, name: str, artifact: Artifact, inputs: Sequence[Arrays], protocol: Protocol
) -> Worker:
    worker = Worker(
        "edgeopt.validation.subject:Subject",
        artifact,
        inputs,
        limits=Limits(seconds=protocol.call_seconds),
        environ=thread_environment(protocol.threads),
    )
    with _named(name):
        worker.start()
    stack.callback(worker.close)
    return worker


@contextlib.contextmanager
def _named(side: str) -> Iterator[None]:
    try:
        yield
    except EdgeoptError as error:
        raise SideError(f"`{side}` could not be timed: {error.message}", error.hint, error.log, side) from error


def _cores(threads: int) -> tuple[int, ...]:
    """The core that single-threaded sides take turns on: of the strongest the last, as the first serves interrupts.

    More threads are left to the scheduler, which knows which cores share their units.
    """
    if threads > 1 or not hasattr(os, "sched_getaffinity"):
        return ()
    return (max(os.sched_getaffinity(0), key=lambda core: (_strength(core), core)),)


def _strength(core: int) -> int:
    """What the kernel knows of a core's speed, to tell the large ones from the small; 0 where it knows nothing."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        path = Path(f"/sys/devices/system/cpu/cpu{core}/{name}")
        if path.is_file():
            return int(path.read_text(encoding="ascii"))
    return 0


def _times_throttled() -> int:
    """How often the kernel held this process's control groups back for their CPU quota; 0 where none is known."""
    if not OWN_GROUPS.is_file():
        return 0
    folders = {folder for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines() for folder in _folders(line)}
    throttled = 0
    for path in (folder / "cpu.stat" for folder in folders):
        if path.is_file():
            words = path.read_text(encoding="ascii").split()
            throttled += int(dict(zip(words[::2], words[1::2], strict=True)).get("nr_throttled", 0))
    return throttled


def _folders(line: str) -> list[Path]:
    """The folders of one line `number:controllers:path`, if it limits the CPU: the group and all that it lies in,
    since a quota holds for everything below it. Version 2 of control groups names no controllers."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return []
    top = CONTROL_GROUPS / "cpu" if controllers else CONTROL_GROUPS
    group = top / path.lstrip("/")
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
