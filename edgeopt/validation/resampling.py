"""The paired bootstrap: bounds of any figure of two sides on the same images, where it is no share of them.

The images are drawn with a seed, so the same arguments give the same bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgeopt.validation.statistics import Bounds, normal_quantile

#: images are left out by so many groups at most, to see how skewed the figure is
MOST_GROUPS = 500


def bootstrap_bounds(
    difference: Callable[[NDArray[np.float64]], float],
    images: int,
    confidence: float,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Bounds:
    """One-sided bounds, each at `confidence`, of a figure of two sides on the same images: the paired bootstrap.

    `difference` takes how often each image counts (images,), whole numbers, and gives the figure for both sides counted
    alike. The bounds are percentiles of what it gives for images drawn anew, corrected for bias and skewness, since a
    drop is mostly made by few images. (BCa: Efron, J. Am. Stat. Assoc. 82, 1987.) They are infinite where a figure is
    not finite and where the resamples are too few. Images that are not there cannot be drawn: with fewer than about 10
    that tell the two sides apart the bounds are too narrow, and with none they are that one figure.
    """
    if images < 2:
        return -math.inf, math.inf
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(resamples))
    figures = np.sort([difference(drawn.astype(np.float64)) for drawn in draws])
    group_of = rng.permutation(images) % MOST_GROUPS
    left_out = np.array([difference((group_of != at).astype(np.float64)) for at in range(min(images, MOST_GROUPS))])
    seen = difference(np.ones(images))
    below = float(np.mean(figures < seen) + np.mean(figures <= seen)) / 2
    if not (np.all(np.isfinite([seen, *figures, *left_out])) and 0.0 < below < 1.0):
        return -math.inf, math.inf
    bias, acceleration = normal_quantile(below), _skewness(left_out.mean() - left_out) / 6
    z = normal_quantile(confidence)
    return -_corrected_upper(-figures[::-1], -bias, -acceleration, z), _corrected_upper(figures, bias, acceleration, z)


def _skewness(influences: NDArray[np.float64]) -> float:
    """Of a sum of independent parts (groups,), each known by its one influence on it; 0 where none has any."""
    largest = float(np.max(np.abs(influences)))
    parts = influences / largest if largest else influences
    return float(np.sum(parts**3) / max(1.0, np.sum(parts**2)) ** 1.5)


def _corrected_upper(ordered: NDArray[np.float64], bias: float, acceleration: float, z: float) -> float:
    stretch = 1.0 - acceleration * (bias + z)
    if stretch <= 0.0:
        return math.inf
    rank = math.ceil(NormalDist().cdf(bias + (bias + z) / stretch) * (len(ordered) + 1))
    return float(ordered[max(rank, 1) - 1]) if rank <= len(ordered) else math.inf
