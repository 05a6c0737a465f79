from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import optimize, stats

from edgeopt.validation import statistics as ours

shares = st.floats(0.001, 0.999)
confidences = st.floats(0.6, 0.999)


@given(st.integers(1, 400), shares, st.integers(-1, 401))
def test_the_binomial_cdf_is_that_of_scipy(trials: int, share: float, successes: int) -> None:
    expected = stats.binom.cdf(successes, trials, share)
    assert ours.binomial_cdf(successes, trials, share) == pytest.approx(
        expected, rel=1e-9, abs=1e-250
    )  # below, scipy is off


@pytest.mark.parametrize(("successes", "trials", "share"), [(39, 100_000, 0.01), (4_900, 10_000, 0.5), (0, 3_000, 0.9)])
def test_the_binomial_cdf_holds_far_in_the_tail(successes: int, trials: int, share: float) -> None:
    expected = stats.binom.logcdf(successes, trials, share)
    found = ours.binomial_cdf(successes, trials, share)
    assert (math.log(found) if found else -math.inf) == pytest.approx(expected, rel=1e-9) or expected < -745


@pytest.mark.parametrize(("share", "successes", "expected"), [(0.0, 0, 1.0), (1.0, 4, 0.0), (1.0, 5, 1.0)])
def test_the_binomial_cdf_knows_certain_events(share: float, successes: int, expected: float) -> None:
    assert ours.binomial_cdf(successes, 5, share) == expected


@pytest.mark.parametrize(
    ("units", "alpha", "ranks"),
    [
        (20, 0.05, (6, 15)),
        (6, 0.05, (1, 6)),
        (5, 0.05, None),
        (0, 0.05, None),
        (20, 0.05 / 3, (5, 16)),
        (40, 0.05 / 3, (13, 28)),
        (80, 0.05 / 3, (29, 52)),
        (10, 0.05 / 6, (1, 10)),
    ],
)
def test_the_median_lies_between_the_ranks_of_the_tables(
    units: int, alpha: float, ranks: tuple[int, int] | None
) -> None:
    assert ours.median_ranks(units, alpha) == ranks


@given(st.integers(1, 200), st.floats(1e-4, 0.5))
def test_the_ranks_of_the_median_are_the_tightest_that_hold(units: int, alpha: float) -> None:
    ranks = ours.median_ranks(units, alpha)
    low = ranks[0] if ranks else 0
    assert stats.binom.cdf(low - 1, units, 0.5) <= alpha / 2 * (1 + 1e-9)
    assert stats.binom.cdf(low, units, 0.5) > alpha / 2 * (1 - 1e-9)
    assert (ranks is None) == (units < ours.median_units_needed(alpha))


def test_the_interval_of_the_median_does_not_depend_on_the_order_of_values() -> None:
    values = np.random.default_rng(0).permutation(np.arange(20.0))
    assert ours.median_interval(values, 0.05) == (5.0, 14.0)


@pytest.mark.parametrize(
    ("count", "quantile", "alpha", "rank"),
    [(1000, 0.99, 0.05, 5), (1000, 0.99, 0.01, 3), (5000, 0.99, 0.05, 39), (5000, 0.99, 0.01, 34), (29, 0.9, 0.05, 1)],
)
def test_the_bound_of_a_percentile_is_the_value_of_the_tables(
    count: int, quantile: float, alpha: float, rank: int
) -> None:
    values = np.random.default_rng(1).permutation(count)
    assert ours.percentile_upper_bound(values, quantile, alpha) == count - rank
    assert ours.percentile_lower_bound(values, 1 - quantile, alpha) == rank - 1


@pytest.mark.parametrize(
    ("quantile", "alpha", "needed"),
    [(0.9, 0.05, 29), (0.9, 0.01, 44), (0.95, 0.05, 59), (0.95, 0.01, 90), (0.99, 0.05, 299), (0.99, 0.01, 459)],
)
def test_too_few_values_bound_no_percentile(quantile: float, alpha: float, needed: int) -> None:
    assert ours.percentile_values_needed(quantile, alpha) == needed
    assert ours.percentile_upper_bound(np.arange(needed - 1), quantile, alpha) is None
    assert ours.percentile_upper_bound(np.arange(needed), quantile, alpha) == needed - 1


