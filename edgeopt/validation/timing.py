"""Timing the sides of one comparison beside each other, in fresh workers that take turns.

Each side lives in a worker of its own, and a set is one fresh worker per side. In a block every side has its turn, in
random order, while the others wait, so that drift and bursts of a shared machine meet all sides alike. What the machine
did meanwhile is recorded with every block.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeopt import environment, files
from edgeopt.backends import Arrays
from edgeopt.errors import BuildError, EdgeoptError
from edgeopt.model import Artifact
from edgeopt.validation import conditions
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.subject import WINDOW, Block, WarmUp, thread_environment
from edgeopt.workers import Limits, Progress, Worker, ignore_progress

#: runs of one set that a device times itself, where it can
DEVICE_RUNS = 10


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
    with alone(lock, progress):
        while samples is None or (samples.sets < sets and not samples.overdue):
            number = samples.sets if samples else 0
            progress(f"set {number + 1} of {sets}", number / sets)
            one = _measure_set(sides, inputs, samples.protocol if samples else protocol, number)
            samples = samples.extend(one) if samples else one
    return samples


@contextlib.contextmanager
def alone(lock: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of the machine's clock; tell if that takes waiting."""
    with contextlib.ExitStack() as stack:
        if not stack.enter_context(files.lock(lock, wait=False)):
            progress("waiting: something else on this machine is being timed", None)
            stack.enter_context(files.lock(lock))
        yield


def _measure_set(
    sides: Mapping[str, Artifact], inputs: Sequence[Arrays], protocol: Protocol, number: int
) -> LatencySamples:
    """One fresh worker per side: started side by side, opened and warmed up one by one, then timed in turns."""
    began, cores, names = time.monotonic(), timed_cores(protocol.threads), tuple(sides)
    with contextlib.ExitStack() as stack:
        workers = {name: start(stack, name, artifact, inputs, protocol) for name, artifact in sides.items()}
        # several streams are to use all cores later, and OpenVINO would keep them on those that it was loaded on
        loaded = cores if protocol.concurrency == 1 else ()
        warm = {name: warm_up(name, workers[name], cores) for name in _opened(workers, loaded)}
        round_ns = sum(statistics.median(one.times_ns[-WINDOW:]) for one in warm.values())
        protocol = protocol if number else protocol.fit(round_ns / 1e9)
        random = np.random.default_rng([protocol.seed, number])
        order = np.array([random.permutation(len(names)) for _ in range(protocol.blocks)])
        grid, slowed = _time_blocks(workers, order, protocol, cores)
        figures = [worker.call("figures") for worker in workers.values()]  # before streams add to the peak of memory
        device = [worker.call("device_times", DEVICE_RUNS) for worker in workers.values()]
        streams, streams_slowed = _time_streams(workers, random.permutation(len(names)), protocol, cores)
    return LatencySamples(
        sides=names,
        digests=tuple(artifact.digest() for artifact in sides.values()),
        times_ns=np.array([[block.times_ns for block in row] for row in grid], dtype=np.int64)[:, None],
        waited_ns=np.array([[block.waited_ns for block in row] for row in grid], dtype=np.int64)[:, None],
        correctable=np.array([[block.correctable for block in row] for row in grid])[:, None],
        order=order[None],
        slowed=slowed[None],
        moves=np.array([[block.moves for block in row] for row in grid], dtype=np.int64)[:, None],
        settled=np.array([one.settled for one in warm.values()])[:, None],
        streams=streams[:, None],
        streams_slowed=streams_slowed[:, None],
        figures=np.array(figures, dtype=np.int64)[:, None],
        device_ns=np.array(device, dtype=np.int64)[:, None],
        protocol=protocol,
        cores=cores,
        batch=len(next(iter(inputs[0].values()))),
        seconds=time.monotonic() - began,
        environment=environment.fingerprint_digest(),
    )


def _opened(workers: Mapping[str, Worker], cores: tuple[int, ...]) -> list[str]:
    """Open the sessions, each while nothing else runs; returns the names."""
    for name, worker in workers.items():
        with named(name):
            worker.wait_ready()
    for name, worker in workers.items():
        with named(name):
            worker.call("open", cores)
    return list(workers)


def _time_blocks(
    workers: Mapping[str, Worker], order: NDArray[np.int64], protocol: Protocol, cores: tuple[int, ...]
) -> tuple[list[list[Block]], NDArray[np.int64]]:
    """The blocks of each side, and how often the machine slowed the processes down in each of them."""
    names, grid, slowed = list(workers), [list[Block]() for _ in workers], []
    for turns in order:
        before = conditions.slowdowns(cores)
        for side in turns:
            with named(names[side]):
                grid[side].append(workers[names[side]].call("time_block", protocol.discard, protocol.iterations))
        slowed.append(before.until(conditions.slowdowns(cores)))
    return grid, np.array(slowed, dtype=np.int64)


def _time_streams(
    workers: Mapping[str, Worker], order: NDArray[np.int64], protocol: Protocol, cores: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(sides, streams, 2) and (sides, 2), see `LatencySamples`: each side's turn with several streams, on all cores."""
    names, count = list(workers), protocol.concurrency if protocol.concurrency > 1 else 0
    streams = np.zeros((len(names), count, 2), dtype=np.int64)
    slowed = np.zeros((len(names), 2), dtype=np.int64)
    for side in order if count else ():
        worker = workers[names[side]]
        with named(names[side]):
            if cores:
                worker.call("pin", conditions.usable_cores())
            before = conditions.slowdowns(())
            streams[side] = worker.call("stream", count, protocol.stream_seconds)
            slowed[side] = before.until(conditions.slowdowns(()))
    return streams, slowed


def start(
    stack: contextlib.ExitStack, name: str, artifact: Artifact, inputs: Sequence[Arrays], protocol: Protocol
) -> Worker:
    """A worker of one side that is to be told to `open`; it ends with `stack`.

    Raises:
        SideError: it could not be started.
    """
    worker = Worker(
        "edgeopt.validation.subject:Subject",
        artifact,
        inputs,
        True,
        limits=Limits(seconds=protocol.call_seconds),
        environ=thread_environment(protocol.threads),
    )
    with named(name):
        worker.start()
    stack.callback(worker.close)
    return worker


def warm_up(name: str, worker: Worker, cores: tuple[int, ...]) -> WarmUp:
    """Pin an opened side to `cores`, if any, and warm it up.

    Raises:
        SideError: it failed.
    """
    with named(name):
        if cores:
            worker.call("pin", cores)
        warm: WarmUp = worker.call("warm_up")
    return warm


@contextlib.contextmanager
def named(side: str) -> Iterator[None]:
    """Errors inside become a `SideError` of that side."""
    try:
        yield
    except EdgeoptError as error:
        raise SideError(f"`{side}` could not be timed: {error.message}", error.hint, error.log, side) from error


def timed_cores(threads: int) -> tuple[int, ...]:
    """The core that single-threaded sides take turns on: of the strongest the last, as the first serves interrupts.

    More threads are left to the scheduler, which knows which cores share their units.
    """
    usable = conditions.usable_cores()
    if threads > 1 or not usable:
        return ()
    return (max(usable, key=lambda core: (conditions.strength(core), core)),)
