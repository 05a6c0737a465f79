"""The learning rate that suits a network and its samples, found by raising it until the loss no longer falls.

Smith, "Cyclical Learning Rates for Training Neural Networks", 2017: a few steps with a rate that grows evenly in its
logarithm. As long as it is too small the loss stays; then it falls, ever faster; where the rate is too large it rises.
"""

from __future__ import annotations

import math
from collections.abc import Callable

#: the rates that are tried, and in how many steps
LOWEST, HIGHEST, STEPS = 1e-5, 1.0, 100

#: how much of the loss's moving average stays at each step
KEPT = 0.9

#: the test ends where the loss is so many times the least
SPOILED = 4.0

#: the peak is so far below the rate at which the loss was least: there it is about to rise
MARGIN = 6.0


def find_learning_rate(learn: Callable[[int, float], float]) -> float:
    """The peak to train with, two digits of it.

    Args:
        learn: takes the number of a step and a rate, learns, and gives the loss before.
    """
    average, least, found = 0.0, math.inf, LOWEST
    for step in range(STEPS):
        rate = rate_of(step)
        loss = learn(step, rate)
        average = KEPT * average + (1 - KEPT) * loss
        smooth = average / (1 - KEPT ** (step + 1))
        if not math.isfinite(loss) or smooth > SPOILED * least:
            break
        if smooth < least:
            least, found = smooth, rate
    return float(f"{max(found / MARGIN, LOWEST):.2g}")


def rate_of(step: int) -> float:
    """The rate of a step of the test."""
    return LOWEST * math.pow(HIGHEST / LOWEST, step / (STEPS - 1))
