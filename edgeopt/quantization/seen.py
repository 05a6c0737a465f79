"""What was seen of one tensor over the calibration samples: numbers that do not grow with the samples.

`calibration` gathers them while the float network runs; a calibrator makes a range of them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeopt.quantization.arithmetic import Range


@dataclass(frozen=True)
class Seen:
    """What was seen of one tensor.

    Attributes:
        low, high: the smallest and largest value.
        mean_low, mean_high: of each sample, averaged over the samples.
        halves: low and high of every second sample, and of those between.
        counts: (bins,) values in each of the bins of one width that reach from `low` to `high`; None where no histogram
            was asked for.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    halves: tuple[Range, Range]
    counts: NDArray[np.int64] | None = None

    @property
    def range(self) -> Range:
        return Range(self.low, self.high)

    def centres(self) -> NDArray[np.float64]:
        """(bins,) the middle of each bin."""
        assert self.counts is not None
        bins = len(self.counts)
        middles = self.low + (np.arange(bins) + 0.5) * ((self.high - self.low) / bins)
        return np.asarray(middles, np.float64)


class Extremes:
    """Gathers, batch by batch, the smallest and largest values."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._samples = names, 0
        self._low, self._high = np.full((2, len(names)), np.inf), np.full((2, len(names)), -np.inf)
        self._means = np.zeros((2, len(names)))

    def add(self, reduced: NDArray[np.float64]) -> None:
        """Add (2 or more, tensors, samples) numbers, of which the first two are minima and maxima."""
        for at in range(reduced.shape[-1]):
            half = self._samples % 2
            self._low[half] = np.minimum(self._low[half], reduced[0, :, at])
            self._high[half] = np.maximum(self._high[half], reduced[1, :, at])
            self._samples += 1
            self._means += (reduced[:2, :, at] - self._means) / self._samples

    @property
    def samples(self) -> int:
        """How many were added."""
        return self._samples

    def result(self) -> dict[str, Seen]:
        """What was seen of each tensor; there must have been a sample."""
        if self._samples == 1:
            self._low[1], self._high[1] = self._low[0], self._high[0]
        found = {}
        for at, name in enumerate(self._names):
            halves = (Range(self._low[0, at], self._high[0, at]), Range(self._low[1, at], self._high[1, at]))
            whole = halves[0].union(halves[1])
            found[name] = Seen(
                float(whole.low), float(whole.high), float(self._means[0, at]), float(self._means[1, at]), halves
            )
        return found


def pack_seen(seen: dict[str, Seen]) -> bytes:
    """The bytes that `unpack_seen` reads."""
    stream = io.BytesIO()
    rows = [
        (one.low, one.high, one.mean_low, one.mean_high, *(end for half in one.halves for end in (half.low, half.high)))
        for one in seen.values()
    ]
    counts = [one.counts for one in seen.values() if one.counts is not None]
    np.savez(stream, figures=np.asarray(rows, np.float64), counts=np.asarray(counts, np.int64))
    return stream.getvalue()


def unpack_seen(data: bytes, names: Sequence[str]) -> dict[str, Seen]:
    """What was seen of the tensors of these names, in the order in which they were packed."""
    with np.load(io.BytesIO(data), allow_pickle=False) as kept:
        figures, counts = kept["figures"], kept["counts"]
    found = {}
    for at, (name, row) in enumerate(zip(names, figures.tolist(), strict=True)):
        halves = (Range(row[4], row[5]), Range(row[6], row[7]))
        low, high, mean_low, mean_high = row[:4]
        found[name] = Seen(low, high, mean_low, mean_high, halves, counts[at] if len(counts) else None)
    return found
