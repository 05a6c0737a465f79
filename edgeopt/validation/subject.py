"""One opened session in a process of its own: what latency and memory are measured on.

Used as `Worker("edgeopt.validation.subject:Subject", artifact, inputs)`. The only clock of edgeopt is here: it starts
with the inputs in arrays of the host, and stops with the outputs there and before they are looked at; a backend never
times itself.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from edgeopt import backends
from edgeopt.backends import Arrays
from edgeopt.model import Artifact
from edgeopt.validation import conditions

#: warm-up takes so many runs, or so many seconds of slow ones …
WARM_ITERATIONS = 50
WARM_SECONDS = 1.0
#: … and goes on until one window of runs is no more than this much faster than the one before, or its time is spent
WARM_GAIN = 0.02
MOST_WARM_SECONDS = 30.0
#: runs of a window: fewer where runs are so slow that few are made, and vary little
WINDOW, LEAST_WINDOW = 20, 3

#: the share of a block's time that other threads may work, or this one sleep, where it counts as doing all the work
ELSEWHERE = 0.05


class Figures(NamedTuple):
    """What a fresh process tells of itself: nanoseconds to open, nanoseconds of the first inference, and the peak of
    resident bytes above those of the process before it imported the backend's library."""

    open_ns: int
    first_ns: int
    peak_bytes: int


class Block(NamedTuple):
    """Nanoseconds of each timed run, and how many of them the process waited while another one had its core.

    `correctable`: this one thread did the work, so that a run without the waiting would have been shorter by it. What
    other threads worked is then given back: it may be what was waited for. Where they, or a device, did more than a
    twentieth, the waiting is told but may not be taken off: the work may have gone on meanwhile.

    `moves`: how often the thread was moved to another core.

    On a shared machine that waiting is most of the noise, and it says nothing of what is timed: beside jobs that held
    the core for 72 % of the time, ratios of equal networks scattered by 11 % with it and by 1.8 % without.
    """

    times_ns: list[int]
    waited_ns: list[int]
    correctable: bool
    moves: int = 0


class WarmUp(NamedTuple):
    """Nanoseconds of each run of a warm-up, and whether it ended because the speed had settled."""

    times_ns: list[int]
    settled: bool


class Stream(NamedTuple):
    """How often one thread called the session beside others, and the nanoseconds that this took."""

    runs: int
    time_ns: int


