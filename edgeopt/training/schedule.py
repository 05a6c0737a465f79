"""How to train, and what follows from it by arithmetic: the learning rate and the momentum of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["cosine", "one_cycle"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]

#: of AdamW's first moment where the schedule leaves it alone, and the ends between which one cycle moves it
MOMENTUM, HIGHEST_MOMENTUM, LOWEST_MOMENTUM = 0.9, 0.95, 0.85

#: the peak of one cycle is so many times its beginning, and that so many times its end
RISE, FALL = 25.0, 1e4


@dataclass(frozen=True)
class Schedule:
    """How to train.

    Attributes:
        learning_rate: the peak; None: what a range test finds.
        shift, flip, mixup: the augmentation: pixels, whether, and the alpha of `mixing`.
        schedule, warm_up: how the learning rate goes, and the share of the steps in which it rises.
        ema: the decay of the average of the weights; 0: the last weights count.
        clip: the norm that gradients are cut to.
        stop_after: epochs without a better one on the tuning split.
    """

    epochs: int
    batch: int
    learning_rate: float | None
    weight_decay: float = 0.0
    shift: int = 0
    flip: bool = False
    seed: int = 0
    schedule: Shape = "cosine"
    warm_up: float = 0.1
    mixup: float = 0.0
    ema: float = 0.0
    clip: float | None = None
    stop_after: int | None = None
    precision: Precision = "fp32"
    device: Device = "cpu"


def learning_rate_at(step: int, steps: int, peak: float, shape: Shape = "cosine", warm_up: float = 0.1) -> float:
    """The learning rate of one of `steps` steps, counted from 0.

    `cosine`: up in a line to the peak, then down half a cosine towards 0. `one_cycle`: up half a cosine from a 25th of
    the peak, and down another one to far below where it began, after Smith and Topin, "Super-Convergence: Very Fast
    Training of Neural Networks Using Large Learning Rates", 2018.
    """
    rising = _rising(steps, warm_up)
    if shape == "cosine" and step < rising:
        return peak * (step + 1) / rising
    if shape == "cosine":
        return peak * (1 + math.cos(math.pi * (step - rising + 1) / (steps - rising + 1))) / 2
    start = peak / RISE
    if step < rising:
        return _swing(start, peak, (step + 1) / rising)
    return _swing(peak, start / FALL, (step - rising + 1) / max(1, steps - rising))


def momentum_at(step: int, steps: int, shape: Shape = "cosine", warm_up: float = 0.1) -> float:
    """The decay of the first moment at a step: steady, or in one cycle low where the learning rate is high."""
    if shape == "cosine":
        return MOMENTUM
    rising = _rising(steps, warm_up)
    if step < rising:
        return _swing(HIGHEST_MOMENTUM, LOWEST_MOMENTUM, (step + 1) / rising)
    return _swing(LOWEST_MOMENTUM, HIGHEST_MOMENTUM, (step - rising + 1) / max(1, steps - rising))


def _rising(steps: int, warm_up: float) -> int:
    return max(1, round(warm_up * steps))


def _swing(begin: float, end: float, done: float) -> float:
    """Half a cosine from one value to another."""
    return end + (begin - end) * (1 + math.cos(math.pi * done)) / 2
