"""All that was seen: nothing is cut off, and one outlier makes every step coarser."""

from __future__ import annotations

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibrators import Calibrator
from edgeopt.quantization.seen import Seen


class Minmax(Calibrator):
    """From the smallest to the largest value."""

    def find_range(self, seen: Seen, profile: QuantizationProfile) -> Range:
        return seen.range