class Subject:
    """A session and the batches that it is timed on, used in turn, the same for every side of a comparison.

    It is opened at once, or by `open` where `later`: so processes can start side by side, which is slow, and each
    session open while nothing else runs.
    """

    def __init__(self, artifact: Artifact, inputs: Sequence[Arrays], later: bool = False) -> None:
        # The collector stays off for good: it would run inside some timed iterations, and it slows the import of
        # torch by a fifth.
        gc.disable()
        self._artifact, self._backend = artifact, artifact.backend
        self._inputs = tuple(inputs)
        self._schedule = _open_schedule()
        if not later:
            self.open()

    def open(self, cores: Sequence[int] = ()) -> None:
        """Open the session, the backend's library and all, and run it once.

        Args:
            cores: that this process will be pinned to. Its library is loaded there: OpenVINO notes where threads may
                run when it first looks for devices, and lets the calling one go there in each run.
        """
        _forget_peak()
        self._empty_bytes = _resident_bytes("VmRSS")
        clock = time.perf_counter_ns
        start = clock()
        with backends.backend_errors(self._backend, "open its artifact"):
            backend = backends.get(self._backend)
            with _kept_on(cores):
                backend.available()
            self._session = backend.open(self._artifact)
        opened = clock()
        with backends.backend_errors(self._backend, "run"):
            self._session.run(self._inputs[0])
        self._open_ns, self._first_ns = opened - start, clock() - opened

    def pin(self, cores: Sequence[int]) -> None:
        """Keep every thread of this process on `cores`; called when it is open, so that opening may use all cores."""
        _keep_all(cores)

    def warm_up(self) -> WarmUp:
        """Run until the speed has settled or the time is spent."""
        start_ns = time.perf_counter_ns()
        deadline_ns = start_ns + int(MOST_WARM_SECONDS * 1e9)
        times, _ = self._time(WARM_ITERATIONS, start_ns + int(WARM_SECONDS * 1e9))
        while not _settled(times) and time.perf_counter_ns() < deadline_ns:
            times += self._time(_window(times), deadline_ns)[0]
        return WarmUp(times, _settled(times))

    def time_block(self, discard: int, iterations: int) -> Block:
        """Time `iterations` runs after `discard` untimed ones; each block goes through the same inputs in order."""
        start = conditions.place()
        self._time(discard)
        block = self._time_block(iterations, math.inf, discard)
        return block._replace(moves=start.moves_until(conditions.place()))

    def time_for(self, seconds: float) -> Block:
        """Time runs for so long, one at least."""
        start = conditions.place()
        block = self._time_block(sys.maxsize, time.perf_counter_ns() + seconds * 1e9, 0)
        return block._replace(moves=start.moves_until(conditions.place()))

    def _time_block(self, iterations: int, deadline_ns: float, first: int) -> Block:
        process_ns, thread_ns = time.process_time_ns(), time.thread_time_ns()
        times, waited = self._time(iterations, deadline_ns, first)
        process_ns, thread_ns = time.process_time_ns() - process_ns, time.thread_time_ns() - thread_ns
        others_ns = max(0, process_ns - thread_ns)
        slept_ns = sum(times) - sum(waited) - thread_ns
        if max(others_ns, slept_ns) > ELSEWHERE * sum(times):
            return Block(times, waited, correctable=False)
        kept = max(0.0, 1.0 - others_ns / max(1, sum(waited)))
        return Block(times, [int(one * kept) for one in waited], correctable=True)

    def stream(self, streams: int, seconds: float) -> list[Stream]:
        """Call the session from so many threads at once, each in a closed loop, for about `seconds`.

        Each thread runs once untimed, then all begin together; a run that was begun in time is finished and counts.
        """
        together = threading.Barrier(streams)
        with ThreadPoolExecutor(streams) as pool:
            calls = [pool.submit(self._call, first, seconds, together) for first in range(streams)]
            wait(calls)
        # A stream that fails keeps the others from beginning: what is told is its error, not theirs.
        errors = [error for call in calls if (error := call.exception()) is not None]
        with backends.backend_errors(self._backend, "run"):
            for error in sorted(errors, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
                raise error
        return [call.result() for call in calls]

    def _call(self, first: int, seconds: float, together: threading.Barrier) -> Stream:
        run, inputs, clock, runs = self._session.run, self._inputs, time.perf_counter_ns, 0
        try:
            run(inputs[first % len(inputs)])
        except BaseException:
            together.abort()
            raise
        together.wait()
        start = now = clock()
        deadline = start + int(seconds * 1e9)
        while now < deadline:
            run(inputs[(first + runs) % len(inputs)])
            now, runs = clock(), runs + 1
        return Stream(runs, now - start)

    def device_times(self, runs: int) -> list[int]:
        """Nanoseconds of so many runs by the clock of the device that does them; -1 each where none has a clock."""
        with backends.backend_errors(self._backend, "run"):
            inputs = (self._inputs[index % len(self._inputs)] for index in range(runs))
            told = [self._session.device_ms(batch) for batch in inputs]
        return [-1 if one is None else round(one * 1e6) for one in told]

    def figures(self) -> Figures:
        """What this process has cost so far."""
        return Figures(self._open_ns, self._first_ns, max(0, _resident_bytes("VmHWM") - self._empty_bytes))

    def _time(self, iterations: int, deadline_ns: float = math.inf, first: int = 0) -> tuple[list[int], list[int]]:
        with backends.backend_errors(self._backend, "run"):
            return self._time_plainly(iterations, deadline_ns, first)

    def _time_plainly(self, iterations: int, deadline_ns: float, first: int) -> tuple[list[int], list[int]]:
        run, inputs, clock, waiting = self._session.run, self._inputs, time.perf_counter_ns, self._waiting_ns
        times, waited = list[int](), list[int]()
        for index in range(first, first + iterations):
            batch = inputs[index % len(inputs)]
            before = waiting()
            start = clock()
            run(batch)
            stop = clock()
            waited.append(waiting() - before)
            times.append(stop - start)
            if stop > deadline_ns:
                break
        return times, waited

    def _waiting_ns(self) -> int:
        """How long this thread has been ready to run and was not run; 0 where the system does not tell."""
        return 0 if self._schedule is None else int(os.pread(self._schedule, 64, 0).split()[1])


@contextlib.contextmanager
def _kept_on(cores: Sequence[int]) -> Iterator[None]:
    """Meanwhile every thread of this process stays on `cores`; anywhere, where there are none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    _keep_all(cores)
    try:
        yield
    finally:
        _keep_all(before)


def _keep_all(cores: Collection[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # the task ended meanwhile
            os.sched_setaffinity(int(task.name), cores)


def thread_environment(threads: int) -> dict[str, str]:
    """What a process must find in its environment so that no library opens a larger pool than `threads`."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def _window(times: list[int]) -> int:
    return max(LEAST_WINDOW, min(WINDOW, len(times) // 2))


def _settled(times: list[int]) -> bool:
    window = _window(times)
    if len(times) < 2 * window:
        return False
    earlier, later = statistics.median(times[-2 * window : -window]), statistics.median(times[-window:])
    # One-sided: warming up makes runs faster, and on a noisy machine two windows are seldom equal.
    return later > earlier * (1.0 - WARM_GAIN)


def _forget_peak() -> None:
    """Ask the kernel to count the peak of resident memory anew; where it cannot, it counts from the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _open_schedule() -> int | None:
    """This thread's scheduler statistics, kept open: they are read beside every timed run."""
    try:
        return os.open("/proc/thread-self/schedstat", os.O_RDONLY)
    except OSError:
        return None


def _resident_bytes(field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (peak) of this process, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)
