"""A long run of one side in one fresh process: whether it grows slower as the machine grows warm.

Every run is timed and they are gathered in windows of about a second, with what the machine told of its heat and its
clock meanwhile. What counts is how the last fifth of the windows compares with the first one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeopt import environment
from edgeopt.backends import Arrays
from edgeopt.model import Artifact
from edgeopt.validation import Measurement, conditions, statistics, timing
from edgeopt.validation.conditions import Slowdowns
from edgeopt.validation.latency_samples import MOST_ODD, Protocol, pack_fields, unpack_fields
from edgeopt.validation.subject import Block
from edgeopt.workers import Progress, Worker, ignore_progress

METRIC = "latency.drift_ratio"

WINDOW_SECONDS = 1.0

#: the share of the windows that are compared, at the beginning and at the end
FIFTH = 5

#: a frequency that falls by more than this share is told
NOTED_FALL = 0.02


@dataclass(frozen=True)
class SustainedSamples:
    """What was seen of the sides that ran, one after the other; window by window in the order of time.

    A side that ran after others began on a warm machine, and may drift the less.

    Attributes:
        sides, digests: names of the sides and the digests of their artifacts.
        side: (windows,) which side each window is of.
        began_s: (windows,) seconds since the side's first window began.
        runs: (windows,) how many there were.
        median_ns, p90_ns: (windows,) of the runs as the clock showed them.
        net_median_ns: (windows,) less what they waited while another process had their core; see `Block`.
        correctable: (windows,) whether that could be taken off; where not, it is in both medians.
        temperature_c, frequency_mhz: (windows,) at the end of each; not a number where the machine does not tell.
        slowed: (windows, 2) how often the machine slowed the process down: see `Slowdowns`.
        threads, cores, batch: of every side, as in `LatencySamples`.
        seconds: what it took, with opening and warming up.
        environment: digest of the machine's fingerprint.
    """

    sides: tuple[str, ...]
    digests: tuple[str, ...]
    side: NDArray[np.int64]
    began_s: NDArray[np.float64]
    runs: NDArray[np.int64]
    median_ns: NDArray[np.float64]
    p90_ns: NDArray[np.float64]
    net_median_ns: NDArray[np.float64]
    correctable: NDArray[np.bool_]
    temperature_c: NDArray[np.float64]
    frequency_mhz: NDArray[np.float64]
    slowed: NDArray[np.int64]
    threads: int
    cores: tuple[int, ...]
    batch: int
    seconds: float
    environment: str

    def of(self, side: str) -> SustainedSamples:
        """The samples of one side alone."""
        index = self.sides.index(side)
        chosen = {name: value[self.side == index] for name, value in self._arrays().items()}
        chosen["side"] = np.zeros_like(chosen["side"])
        return replace(self, sides=(side,), digests=(self.digests[index],), **chosen)

    def extend(self, later: SustainedSamples) -> SustainedSamples:
        """These samples with those of further sides added.

        Raises:
            ValueError: a side is in both, or they were not taken alike.
        """
        for name in ("threads", "cores", "batch", "environment"):
            if getattr(self, name) != getattr(later, name):
                raise ValueError(f"samples of two measurements differ in `{name}` and cannot be joined")
        if twice := set(self.sides) & set(later.sides):
            raise ValueError(f"`{min(twice)}` is in both samples")
        moved = replace(later, side=later.side + len(self.sides))._arrays()
        joined: dict[str, Any] = {name: np.concatenate([value, moved[name]]) for name, value in self._arrays().items()}
        joined |= {"sides": self.sides + later.sides, "digests": self.digests + later.digests}
        return replace(self, seconds=self.seconds + later.seconds, **joined)

    def to_npz(self) -> bytes:
        """The samples as the bytes of an .npz file; equal samples give equal bytes."""
        return pack_fields({field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def from_npz(cls, data: bytes) -> SustainedSamples:
        """The samples that `to_npz` gave."""
        values = unpack_fields(data)
        return cls(**values | {name: tuple(values[name]) for name in ("sides", "digests", "cores")})

    def _arrays(self) -> dict[str, NDArray[Any]]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def run_sustained(
    side: str,
    artifact: Artifact,
    inputs: Sequence[Arrays],
    protocol: Protocol,
    seconds: float,
    lock: Path,
    *,
    progress: Progress = ignore_progress,
) -> SustainedSamples:
    """Run one side without a pause for so many seconds after its warm-up, pinned as it is for its latency.

    Args:
        inputs: batches that it runs, in turn.
        lock: a file that everything on this machine that times anything locks.

    Raises:
        SideError: it crashed, hung or could not be opened.
    """
    cores, rows = timing.timed_cores(protocol.threads), list[dict[str, Any]]()
    with timing.alone(lock, progress), contextlib.ExitStack() as stack:
        started = time.monotonic()
        worker = timing.start(stack, side, artifact, inputs, protocol)
        with timing.named(side):
            worker.wait_ready()
            worker.call("open", cores)
            timing.warm_up(side, worker, cores)
            began = time.monotonic()
            while not rows or time.monotonic() - began < seconds:
                elapsed = time.monotonic() - began
                progress(f"{side} runs for {seconds / 60:g} min", elapsed / seconds)
                rows.append({"began_s": elapsed} | _run_window(worker, cores))
    return SustainedSamples(
        sides=(side,),
        digests=(artifact.digest(),),
        side=np.zeros(len(rows), np.int64),
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
        threads=protocol.threads,
        cores=cores,
        batch=len(next(iter(inputs[0].values()))),
        seconds=time.monotonic() - started,
        environment=environment.fingerprint_digest(),
    )


def _run_window(worker: Worker, cores: tuple[int, ...]) -> dict[str, Any]:
    before = conditions.slowdowns(cores)
    block: Block = worker.call("time_for", WINDOW_SECONDS)
    slowed = before.until(conditions.slowdowns(cores))
    times, waited = np.array(block.times_ns), np.array(block.waited_ns)
    # What the counters of time and of waiting contradict is left as it was.
    net = np.where(waited < times, times - waited, times) if block.correctable else times
    return {
        "runs": len(times), "median_ns": np.median(times), "p90_ns": np.quantile(times, 0.9),
        "net_median_ns": np.median(net), "correctable": block.correctable,
        "temperature_c": conditions.hottest_c(), "frequency_mhz": conditions.frequency_mhz(cores), "slowed": slowed,
    }  # fmt: skip


def measure_sustained(
    samples: SustainedSamples, side: str, alpha: float, *, raw: str | None = None, simulated: bool = False
) -> list[Measurement]:
    """How much slower one side has become: the median window of the last fifth ÷ that of the first.

    The interval holds at confidence 1 - alpha or more: each of the two medians has one by order statistics with half of
    the error. Waiting for a core is left out, as in other ratios. `samples` counts windows.
    """
    ours = samples.of(side)
    windows, fifth = len(ours.runs), len(ours.runs) // FIFTH
    odd = np.mean(~ours.correctable) > MOST_ODD
    medians = ours.median_ns if odd else ours.net_median_ns
    value = low = high = None
    note = _tell_slowdowns(ours)
    if fifth:
        first, last = medians[:fifth], medians[-fifth:]
        value = float(np.median(last) / np.median(first))
        early, late = (statistics.median_interval(part, alpha / 2) for part in (first, last))
        if early and late:
            low, high = late[0] / early[1], late[1] / early[0]
    if low is None:
        needed = FIFTH * statistics.median_units_needed(alpha / 2)
        note = "; ".join(filter(None, (note, f"{windows} windows of about a second were timed, {needed} are needed")))
    return [
        Measurement(
            metric=METRIC, unit="1", value=value, low=low, high=high, confidence=1.0 - alpha, samples=windows,
            subject=ours.digests[0], raw=raw, environment=ours.environment, simulated=simulated, note=note,
        )
    ]  # fmt: skip


def describe_sustained(samples: SustainedSamples, alpha: float) -> Iterator[str]:
    """One sentence for each side: how long it ran, how much slower it has become, and what the machine did to it."""
    for side in samples.sides:
        (drift,) = measure_sustained(samples, side, alpha)
        seconds = float(samples.of(side).began_s[-1]) + WINDOW_SECONDS
        bounds = "" if drift.low is None or drift.high is None else f" [{drift.low:.2f}, {drift.high:.2f}]"
        took = "" if drift.value is None else f": at last a run took {drift.value:.2f}{bounds} times its first time"
        yield "; ".join(filter(None, (f"{side} ran for {seconds / 60:.2g} min{took}", drift.note)))


def _tell_slowdowns(ours: SustainedSamples) -> str:
    """What the machine did to the side while it ran, as far as the machine tells; empty if nothing."""
    windows = len(ours.runs)
    held, hot = (np.count_nonzero(ours.slowed[:, Slowdowns._fields.index(field)]) for field in ("quota", "heat"))
    told = [f"the CPU was too hot in {hot} of {windows} windows"] if hot else []
    before, after = _ends(ours.frequency_mhz)
    if after < before * (1.0 - NOTED_FALL):
        told.append(f"its frequency fell from {before:,.0f} to {after:,.0f} MHz")
    before, after = _ends(ours.temperature_c)
    if told and not math.isnan(after - before):
        told.append(f"the machine was at {before:.0f} °C at first and at {after:.0f} °C at last")
    if held:
        told.append(f"the CPU quota was spent in {held} of {windows} windows")
    return ", ".join(told)


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """The medians of the first and the last fifth; not a number where there are too few values or one is missing."""
    fifth = len(values) // FIFTH
    return (float(np.median(values[:fifth])), float(np.median(values[-fifth:]))) if fifth else (math.nan, math.nan)
