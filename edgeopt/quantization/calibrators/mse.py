"""The range that loses least: coarser steps for all against cutting off a few, weighed by their squares."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.calibrators import Calibrator, quantizer_of
from edgeopt.quantization.seen import Seen

LEAST_SHARE = 0.05


class Mse(Calibrator):
    """The range that makes the squared error of the values smallest."""

    needs_histogram: ClassVar[bool] = True

    steps: int = Field(default=60, ge=2, le=1000, description="shares of the range that are tried, of each end too")

    def find_range(self, seen: Seen, profile: QuantizationProfile) -> Range:
        """Both ends together first, then one after the other: an outlier is most often at one."""
        found, shares = seen.range, np.linspace(1.0, LEAST_SHARE, self.steps)
        best = min(
            (Range(found.low * one, found.high * one) for one in shares), key=lambda one: _error(one, seen, profile)
        )
        if not profile.activation_symmetric and best.low < 0.0 < best.high:
            lows = (Range(found.low * one, best.high) for one in shares)
            best = min((best, *lows), key=lambda one: _error(one, seen, profile))
            highs = (Range(best.low, found.high * one) for one in shares)
            best = min((best, *highs), key=lambda one: _error(one, seen, profile))
        return best


def _error(values: Range, seen: Seen, profile: QuantizationProfile) -> float:
    """The squared error of all values that were counted, were they quantized for that range."""
    assert seen.counts is not None
    centres, quantizer = seen.centres(), quantizer_of(values, profile)
    lost = quantizer.dequantize(quantizer.quantize(centres)) - centres
    return float(seen.counts @ np.square(lost))