@given(st.integers(1, 5000), st.data(), confidences)
def test_wilson_is_that_of_scipy(trials: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    assert ours.wilson_interval(successes, trials, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(1, 300), st.data(), confidences)
def test_exact_bounds_are_those_of_scipy(trials: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = ours.exact_bounds(successes, trials, confidence)
    test = stats.binomtest(successes, trials, alternative="greater")
    assert low == pytest.approx(test.proportion_ci(confidence).low, abs=1e-9)
    test = stats.binomtest(successes, trials, alternative="less")
    assert high == pytest.approx(test.proportion_ci(confidence).high, abs=1e-9)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_binomial_test(lost: int, gained: int) -> None:
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert ours.mcnemar_p_value(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_tango_gives_the_published_interval() -> None:
    # Airway hyper-responsiveness before and after transplantation: 21 children, 1 against 7 (Bentur et al., 2009); the
    # interval is that of Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014.
    assert ours.tango_bounds(1, 7, 21, 0.975) == pytest.approx((-0.517, -0.026), abs=5e-4)


@given(st.integers(10, 2000), st.data(), confidences)
def test_tango_bounds_solve_the_score_equation(pairs: int, data: st.DataObject, confidence: float) -> None:
    lost = data.draw(st.integers(0, pairs))
    gained = data.draw(st.integers(0, pairs - lost))
    low, high = ours.tango_bounds(lost, gained, pairs, confidence)
    assert -1.0 <= low <= (lost - gained) / pairs <= high <= 1.0
    assume(low > -0.99 and high < 0.99)
    z = stats.norm.ppf(confidence)
    assert _score(high, lost, gained, pairs) == pytest.approx(-z, abs=1e-3)
    assert _score(low, lost, gained, pairs) == pytest.approx(z, abs=1e-3)


def _score(drop: float, lost: int, gained: int, pairs: int) -> float:
    """The score statistic with the likelihood maximised numerically under the margin: an oracle without the formula."""

    def unlikely(q: float) -> float:
        rest = pairs - lost - gained
        terms = ((lost, q + drop), (gained, q), (rest, 1 - 2 * q - drop))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in terms if count)

    bounds = (max(0.0, -drop), (1 - drop) / 2)
    q = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    if lost == 0 and drop < 0:
        q = max(q, -drop)
    return float((lost - gained - pairs * drop) / math.sqrt(pairs * (2 * q + drop - drop * drop)))


def test_nothing_lost_and_nothing_gained_is_still_uncertain() -> None:
    z = stats.norm.ppf(0.95)
    low, high = ours.tango_bounds(0, 0, 720, 0.95)
    assert high == pytest.approx(z * z / (720 + z * z), rel=1e-6)
    assert low == -high


def test_impossible_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ours.tango_bounds(3, 3, 5, 0.95)


@pytest.mark.parametrize(
    ("discordance", "margin", "drop", "needed"),
    [
        (0.02, 0.01, 0.0, 1237),
        (0.03, 0.01, 0.0, 1855),
        (0.05, 0.01, 0.0, 3091),
        (0.03, 0.01, 0.002, 2898),
        (0.03, 0.02, 0.0, 464),
        (0.03, 0.01, 0.01, None),
        (0.03, 0.0, 0.0, None),
    ],
)
def test_the_images_needed_are_those_of_the_tables(
    discordance: float, margin: float, drop: float, needed: int | None
) -> None:
    found = ours.pairs_needed(discordance, margin, 0.95, drop=drop)
    assert found == needed or (found is not None and needed is not None and abs(found - needed) <= 1)


def test_tango_lets_a_drop_at_the_margin_pass_no_more_often_than_it_may() -> None:
    # Exact: every table of 60 pairs with a true drop of 5 points, by its probability.
    pairs, drop, passed = 60, 0.05, 0.0
    for lost in range(pairs + 1):
        for gained in range(pairs + 1 - lost):
            table = [lost, gained, pairs - lost - gained]
            probability = stats.multinomial.pmf(table, pairs, [0.10, 0.05, 0.85])
            if probability > 1e-9 and ours.tango_bounds(lost, gained, pairs, 0.95)[1] <= drop:
                passed += probability
    assert 0.02 < passed <= 0.06
