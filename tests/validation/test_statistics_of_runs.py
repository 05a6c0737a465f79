"""Statistics of runs that follow one another: early stopping, and what correlated runs are worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special

from edgeopt.validation import statistics as ours

quantiles = st.floats(0.5, 0.995)
series = st.lists(st.floats(-1e6, 1e6), max_size=60)


@pytest.mark.parametrize(
    ("quantile", "totals"),
    [
        (0.5, {0: 7, 1: 11, 2: 14, 5: 22, 10: 35}),
        (0.9, {0: 44, 1: 64, 2: 81, 3: 97, 4: 113, 5: 127, 10: 197}),
        (0.95, {0: 90, 1: 130, 2: 165, 5: 259, 10: 398}),
        (0.99, {0: 459, 1: 662, 2: 838, 3: 1001, 4: 1157, 5: 1307, 10: 2010}),
        (0.999, {0: 4603, 1: 6636, 2: 8403, 5: 13105, 10: 20140}),
    ],
)
def test_early_stopping_takes_as_many_runs_as_loadgen(quantile: float, totals: dict[int, int]) -> None:
    assert {over: ours.early_stopping_total(over, quantile) for over in totals} == totals


@settings(max_examples=50)
@given(st.integers(0, 30), quantiles, st.floats(0.6, 0.999), st.floats(0.0, 0.004))
def test_early_stopping_solves_loadgens_inequality(
    over: int, quantile: float, confidence: float, tolerance: float
) -> None:
    under = ours.early_stopping_under(over, quantile, confidence, tolerance)
    odds = [special.betainc(h, over + 1, quantile - tolerance) if h else 1.0 for h in (under, under - 1)]
    assert odds[0] <= (1 - confidence) * (1 + 1e-9)
    assert odds[1] > (1 - confidence) * (1 - 1e-9)


@settings(max_examples=50)
@given(st.integers(0, 30), quantiles)
def test_a_run_beyond_the_limit_is_made_up_for_by_several_within(over: int, quantile: float) -> None:
    total = ours.early_stopping_total(over, quantile)
    assert ours.early_stopping_total(over + 1, quantile) > total
    assert ours.early_stopping_total(over, quantile, tolerance=0.1) <= total
    assert ours.early_stopping_total(over, quantile, confidence=0.9) <= total


@pytest.mark.parametrize(
    ("quantile", "confidence", "tolerance"),
    [(1.0, 0.99, 0.0), (0.0, 0.99, 0.0), (0.9, 0.99, 0.9), (0.9, 1.0, 0.0), (0.9, math.nan, 0.0), (math.nan, 0.9, 0.0)],
)
def test_what_no_number_of_runs_would_show_is_refused(quantile: float, confidence: float, tolerance: float) -> None:
    with pytest.raises(ValueError, match="no number of runs"):
        ours.early_stopping_under(1, quantile, confidence, tolerance)


@pytest.mark.parametrize(
    ("quantile", "ranks"),
    [
        (0.5, {100: 64, 200: 118, 500: 278, 1000: 539, 5000: 2584}),
        (0.9, {63: None, 64: 64, 100: 98, 200: 191, 500: 467, 1000: 923, 5000: 4551}),
        (0.99, {500: None, 661: None, 662: 662, 838: 837, 1000: 999, 5000: 4968}),
    ],
)
def test_the_estimate_of_early_stopping_is_the_run_that_loadgen_reports(
    quantile: float, ranks: dict[int, int | None]
) -> None:
    rng = np.random.default_rng(0)
    found = {runs: ours.early_stopping_estimate(rng.permutation(runs) + 1.0, quantile) for runs in ranks}
    assert found == ranks


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1e3), min_size=64, max_size=200), quantiles)
def test_the_estimate_of_early_stopping_is_never_below_the_upper_bound(values: list[float], quantile: float) -> None:
    estimate = ours.early_stopping_estimate(values, quantile)
    assume(estimate is not None)
    bound = ours.percentile_upper_bound(values, quantile, 0.01)
    assert bound is not None
    assert bound <= estimate


def test_a_time_that_is_not_a_number_counts_as_the_slowest() -> None:
    times = np.arange(100.0)
    times[[0, 1]] = math.nan
    assert ours.early_stopping_estimate(times, 0.9) == 99.0
    times[2] = math.nan
    assert math.isnan(ours.early_stopping_estimate(times, 0.9) or 0.0)


@pytest.mark.parametrize(
    ("values", "correlation"),
    [
        (range(1, 11), 0.7),
        ([1, -1] * 5, -0.9),
        ([0, 0, 0, 1], -1 / 12),
        ([0.1] * 9, 0.0),
        ([3.0, 4.0], 0.0),
        ([5.0], 0.0),
        ([], 0.0),
    ],
)
def test_the_correlation_of_neighbours_is_that_by_hand(values: list[float], correlation: float) -> None:
    assert ours.lag_one_correlation(values) == pytest.approx(correlation, abs=1e-12)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_the_correlation_of_what_is_not_a_number_is_none(broken: float) -> None:
    values = [1.0, 2.0, broken, 3.0]
    assert math.isnan(ours.lag_one_correlation(values))
    assert ours.effective_size(values) == 1.0


def test_what_correlated_values_are_worth_is_that_by_hand() -> None:
    assert ours.effective_size(range(1, 11)) == pytest.approx(10 * 0.3 / 1.7)
    assert ours.effective_size([1, -1] * 5) == 10.0


@given(series)
def test_correlated_values_are_worth_one_at_least_and_all_of_them_at_most(values: list[float]) -> None:
    assert -1.0 <= ours.lag_one_correlation(values) <= 1.0
    assert min(1, len(values)) <= ours.effective_size(values) <= len(values)


@given(st.lists(st.integers(-1000, 1000), min_size=3, max_size=40), st.integers(1, 50), st.integers(-1000, 1000))
def test_units_and_direction_do_not_change_what_values_are_worth(values: list[int], scale: int, shift: int) -> None:
    size = ours.effective_size(values)
    assert ours.effective_size(np.array(values) * -scale + shift) == pytest.approx(size, rel=1e-9)
    assert ours.effective_size(values[::-1]) == pytest.approx(size, rel=1e-9)


def test_independent_values_are_worth_about_their_number() -> None:
    assert ours.effective_size(np.random.default_rng(0).normal(size=5000)) > 4700


def test_runs_of_processes_that_differ_are_worth_about_as_many_as_there_are_processes() -> None:
    rng = np.random.default_rng(0)
    by_set = rng.normal(size=(20, 1)) + rng.normal(scale=0.05, size=(20, 40))
    assert 5 < ours.effective_size(by_set) < 40
    assert ours.effective_size(by_set) == ours.effective_size(by_set.ravel())


def test_a_drift_is_worth_next_to_nothing() -> None:
    assert ours.effective_size(np.linspace(5.0, 6.0, 1000)) < 3
