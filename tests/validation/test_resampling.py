from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from edgeopt.validation import statistics
from edgeopt.validation.resampling import MOST_GROUPS, bootstrap_bounds

Difference = Callable[[NDArray[np.float64]], float]


def mean_of(values: NDArray[np.float64]) -> Difference:
    return lambda weights: float(values @ weights / weights.sum())


def share_lost(images: int, lost: int) -> Difference:
    return mean_of((np.arange(images) < lost).astype(np.float64))


def test_the_bounds_of_a_mean_are_those_of_theory() -> None:
    values = np.random.default_rng(0).normal(0.3, 2.0, 1500)
    reach = stats.norm.ppf(0.95) * values.std() / math.sqrt(len(values))
    low, high = bootstrap_bounds(mean_of(values), len(values), 0.95, resamples=4000)
    assert low == pytest.approx(values.mean() - reach, abs=0.06 * reach)
    assert high == pytest.approx(values.mean() + reach, abs=0.06 * reach)


def variance_of(values: NDArray[np.float64]) -> Difference:
    return lambda weights: float((values - mean_of(values)(weights)) ** 2 @ weights / weights.sum())


@pytest.mark.parametrize(
    ("values", "difference", "statistic"),
    [
        (np.random.default_rng(1).lognormal(0.0, 1.2, 120), mean_of, np.mean),
        (np.random.default_rng(3).normal(size=60), variance_of, np.var),
    ],
    ids=["skewed", "biased"],
)
def test_the_bounds_are_those_of_scipy(
    values: NDArray[np.float64],
    difference: Callable[[NDArray[np.float64]], Difference],
    statistic: Callable[..., np.float64],
) -> None:
    drawn = stats.bootstrap(
        (values,), statistic, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap_bounds(difference(values), len(values), 0.95, resamples=20_000)
    assert found == pytest.approx((drawn.low, drawn.high), rel=0.015)


def test_a_drop_that_few_images_make_gets_more_room_than_percentiles_give() -> None:
    # 10 of 500 lost: drawn anew they are 15 at the 95th percentile, but 17 is the exact bound.
    high = bootstrap_bounds(share_lost(500, 10), 500, 0.95, resamples=4000)[1]
    assert stats.binom.ppf(0.95, 500, 10 / 500) == 15
    assert high > 15 / 500
    assert high == pytest.approx(statistics.exact_bounds(10, 500, 0.95)[1], abs=1 / 500)


def test_leaving_out_groups_shows_the_skewness_that_leaving_out_images_does() -> None:
    # 30 of 3,000 images carry the figure, and they come first: groups of 6 neighbours would give 48 / 3,000, not 45.
    images = 6 * MOST_GROUPS
    high = bootstrap_bounds(share_lost(images, 30), images, 0.99, resamples=4000)[1]
    assert high == pytest.approx(statistics.exact_bounds(30, images, 0.99)[1], abs=1.1 / images)


def test_on_a_paired_share_the_bounds_are_near_those_of_tango() -> None:
    drop = np.repeat([1.0, -1.0, 0.0], [60, 35, 1905])
    low, high = bootstrap_bounds(mean_of(drop), 2000, 0.95, resamples=4000)
    assert (low, high) == pytest.approx(statistics.tango_bounds(60, 35, 2000, 0.95), abs=0.001)


def test_every_draw_is_of_as_many_images_as_there_are_and_of_whole_ones() -> None:
    seen: list[NDArray[np.float64]] = []

    def difference(weights: NDArray[np.float64]) -> float:
        seen.append(weights)
        return float(weights[0])

    bootstrap_bounds(difference, 40, 0.9, resamples=50)
    assert {weights.shape for weights in seen} == {(40,)}
    assert all(np.array_equal(weights, np.round(weights)) and weights.min() >= 0 for weights in seen)
    assert [weights.sum() for weights in seen[:50]] == [40] * 50
    assert len({weights.tobytes() for weights in seen[:50]}) == 50


def test_the_same_seed_gives_the_same_bounds_and_another_one_others() -> None:
    figure = mean_of(np.random.default_rng(0).normal(size=60))
    first, again, other = (bootstrap_bounds(figure, 60, 0.95, resamples=200, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


@settings(max_examples=25)
@given(st.lists(st.integers(-3, 3), min_size=2, max_size=30), st.floats(0.6, 0.9))
def test_the_bounds_of_a_figure_turned_over_are_its_bounds_turned_over(values: list[int], confidence: float) -> None:
    figure = mean_of(np.array(values, dtype=np.float64))
    low, high = bootstrap_bounds(figure, len(values), confidence, resamples=60)
    turned = bootstrap_bounds(lambda weights: -figure(weights), len(values), confidence, resamples=60)
    assert turned == pytest.approx((-high, -low), abs=1e-12)
    assert low <= high


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=30), st.floats(0.6, 0.9), st.floats(0.6, 0.9))
def test_more_confidence_never_narrows_the_bounds(values: list[float], one: float, other: float) -> None:
    figure = mean_of(np.array(values))
    wide = bootstrap_bounds(figure, len(values), max(one, other), resamples=100)
    narrow = bootstrap_bounds(figure, len(values), min(one, other), resamples=100)
    assert wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_single_figure_that_is_not_finite_leaves_nothing_known(broken: float) -> None:
    def difference(weights: NDArray[np.float64]) -> float:
        return broken if weights[3] == 4 else float(weights[0])

    assert bootstrap_bounds(difference, 50, 0.9, resamples=1000) == (-math.inf, math.inf)
    assert np.all(np.isfinite(bootstrap_bounds(lambda weights: float(weights[0]), 50, 0.9, resamples=1000)))


@pytest.mark.parametrize("images", [0, 1])
def test_nothing_is_known_from_a_single_image(images: int) -> None:
    assert bootstrap_bounds(lambda weights: 0.0, images, 0.95) == (-math.inf, math.inf)


def test_too_few_resamples_for_the_confidence_bound_nothing() -> None:
    figure = mean_of(np.random.default_rng(0).normal(size=60))
    assert bootstrap_bounds(figure, 60, 0.99, resamples=20) == (-math.inf, math.inf)


def test_sides_that_no_image_tells_apart_have_a_drop_of_plain_zero() -> None:
    bounds = bootstrap_bounds(lambda weights: 0.0, 500, 0.95, resamples=100)
    assert [str(bound) for bound in bounds] == ["0.0", "0.0"]
