"""How many images per second an artifact takes: in one stream, or in several that call one session at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeopt.validation import Measurement, statistics
from edgeopt.validation.conditions import Slowdowns
from edgeopt.validation.latency_samples import LatencySamples

#: a `Measurement` of one side, without what all of its measurements have in common
Measure = Callable[..., Measurement]

#: above this share of turns in which the machine slowed the streams down nothing is concluded
MOST_SLOWED = 0.2


def measure_throughput(
    samples: LatencySamples, side: str, alpha: float, median: Measurement, measure: Measure, disturbed: str = ""
) -> Measurement:
    """Images per second, with one-sided bounds at confidence 1 - alpha each.

    With several streams it is the median over sets of what all of them together did; a turn that the machine slowed
    down is left out. With one stream it is the batch over the median latency.

    Args:
        median: the median latency of the side, in milliseconds.
        disturbed: why nothing may be concluded from the samples, if anything speaks against it.
    """
    streams = samples.streams.shape[2]
    if not streams:
        return _of_one_stream(median, samples.batch)
    index = samples.sides.index(side)
    slowed = samples.streams_slowed[index].any(axis=1)
    rates = samples.batch * per_second(samples.streams[index][~slowed])
    note = f"{streams} streams at once through one session"
    low = high = None
    if disturbed or np.count_nonzero(slowed) > MOST_SLOWED * samples.sets:
        note = f"{note}; {disturbed or _tell_slowed(samples.streams_slowed[index])}"
    else:
        low = statistics.percentile_lower_bound(rates, 0.5, alpha)
        high = statistics.percentile_upper_bound(rates, 0.5, alpha)
        if low is None:
            needed = statistics.percentile_values_needed(0.5, alpha)
            note += f"; {len(rates)} sets of workers were timed, {needed} are needed"
    value = float(np.median(rates)) if rates.size else None
    return measure(
        metric="throughput.per_s", unit="1/s", value=value, low=low, high=high, samples=len(rates), note=note
    )


def per_second(streams: NDArray[np.int64]) -> NDArray[np.float64]:
    """Runs per second of all streams of a turn together: (…, streams, 2) runs and nanoseconds → (…)."""
    rates: NDArray[np.float64] = np.sum(1e9 * streams[..., 0] / streams[..., 1], axis=-1)
    return rates


def _of_one_stream(median: Measurement, batch: int) -> Measurement:
    """The batch over the median latency, with the median's bounds turned over."""
    per_second = {
        ours: None if milliseconds is None else 1000.0 * batch / milliseconds
        for ours, milliseconds in (("value", median.value), ("low", median.high), ("high", median.low))
    }
    return median.model_copy(update={"metric": "throughput.per_s", "unit": "1/s", **per_second})


def _tell_slowed(slowed: NDArray[np.int64]) -> str:
    causes = {"its CPU quota was spent": "quota", "the CPU was too hot": "heat"}
    counts = {why: np.count_nonzero(slowed[:, Slowdowns._fields.index(field)]) for why, field in causes.items()}
    return ", ".join(f"{why} in {count} of {len(slowed)} turns" for why, count in counts.items() if count)
