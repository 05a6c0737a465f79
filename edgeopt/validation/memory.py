"""What a session costs in memory, from what the fresh processes of a latency measurement told of themselves."""

from __future__ import annotations

import statistics

from edgeopt.validation import Measurement
from edgeopt.validation.latency_samples import LatencySamples


def measure_memory(
    samples: LatencySamples, side: str, *, raw: str | None = None, simulated: bool = False
) -> Measurement:
    """Peak resident memory of one side beyond its process before it was opened, in MB of 10^6 bytes.

    The runtime's library counts, since a device pays for it; the inputs do not. The value is the median over fresh
    processes, `low` and `high` are the least and the most that was seen.
    """
    peaks_mb = [figures.peak_bytes / 1e6 for figures in samples.figures_of(side) if figures.peak_bytes > 0]
    return Measurement(
        metric="memory.peak_mb",
        unit="MB",
        value=statistics.median(peaks_mb) if peaks_mb else None,
        low=min(peaks_mb, default=None),
        high=max(peaks_mb, default=None),
        samples=len(peaks_mb),
        subject=samples.digest_of(side),
        raw=raw,
        environment=samples.environment,
        simulated=simulated,
        note="" if peaks_mb else "this system does not tell the peak of resident memory",
    )
