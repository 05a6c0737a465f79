"""How much energy an inference takes beyond what the machine takes idle, where the machine has a counter.

A counter holds the whole package or board, whoever uses it. So every side works alone, in a fresh worker, between two
windows in which nothing runs; what the machine takes then is subtracted. Fresh sets of workers give independent values,
whose median has an interval by order statistics.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeopt import environment
from edgeopt.backends import Arrays
from edgeopt.counters import EnergyCounter, Reading, all_counters
from edgeopt.model import Artifact
from edgeopt.validation import Measurement, statistics
from edgeopt.validation.energy_samples import EnergyProtocol, EnergySamples
from edgeopt.validation.latency_samples import Protocol
from edgeopt.validation.timing import alone, named, start, timed_cores, warm_up
from edgeopt.workers import Progress, ignore_progress

METRIC, UNIT = "energy.mj", "mJ"


class _Set(NamedTuple):
    """The rows of one set in `EnergySamples`: (sides,), (sides, 2), (sides + 1, 2) and (sides,)."""

    runs: list[int]
    busy: list[Reading]
    idle: list[Reading]
    order: NDArray[np.int64]


def find_counter(processor: str = "cpu") -> EnergyCounter | None:
    """The counter of this machine that holds the energy of `processor`, `cpu` or `gpu`; None where there is none.

    One that holds more is preferred: work leaves its processor, for memory mostly.
    """
    fit = [one for one in all_counters().values() if processor in one.covers and one.available()]
    return max(fit, key=lambda one: len(one.covers), default=None)


def explain_absence(processor: str = "cpu") -> str:
    """Why `find_counter` finds none, counter by counter, and what would change that."""
    told = [f"{name}: {one.why()}" for name, one in all_counters().items() if processor in one.covers]
    return f"no counter of the energy of the {processor.upper()} ({'; '.join(told)})"


def run_energy(
    sides: Mapping[str, Artifact],
    inputs: Sequence[Arrays],
    counter: EnergyCounter,
    protocol: EnergyProtocol,
    lock: Path,
    *,
    progress: Progress = ignore_progress,
) -> EnergySamples:
    """Let every side work for a while in each of `protocol.sets` fresh sets of workers, and read the counter.

    Args:
        sides: name → artifact, all for the same machine and batch.
        inputs: batches that every side runs, in the same sequence.
        lock: a file that everything on this machine that times anything locks.

    Raises:
        SideError: a side crashed, hung or could not be opened.
        MissingError: the counter cannot be read any more.
    """
    began, cores = time.monotonic(), timed_cores(protocol.threads)
    found: list[_Set] = []
    with alone(lock, progress), counter:
        for number in range(protocol.sets):
            progress(f"energy: set {number + 1} of {protocol.sets}", number / protocol.sets)
            found.append(_measure_set(sides, inputs, counter, protocol, number, cores))
    return EnergySamples(
        sides=tuple(sides),
        digests=tuple(artifact.digest() for artifact in sides.values()),
        runs=np.array([one.runs for one in found], dtype=np.int64).T,
        busy=np.array([one.busy for one in found], dtype=np.float64).swapaxes(0, 1),
        idle=np.array([one.idle for one in found], dtype=np.float64),
        order=np.array([one.order for one in found]),
        protocol=protocol,
        what=counter.what,
        cores=cores,
        batch=len(next(iter(inputs[0].values()))),
        seconds=time.monotonic() - began,
        environment=environment.fingerprint_digest(),
    )


def _measure_set(
    sides: Mapping[str, Artifact],
    inputs: Sequence[Arrays],
    counter: EnergyCounter,
    protocol: EnergyProtocol,
    number: int,
    cores: tuple[int, ...],
) -> _Set:
    """One fresh worker per side, all warm before the first window; then idle and busy windows in turn."""
    names = tuple(sides)
    order = np.random.default_rng([protocol.seed, number]).permutation(len(names))
    runs, busy = [0] * len(names), [Reading(0.0, 0.0)] * len(names)
    with contextlib.ExitStack() as stack:
        alike = Protocol(threads=protocol.threads, call_seconds=protocol.call_seconds)
        workers = {name: start(stack, name, artifact, inputs, alike) for name, artifact in sides.items()}
        for name, worker in workers.items():
            with named(name):
                worker.wait_ready()
                worker.call("open", cores)
            warm_up(name, worker, cores)
        idle = [_idle(counter, protocol)]
        for side in order:
            before = counter.read()
            with named(names[side]):
                (stream,) = workers[names[side]].call("stream", 1, protocol.busy_seconds)
            # The run that the stream does not time took its energy too.
            runs[side], busy[side] = stream.runs + 1, counter.read().since(before)
            idle.append(_idle(counter, protocol))
    return _Set(runs, busy, idle, order)


def _idle(counter: EnergyCounter, protocol: EnergyProtocol) -> Reading:
    time.sleep(protocol.settle_seconds)
    before = counter.read()
    time.sleep(protocol.idle_seconds)
    return counter.read().since(before)


def measure_energy(
    samples: EnergySamples, side: str, alpha: float, *, raw: str | None = None, simulated: bool = False
) -> Measurement:
    """Millijoules of one inference of one side beyond idle: the median over sets, each bound at confidence 1 - alpha.

    An inference is one run of the target's batch. Nothing is clipped: a value may lie below zero. There is no upper
    bound, so no budget is met, while the lower one is not above zero: a machine that works all the time takes more than
    an idle one, so a counter that does not tell the two apart may not see the work at all.
    """
    values = samples.millijoules_of(side)
    if not np.isfinite(values).all():
        none = unmeasured_energy("the samples are not finite", samples.digest_of(side))
        return none.model_copy(update={"raw": raw, "environment": samples.environment, "simulated": simulated})
    low = statistics.percentile_lower_bound(values, 0.5, alpha)
    high = statistics.percentile_upper_bound(values, 0.5, alpha)
    note = ""
    if low is None:
        needed = statistics.percentile_values_needed(0.5, alpha)
        note = f"{samples.sets} sets of workers were measured, {needed} are needed"
    elif low <= 0:
        high, note = None, "the counter does not tell the runs from an idle machine"
    return Measurement(
        metric=METRIC,
        unit=UNIT,
        value=float(np.median(values)),
        low=low,
        high=high,
        confidence=1.0 - alpha,
        samples=samples.sets,
        subject=samples.digest_of(side),
        raw=raw,
        environment=samples.environment,
        simulated=simulated,
        note=note,
    )


def unmeasured_energy(why: str, subject: str) -> Measurement:
    """The energy of an artifact that nothing could measure, and why."""
    return Measurement(
        metric=METRIC, unit=UNIT, value=None, subject=subject, environment=environment.fingerprint_digest(), note=why
    )


def describe_energy(samples: EnergySamples) -> str:
    """One sentence on what the figures hold, for the notes of a report."""
    return f"energy is that of {samples.what}; idle subtracted, over {samples.sets} sets of workers"
