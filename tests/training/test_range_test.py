"""The range test goes by where the loss turns, and stops where it has gone wrong."""

from __future__ import annotations

import itertools
import math

import pytest

from edgeopt.training.range_test import HIGHEST, LOWEST, MARGIN, STEPS, find_learning_rate, rate_of


def test_the_rates_go_evenly_from_the_lowest_to_the_highest() -> None:
    rates = [rate_of(step) for step in range(STEPS)]
    assert rates[0] == pytest.approx(LOWEST)
    assert rates[-1] == pytest.approx(HIGHEST)
    assert all(later / earlier == pytest.approx(rates[1] / rates[0]) for earlier, later in itertools.pairwise(rates))


@pytest.mark.parametrize("turn", [1e-3, 1e-2, 0.1])
def test_the_peak_stands_a_margin_below_where_the_loss_turns(turn: float) -> None:
    found = find_learning_rate(lambda _, rate: 1 + math.log10(rate / turn) ** 2)
    assert turn / MARGIN / 2 < found < turn / MARGIN * 4  # a moving average is late


@pytest.mark.parametrize("spoiled", [math.nan, math.inf, 1e9])
def test_it_stops_where_training_breaks_down(spoiled: float) -> None:
    tried: list[float] = []

    def learn(_: int, rate: float) -> float:
        tried.append(rate)
        return spoiled if rate > 1e-2 else 1 - rate

    assert LOWEST < find_learning_rate(learn) <= 1e-2 / MARGIN
    assert max(tried) < 2e-2


def test_a_loss_that_never_falls_gives_the_lowest_rate() -> None:
    assert find_learning_rate(lambda step, _: 1.0 + step) == LOWEST
