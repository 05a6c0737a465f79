"""How fast the sides of one comparison are: what follows from samples that were timed beside each other.

Percentiles and throughput are of the time that a user would see. Ratios leave out the time in which a process was ready
and another one had its core, where that can be done for both sides. They are taken inside a block, and a set of workers
is the unit of the interval, because a fresh process has an effect of its own (the layout of its memory, mostly).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeopt.validation import Measurement, statistics
from edgeopt.validation.latency_samples import LatencySamples
from edgeopt.validation.timing import SideError, measure_sets

__all__ = [
    "Ratio", "SideError", "describe_waiting", "measure_latency", "measure_sets", "percentile_bounds", "ratio_interval",
]  # fmt: skip

Measure = Callable[..., Measurement]

PERCENTILES = {"latency.p50_ms": 0.5, "latency.p90_ms": 0.9, "latency.p99_ms": 0.99}

#: above this share of throttled sets nothing is concluded
MOST_THROTTLED = 0.2

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
    medians = [np.median(times, axis=2) for times in samples.paired_times_of(side, baseline)]
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

    Percentiles are milliseconds of wall time with one-sided bounds, ratios side ÷ reference with a two-sided interval,
    each at confidence 1 - alpha: see `Protocol.alpha`. `samples` counts timed runs for percentiles and sets for ratios.
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


def _too_throttled(samples: LatencySamples) -> str:
    """Why nothing is concluded from these samples; empty if something may be."""
    dropped = samples.sets - samples.kept_sets
    held_back = f"the machine held the processes back in {dropped} of {samples.sets} sets"
    return held_back if dropped > MOST_THROTTLED * samples.sets else ""
