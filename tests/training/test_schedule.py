"""The learning rate rises to its peak and falls, whatever the number of steps; momentum goes against it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.passes.fine_tune import FineTune
from edgeopt.training.schedule import (
    HIGHEST_MOMENTUM,
    LOWEST_MOMENTUM,
    MOMENTUM,
    Schedule,
    Shape,
    learning_rate_at,
    momentum_at,
)

STEPS = st.integers(1, 300)
SHAPES = st.sampled_from(["cosine", "one_cycle"])
WARM_UPS = st.floats(0, 0.99)
PEAKS = st.floats(1e-6, 10)


@given(STEPS, PEAKS, SHAPES, WARM_UPS)
def test_rates_rise_to_the_peak_and_never_again(steps: int, peak: float, shape: Shape, warm_up: float) -> None:
    rates = [learning_rate_at(step, steps, peak, shape, warm_up) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[top] == pytest.approx(peak)
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert all(one < next for one, next in itertools.pairwise(rates[: top + 1]))
    assert all(one > next for one, next in itertools.pairwise(rates[top:]))


@given(STEPS, SHAPES, WARM_UPS)
def test_the_peak_stands_where_the_warm_up_ends(steps: int, shape: Shape, warm_up: float) -> None:
    rates = [learning_rate_at(step, steps, 1.0, shape, warm_up) for step in range(steps)]
    assert abs(rates.index(max(rates)) + 1 - max(1, warm_up * steps)) <= 1


@given(STEPS, WARM_UPS)
def test_in_one_cycle_momentum_is_lowest_where_the_rate_is_highest(steps: int, warm_up: float) -> None:
    rates = [learning_rate_at(step, steps, 1.0, "one_cycle", warm_up) for step in range(steps)]
    momenta = [momentum_at(step, steps, "one_cycle", warm_up) for step in range(steps)]
    assert momenta.index(min(momenta)) == rates.index(max(rates))
    assert min(momenta) == pytest.approx(LOWEST_MOMENTUM)
    assert all(LOWEST_MOMENTUM <= each <= HIGHEST_MOMENTUM for each in momenta)
    assert {momentum_at(step, steps, "cosine", warm_up) for step in range(steps)} == {MOMENTUM}


def test_one_cycle_begins_low_and_ends_far_below() -> None:
    rates = [learning_rate_at(step, 1000, 1.0, "one_cycle", 0.3) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 25, rel=0.01)
    assert rates[-1] == pytest.approx(4e-6)


def test_all_options_of_a_pass_reach_the_loop() -> None:
    options = {
        "epochs": 9, "learning_rate": None, "schedule": "one_cycle", "warm_up": 0.3, "batch": 8, "clip": 1.0,
        "shift": 1, "flip": True, "mixup": 0.2, "ema": 0.9, "stop_after": 2, "weight_decay": 0.5, "device": "cpu",
        "precision": "fp32",
    }  # fmt: skip
    assert FineTune(**options).make_schedule(7) == Schedule(**options, seed=7)  # type: ignore[arg-type]
