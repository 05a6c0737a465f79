"""The range whose quantized values are distributed most like the given ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibrators import BINS, Calibrator
from edgeopt.quantization.seen import Seen

Counts = NDArray[np.float64]


class Kl(Calibrator):
    """The threshold with the smallest relative entropy between the values and their quantized selves.

    Magnitudes are looked at where values have both signs. (Migacz, 8-bit Inference with TensorRT, GTC 2017; with
    enough bins that there are thresholds to choose from.)
    """

    needs_histogram: ClassVar[bool] = True

    stride: int = Field(default=16, ge=1, le=512, description="bins between the thresholds that are tried")

    def find_range(self, seen: Seen, profile: QuantizationProfile) -> Range:
        one_sided = seen.low >= 0.0 or seen.high <= 0.0
        counts, largest = _magnitudes(seen)
        levels = 256 if one_sided and not profile.activation_symmetric else 128
        if not largest or len(np.flatnonzero(counts)) < 2:
            return seen.range
        tried = [*range(levels, len(counts), self.stride), len(counts)]
        threshold = largest * min(tried, key=lambda kept: _divergence(counts, kept, levels)) / len(counts)
        return Range(max(seen.low, -threshold), min(seen.high, threshold))


def _magnitudes(seen: Seen) -> tuple[Counts, float]:
    """(bins,) how many values have which magnitude, and the largest one."""
    assert seen.counts is not None
    largest = max(abs(seen.low), abs(seen.high))
    if not largest:
        return np.zeros(BINS), 0.0
    bins = max(BINS, len(seen.counts))
    places = np.minimum((np.abs(seen.centres()) / largest * bins).astype(np.int64), bins - 1)
    counts: Counts = np.bincount(places, weights=seen.counts, minlength=bins).astype(np.float64)
    # Zeros are exact for every threshold, and behind a Relu so many that nothing else would count.
    counts[0] = counts[1]
    return counts, largest


def _divergence(counts: Counts, kept: int, levels: int) -> float:
    """The relative entropy of the first `kept` bins, with all beyond in the last of them, to themselves in `levels`."""
    reference = counts[:kept].copy()
    inside = reference.copy()
    reference[-1] += counts[kept:].sum()
    starts = np.linspace(0, kept, levels, endpoint=False).astype(np.int64)
    filled = (reference > 0).astype(np.float64)
    totals, places = np.add.reduceat(inside, starts), np.add.reduceat(filled, starts)
    sizes = np.diff([*starts, kept])
    spread = np.repeat(np.divide(totals, places, out=np.zeros_like(totals), where=places > 0), sizes) * filled
    if not spread.sum():
        return float("inf")
    p, q = reference / reference.sum(), spread / spread.sum()
    # What the quantized values cannot show at all counts as very rare, not as impossible.
    ratio = np.where(p > 0, p, 1.0) / np.maximum(q, 1e-10)
    return float(np.sum(np.where(p > 0, p * np.log(ratio), 0.0)))
