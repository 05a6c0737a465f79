from __future__ import annotations

import numpy as np
import pytest

from edgeopt.validation.latency_samples import LatencySamples
from edgeopt.validation.memory import measure_memory
from tests.validation.fabricated import samples_of


def opened(peaks_mb: list[float]) -> LatencySamples:
    sets = len(peaks_mb)
    figures = np.array([[[1, 1, int(peak * 1e6)] for peak in peaks_mb], [[1, 1, 0]] * sets])
    throttled = np.ones((sets, 8, 2), np.int64)
    times = np.ones((2, sets, 8, 5), np.int64)
    return samples_of(times, ("ours", "untold"), figures=figures, slowed=throttled, environment="machine")


def test_the_peak_is_the_median_over_fresh_processes_between_the_least_and_the_most() -> None:
    found = measure_memory(opened([40.0, 44.0, 41.0]), "ours", raw="samples/x86.npz")
    assert (found.low, found.value, found.high) == pytest.approx((40.0, 41.0, 44.0))
    assert (found.metric, found.unit, found.samples) == ("memory.peak_mb", "MB", 3)
    assert (found.subject, found.raw, found.environment) == ("digest of ours", "samples/x86.npz", "machine")


def test_a_system_that_does_not_tell_leaves_memory_unmeasured() -> None:
    found = measure_memory(opened([40.0]), "untold")
    assert found.value is None
    assert found.high is None
    assert "does not tell" in found.note


def test_a_simulated_peak_is_marked() -> None:
    assert measure_memory(opened([1.0]), "ours", simulated=True).simulated
