"""All but the rarest values, however far out those are."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibrators import Calibrator
from edgeopt.quantization.seen import Seen


class Percentile(Calibrator):
    """The range of `share` per cent of the values; as many are cut off at either end."""

    needs_histogram: ClassVar[bool] = True

    share: float = Field(default=99.99, gt=50, le=100, description="per cent of the values that are kept")

    def find_range(self, seen: Seen, profile: QuantizationProfile) -> Range:
        assert seen.counts is not None
        below = np.cumsum(seen.counts)
        cut = below[-1] * (1 - self.share / 100) / 2
        bins, width = len(below), (seen.high - seen.low) / len(below)
        first = int(np.searchsorted(below, cut, side="right"))
        last = min(bins - 1, int(np.searchsorted(below, below[-1] - cut, side="left")))
        # Zero has many values behind a Relu: that end is exact, and nothing is cut off there.
        low = seen.low if first == 0 else seen.low + first * width
        return Range(low, seen.high if last == bins - 1 else seen.low + (last + 1) * width)
