"""How fast the sides of one comparison are: what follows from samples that were timed beside each other.

Percentiles, throughput and cold start are of the time that a user would see. Ratios leave out the time in which a
process was ready and another one had its core, where that can be done for both sides. They are taken inside a block,
and a set of workers is the unit of the interval, because a fresh process has an effect of its own (the layout of its
memory, mostly).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeopt.validation import Measurement, statistics
from edgeopt.validation.latency_samples import LatencySamples
from edgeopt.validation.throughput import Measure, measure_throughput
from edgeopt.validation.timing import SideError, measure_sets

__all__ = [
    "Ratio", "SideError", "describe_conditions", "describe_waiting", "measure_latency", "measure_sets",
    "percentile_bounds", "ratio_interval",
]  # fmt: skip

PERCENTILES = {"latency.p50_ms": 0.5, "latency.p90_ms": 0.9, "latency.p99_ms": 0.99}

#: metrics of a fresh process, and which of its `Figures` they are
COLD_STARTS = {"latency.open_ms": "open_ns", "latency.first_ms": "first_ns"}

#: above this share of dropped blocks nothing is concluded
MOST_DROPPED = 0.2

#: above this share the time that a side waited for its core is told
NOTED_WAITING = 0.01


@dataclass(frozen=True)
class Ratio:
    """side ÷ baseline with its two-sided interval over `sets` sets; where there is none, `note` says why."""

    value: float | None
    low: float | None
    high: float | None
    sets: int
    note: str = ""


def ratio_interval(samples: LatencySamples, side: str, baseline: str, alpha: float) -> Ratio:
    """How `side` compares with `baseline` at confidence 1 - alpha.

    d = ln median(side) - ln median(baseline) in each block, then its median over the blocks of a set, since a burst
    spoils a few blocks and a mean would keep it; the ratio is exp(median of d over sets), and its interval is that of
    the order statistics of d. Waiting for a core is left out: see `LatencySamples.paired_times_of`.
    """
    medians = ([np.median(times, axis=1) for times in pair] for pair in samples.paired_times_of(side, baseline))
    log_ratios = [float(np.median(np.log(ours) - np.log(theirs))) for ours, theirs in medians]
    sets = len(log_ratios)
    value = math.exp(float(np.median(log_ratios))) if sets else None
    note = _too_disturbed(samples)
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
    baseline: str | None = None,
    raw: str | None = None,
    simulated: bool = False,
) -> list[Measurement]:
    """All that the samples say of one side: percentiles, throughput, cold start, and its ratios to the references.

    Percentiles are milliseconds of wall time and throughput is images per second, with one-sided bounds; so are, over
    fresh processes, the medians of opening a session (`latency.open_ms`: importing the runtime is in it, the files are
    in the system's cache) and of its first run (`latency.first_ms`). Ratios are side ÷ reference with a two-sided
    interval. Each is at confidence 1 - alpha: see `Protocol.alpha`. `samples` counts timed runs for percentiles, fresh
    processes for cold start, and sets for the rest.
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
    found += _device_time(samples, side, alpha, measure)
    found.append(measure_throughput(samples, side, alpha, found[0], measure, _too_disturbed(samples)))
    found += [_cold_start(samples, side, metric, alpha, measure) for metric in COLD_STARTS]
    references = {"latency.ratio": original, "latency.ratio_fp32": float_side, "latency.ratio_baseline": baseline}
    for metric, reference in references.items():
        if reference is not None:
            found.append(_ratio(samples, side, metric, reference, alpha, measure))
    return found


def _percentile(samples: LatencySamples, side: str, metric: str, alpha: float, measure: Measure) -> Measurement:
    quantile = PERCENTILES[metric]
    by_set = [times.ravel() / 1e6 for times in samples.times_of(side)]
    runs = np.concatenate([np.empty(0), *by_set])
    note = _too_disturbed(samples)
    low, high = (None, None) if note else percentile_bounds(by_set, quantile, alpha)
    if high is None:
        note = note or _tell_shortage(samples, by_set, quantile, alpha)
    value = float(np.quantile(runs, quantile)) if runs.size else None
    return measure(metric=metric, unit="ms", value=value, low=low, high=high, samples=runs.size, note=note)


def _device_time(samples: LatencySamples, side: str, alpha: float, measure: Measure) -> Iterator[Measurement]:
    """The median by the clock of the device, where it has one: what copies and launches take is the rest of the p50."""
    by_set = [times / 1e6 for times in samples.device_times_of(side)]
    if by_set:
        runs = np.concatenate(by_set)
        low, high = percentile_bounds(by_set, 0.5, alpha)
        value = float(np.median(runs))
        yield measure(metric="latency.device_ms", unit="ms", value=value, low=low, high=high, samples=runs.size)


def _tell_shortage(
    samples: LatencySamples, by_set: Sequence[NDArray[np.float64]], quantile: float, alpha: float
) -> str:
    """How many runs, in about how many sets, it takes to bound a percentile that these do not bound."""
    runs, sets = sum(map(len, by_set)), len(by_set)
    needed = statistics.percentile_values_needed(quantile, alpha)
    worth = int(statistics.effective_size(np.concatenate(by_set)))
    more = max(statistics.percentile_values_needed(0.5, alpha), math.ceil(sets * needed / worth))
    takes = f"{needed}, in {more} sets" if worth < needed else f"{more} sets"
    told = f"{runs} runs in {sets} sets were timed"
    if worth < runs:
        told += f", worth {worth} independent ones"
    most = samples.protocol.looks[-1]
    beyond = f", and {most} is the most that are timed" if more > most else ""
    return f"{told}; it takes {takes}{beyond}"


def percentile_bounds(
    by_set: Sequence[NDArray[np.float64]], quantile: float, alpha: float
) -> tuple[float | None, float | None]:
    """One-sided bounds of a percentile of times by set, each at confidence 1 - alpha; None: too few.

    Two bounds are taken and the weaker one given: that of all runs, which counts as many of them as are independent,
    and that of the typical process, over the percentiles of sets, which holds where runs of one process resemble one
    another.
    """
    runs = np.concatenate([np.empty(0), *by_set])
    per_set = [float(np.quantile(times, quantile, method="weibull")) for times in by_set]
    lows = [_mirrored(_upper_bound(-runs, 1.0 - quantile, alpha))]
    lows.append(statistics.percentile_lower_bound(per_set, 0.5, alpha))
    highs = [_upper_bound(runs, quantile, alpha)]
    highs.append(statistics.percentile_upper_bound(per_set, 0.5, alpha))
    low = None if None in lows else min(bound for bound in lows if bound is not None)
    high = None if None in highs else max(bound for bound in highs if bound is not None)
    return low, high


def _upper_bound(runs: NDArray[np.float64], quantile: float, alpha: float) -> float | None:
    """An upper bound of a quantile of runs in the order of time; None: too few of them are independent.

    Of as many independent ones as these are worth the t-th largest would be the bound; it is the run that has the same
    share of all above it. With a correlation of 0.7 a bound that takes all for independent covers the 90th percentile
    in 79 % of cases at nominal 95 %, this one in 97 % (1,600 runs, simulated).
    """
    worth = int(statistics.effective_size(runs))
    rank = statistics.count_below_tail(worth, 1.0 - quantile, alpha) if worth else 0
    return float(np.sort(runs)[-max(1, rank * len(runs) // worth)]) if rank else None


def _mirrored(bound: float | None) -> float | None:
    return None if bound is None else -bound


def _cold_start(samples: LatencySamples, side: str, metric: str, alpha: float, measure: Measure) -> Measurement:
    values = np.array([getattr(figures, COLD_STARTS[metric]) for figures in samples.figures_of(side)]) / 1e6
    low = statistics.percentile_lower_bound(values, 0.5, alpha)
    high = statistics.percentile_upper_bound(values, 0.5, alpha)
    needed = statistics.percentile_values_needed(0.5, alpha)
    note = f"{len(values)} fresh processes were opened, {needed} are needed" if high is None else ""
    value = float(np.median(values))
    return measure(metric=metric, unit="ms", value=value, low=low, high=high, samples=len(values), note=note)


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


def describe_conditions(samples: LatencySamples) -> Iterator[str]:
    """What a reader must know of how the samples were taken, a sentence each."""
    waiting, dropped = describe_waiting(samples), _tell_dropped(samples)
    if waiting:
        yield waiting
    if dropped:
        yield dropped
    for side, settled in zip(samples.sides, samples.settled, strict=True):
        if not np.all(settled):
            unsettled = np.count_nonzero(~settled)
            yield f"{side} was still gaining speed when its warm-up ended, in {unsettled} of {samples.sets} sets"
    if samples.overdue and samples.sets < samples.protocol.looks[-1]:
        spent = f"the {samples.protocol.seconds:g} s of timing were spent"
        yield f"{spent} after {samples.sets} of {samples.protocol.looks[-1]} sets; `measure.seconds` allows more"


def describe_waiting(samples: LatencySamples) -> str:
    """One sentence on how long the sides waited for a core, and which figures hold that; empty if next to none did."""
    shares = {side: samples.waited_share_of(side) for side in samples.sides}
    told = [f"{side} {100 * share:.0f} %" for side, share in shares.items() if share >= NOTED_WAITING]
    if not told:
        return ""
    pooled = [side for side in samples.sides if not samples.is_correctable(side)]
    if len(samples.sides) - len(pooled) < 2:
        held = "percentiles and ratios hold that"
    else:
        held = "ratios leave that out" + (f" but for those with {', '.join(pooled)}" if pooled else "")
        held += ", percentiles do not"
    return f"the machine was shared: waiting for a core took {', '.join(told)} of the time; {held}"


def _tell_dropped(samples: LatencySamples) -> str:
    """How many blocks count for no side, and why; empty where all count."""
    dropped, disturbed = samples.dropped_blocks, samples.disturbed
    counts = {why: np.count_nonzero(blocks) for why, blocks in disturbed.items()}
    counts["too little of their set was left"] = dropped - np.count_nonzero(np.any(list(disturbed.values()), axis=0))
    causes = ", ".join(f"{why} in {count}" for why, count in counts.items() if count)
    return f"{dropped} of {samples.blocks} blocks were dropped for all sides: {causes}" if dropped else ""


def _too_disturbed(samples: LatencySamples) -> str:
    """Why nothing is concluded from these samples; empty if something may be."""
    return _tell_dropped(samples) if samples.dropped_blocks > MOST_DROPPED * samples.blocks else ""
