"""Whether what a device sees is still of the kind that its release was calibrated on. It alerts, and does no more.

Each signal of the fingerprint is counted into the bins of its reference; once a window is full, the population
stability index of the two counts is held against a threshold, and the next window begins. Without drift the index of N
samples against M is close to (1/N + 1/M) times a χ² variable with one degree of freedom less than there are bins, so
the threshold grows as either is smaller, where a fixed one would raise false alarms. (Yurdakul and Naranjo, Journal of
Risk Model Validation 14, 2020.)

False alarms: `LEVEL` is the probability that a window alerts without drift, shared equally among the signals. All
windows are held against one reference, so they resemble one another, but in the mean about one in 10,000 of them
alerts: one in 58 days for a device that fills a window in 500 seconds. `benchmarks/drift.py` shows the rates that come
of it, and how soon a shift is seen.

All of it takes samples for independent, and pictures of one camera that follow one another closely are not: whoever
counts leaves some time between them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeopt.bundle.fingerprint import Reference

WINDOW = 500

LEVEL = 1e-4


class Score(NamedTuple):
    """The index of one signal in the last full window, and what it may be at most."""

    value: float
    threshold: float

    @property
    def alerts(self) -> bool:
        return self.value > self.threshold


class Drift:
    """Counts samples, and compares window by window. Whoever calls it holds a lock."""

    def __init__(self, fingerprint: Mapping[str, Reference], window: int = WINDOW, level: float = LEVEL) -> None:
        self._references, self._window = dict(fingerprint), window
        self._thresholds = {
            name: threshold(window, one.samples, len(one.counts), level / len(fingerprint))
            for name, one in self._references.items()
        }
        #: by signal, of the last full window
        self.scores: dict[str, Score] = {}
        #: by signal, how many windows have alerted
        self.alerts = dict.fromkeys(self._references, 0)
        self.windows = 0
        self._begin()

    def see(self, values: Mapping[str, float]) -> None:
        """Count one sample by its signals; one that lacks a signal, or has one that is no number, says nothing here."""
        if not self._references or not all(math.isfinite(values.get(name, math.nan)) for name in self._references):
            return
        for name, reference in self._references.items():
            self._counts[name][bisect_right(reference.edges, values[name])] += 1
        self._seen += 1
        if self._seen == self._window:
            self._judge()
            self._begin()

    def _begin(self) -> None:
        self._seen = 0
        self._counts = {name: [0] * len(one.counts) for name, one in self._references.items()}

    def _judge(self) -> None:
        self.windows += 1
        for name, reference in self._references.items():
            index = float(stability_index(np.array(self._counts[name]), np.array(reference.counts)))
            self.scores[name] = Score(index, self._thresholds[name])
            self.alerts[name] += self.scores[name].alerts


def stability_index(counts: NDArray[np.int64], reference: NDArray[np.int64]) -> NDArray[np.float64]:
    """The population stability index of (…, bins) counts against (…, bins) others: 0 where the shares are the same.

    Half a sample is added to each bin, so that an empty one has a logarithm.
    """
    bins = counts.shape[-1]
    shares = (counts + 0.5) / (counts.sum(-1, keepdims=True) + bins / 2)
    usual = (reference + 0.5) / (reference.sum(-1, keepdims=True) + bins / 2)
    index: NDArray[np.float64] = ((shares - usual) * np.log(shares / usual)).sum(-1)
    return index


def threshold(samples: int, usual: int, bins: int, level: float) -> float:
    """What the index of `samples` against `usual` others exceeds without drift with probability `level`."""
    return (1 / samples + 1 / usual) * chi_square_point(bins - 1, level)


def chi_square_point(freedom: int, level: float) -> float:
    """The point that a χ² variable exceeds with probability `level`."""
    low, high = 0.0, 1.0
    while chi_square_tail(freedom, high) > level:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(freedom, middle) > level else (low, middle)
    return high


def chi_square_tail(freedom: int, point: float) -> float:
    """The probability that a χ² variable exceeds `point`.

    By the recurrence from f to f + 2 degrees of freedom, which adds (x/2)^(f/2) e^(-x/2) / Γ(f/2 + 1); it begins at
    erfc √(x/2) for one, and at 0 for none. (Abramowitz and Stegun, 26.4.8.)
    """
    if point <= 0.0:
        return 1.0
    half = point / 2
    tail = math.erfc(math.sqrt(half)) if freedom % 2 else 0.0
    for done in range(freedom % 2, freedom, 2):
        tail += math.exp(done / 2 * math.log(half) - half - math.lgamma(done / 2 + 1))
    return tail
