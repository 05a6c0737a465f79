"""The extremes of a usual sample: one sample with an outlier moves the range by its share in the samples.

Each sample counts the same. A window over the last ones, as used in training, would hold the last class alone of a
folder that is sorted by class.
"""

from __future__ import annotations

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibrators import Calibrator
from edgeopt.quantization.seen import Seen


class MovingAverage(Calibrator):
    """From the smallest to the largest value of a sample, averaged over the samples."""

    def find_range(self, seen: Seen, profile: QuantizationProfile) -> Range:
        return Range(seen.mean_low, seen.mean_high)
