"""How fast the sides of one comparison are: timed side by side, and what follows from the samples.

Each side lives in a worker of its own, and a set is one fresh worker per side. In a block every side has its turn, in
random order, while the others wait, so that drift and bursts of a shared machine meet all sides alike. Ratios are taken
inside a block, and a set is the unit of the interval, because a fresh process has an effect of its own (the layout of
its memory, mostly).
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeopt import environment, files
from edgeopt.backends import Arrays
from edgeopt.errors import BuildError, EdgeoptError
from edgeopt.model import Artifact
from edgeopt.validation import Measurement, statistics
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.subject import Block, thread_environment
from edgeopt.workers import Limits, Progress, Worker, ignore_progress

Measure = Callable[..., Measurement]

PERCENTILES = {"latency.p50_ms": 0.5, "latency.p90_ms": 0.9, "latency.p99_ms": 0.99}

#: above this share of throttled sets nothing is concluded
MOST_THROTTLED = 0.2


class SideError(BuildError):
    """A side that could not be timed; `side` names it, so that the others can be measured without it."""

    def __init__(self, message: str, hint: str = "", side: str = "") -> None:
        super().__init__(message, hint)
        self.side = side

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint, self.side)


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
        lock: a file that everything on this machine that times anything locks.

    Raises:
        SideError: a side crashed, hung or could not be opened.
    """
    samples = so_far
    with _alone(lock, progress):
        while samples is None or (samples.sets < sets and samples.seconds < protocol.seconds):
            number = samples.sets if samples else 0
            progress(f"set {number + 1} of {sets}", number / sets)
            one = _measure_set(sides, inputs, protocol, number)
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
    began, throttled = time.monotonic(), _times_throttled()
    random = np.random.default_rng([protocol.seed, number])
    order = np.array([random.permutation(len(sides)) for _ in range(protocol.blocks)])
    blocks: dict[tuple[int, int], Block] = {}
    names = tuple(sides)
    with contextlib.ExitStack() as stack:
        workers = [_start(stack, name, sides[name], inputs, protocol) for name in names]
        for name, worker in zip(names, workers, strict=True):
            with _named(name):
                worker.wait_ready()
        for name, worker in zip(names, workers, strict=True):
            with _named(name):
                worker.call("pin", _cores(protocol.threads))
                worker.call("warm_up")
        for block, turns in enumerate(order):
            for side in turns:
                with _named(names[side]):
                    blocks[side, block] = workers[side].call("time_block", protocol.discard, protocol.iterations)
        figures = [worker.call("figures") for worker in workers]
    grid = [[blocks[side, block] for block in range(protocol.blocks)] for side in range(len(names))]
    return LatencySamples(
        sides=names,
        digests=tuple(artifact.digest() for artifact in sides.values()),
        times_ns=np.array([[block.times_ns for block in row] for row in grid], dtype=np.int64)[:, None],
        waited_ns=np.array([[block.waited_ns for block in row] for row in grid], dtype=np.int64)[:, None],
        order=order[None],
        figures=np.array(figures, dtype=np.int64)[:, None],
        throttled=np.array([_times_throttled() > throttled]),
        protocol=protocol,
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
        raise SideError(f"`{side}` could not be timed: {error.message}", error.hint, side) from error


def _cores(threads: int) -> tuple[int, ...]:
    """The cores that all sides take turns on: the last ones, since the first serves most interrupts."""
    return tuple(sorted(os.sched_getaffinity(0))[-threads:])


def _times_throttled() -> int:
    """How often the kernel held this control group back for its CPU quota; 0 where no quota is known."""
    for path in (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat")):
        if path.is_file():
            words = path.read_text(encoding="ascii").split()
            return int(dict(zip(words[::2], words[1::2], strict=True)).get("nr_throttled", 0))
    return 0


@dataclass(frozen=True)
class Ratio:
    """side ÷ baseline with its two-sided interval over `sets` sets; where there is none, `note` says why."""

    value: float | None
    low: float | None
    high: float | None
    sets: int
    note: str = ""

    @property
    def contains_one(self) -> bool:
        """Whether the two may be equally fast; undecided counts as equal."""
        return self.low is None or self.high is None or self.low <= 1.0 <= self.high


def ratio_interval(samples: LatencySamples, side: str, baseline: str, alpha: float) -> Ratio:
    """How `side` compares with `baseline` at confidence 1 - alpha.

    d = ln median(side) - ln median(baseline) in each block, then its median over the blocks of a set, since a burst
    spoils a few blocks and a mean would keep it; the ratio is exp(median of d over sets), and its interval is that of
    the order statistics of d.
    """
    medians = [np.median(samples.times_of(name), axis=2) for name in (side, baseline)]
    log_ratios = np.median(np.log(medians[0]) - np.log(medians[1]), axis=1)
    sets = len(log_ratios)
    value = math.exp(float(np.median(log_ratios))) if sets else None
    note = _too_throttled(samples)
    interval = None if note else statistics.median_interval(log_ratios, alpha)
    if interval is None:
        needed = statistics.median_units_needed(alpha)
        return Ratio(value, None, None, sets, note or f"{sets} sets of workers were timed, {needed} are needed")
    return Ratio(value, math.exp(interval[0]), math.exp(interval[1]), sets)


def measure_latency(
    samples: LatencySamples,
    side: str,
    alpha: float,
    *,
    original: str | None = None,
    float_side: str | None = None,
    raw: str | None = None,
    simulated: bool = False,
) -> list[Measurement]:
    """All that the samples say of one side: percentiles, throughput, and its ratios to `original` and `float_side`.

    Percentiles are in milliseconds with one-sided bounds, ratios are side ÷ reference with a two-sided interval, each
    at confidence 1 - alpha: see `Protocol.alpha`. `samples` counts timed runs for percentiles and sets for ratios.
    """
    measure = functools.partial(
        Measurement,
        confidence=1.0 - alpha,
        subject=samples.digest_of(side),
        raw=raw,
        environment=samples.environment,
        simulated=simulated,
    )
    found = [_percentile(samples, side, metric, alpha, measure) for metric in PERCENTILES]
    found.append(_throughput(found[0], samples.batch))
    for metric, baseline in {"latency.ratio": original, "latency.ratio_fp32": float_side}.items():
        if baseline is not None:
            found.append(_ratio(samples, side, metric, baseline, alpha, measure))
    return found


def _percentile(samples: LatencySamples, side: str, metric: str, alpha: float, measure: Measure) -> Measurement:
    quantile = PERCENTILES[metric]
    times = samples.times_of(side)
    by_set = times.reshape(len(times), math.prod(times.shape[1:])) / 1e6
    note = _too_throttled(samples)
    low, high = (None, None) if note else percentile_bounds(by_set, quantile, alpha)
    if high is None:
        needed = statistics.percentile_values_needed(quantile, alpha)
        sets_needed = statistics.percentile_values_needed(0.5, alpha)
        note = note or f"{by_set.size} runs in {len(by_set)} sets were timed, {needed} in {sets_needed} are needed"
    value = float(np.quantile(by_set, quantile)) if by_set.size else None
    return measure(metric=metric, unit="ms", value=value, low=low, high=high, samples=by_set.size, note=note)


def percentile_bounds(by_set: NDArray[np.float64], quantile: float, alpha: float) -> tuple[float | None, float | None]:
    """One-sided bounds of a percentile of (sets, runs) times, each at confidence 1 - alpha; None: too few.

    Two bounds are taken and the weaker one given: that of all runs, which holds where they are independent, and that
    of the typical process, over the percentiles of sets, which holds where runs of one process resemble one another.
    """
    per_set = np.quantile(by_set, quantile, axis=1, method="weibull") if by_set.size else by_set
    lows = [statistics.percentile_lower_bound(by_set.ravel(), quantile, alpha)]
    lows.append(statistics.percentile_lower_bound(per_set, 0.5, alpha))
    highs = [statistics.percentile_upper_bound(by_set.ravel(), quantile, alpha)]
    highs.append(statistics.percentile_upper_bound(per_set, 0.5, alpha))
    low = None if None in lows else min(bound for bound in lows if bound is not None)
    high = None if None in highs else max(bound for bound in highs if bound is not None)
    return low, high


def _throughput(median: Measurement, batch: int) -> Measurement:
    """Images per second of one stream: the batch over the median latency, with the median's bounds turned over."""
    per_second = {
        ours: None if milliseconds is None else 1000.0 * batch / milliseconds
        for ours, milliseconds in (("value", median.value), ("low", median.high), ("high", median.low))
    }
    return median.model_copy(update={"metric": "throughput.per_s", "unit": "1/s", **per_second})


def _ratio(
    samples: LatencySamples, side: str, metric: str, baseline: str, alpha: float, measure: Measure
) -> Measurement:
    ratio = ratio_interval(samples, side, baseline, alpha)
    return measure(
        metric=metric,
        unit="1",
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        samples=ratio.sets,
        baseline=samples.digest_of(baseline),
        note=ratio.note,
    )


def _too_throttled(samples: LatencySamples) -> str:
    """Why nothing is concluded from these samples; empty if something may be."""
    dropped = samples.sets - samples.kept_sets
    held_back = f"the machine held the processes back in {dropped} of {samples.sets} sets"
    return held_back if dropped > MOST_THROTTLED * samples.sets else ""
