"""The statistics of the gates: exact or free of distributions where that can be had; no random numbers, no scipy.

Four questions are answered here. Is a median within a limit, and a percentile (order statistics: no distribution is
assumed)? Do several shares keep their floors together (exact bounds at Holm's levels)? Is a drop in accuracy, seen on
the same images, within a margin (Tango's score bound)? How many samples would it take to know, and how many are those
at hand worth? What cannot be known from so few samples is None, never a guess. Metrics that are no shares of images are
for `resampling`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bounds = tuple[float, float]


def normal_quantile(probability: float) -> float:
    """The point that a standard normal variable stays below with `probability`."""
    return NormalDist().inv_cdf(probability)


def binomial_log_pmf(trials: int, probability: float) -> NDArray[np.float64]:
    """ln P(X = i) for i = 0…trials; `probability` strictly between 0 and 1."""
    i = np.arange(1, trials + 1)
    log_choose = np.concatenate(([0.0], np.cumsum(np.log((trials - i + 1) / i))))
    successes = np.arange(trials + 1, dtype=np.float64)
    log_pmf: NDArray[np.float64] = log_choose + successes * math.log(probability)
    return log_pmf + (trials - successes) * math.log1p(-probability)


def binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """P(X ≤ successes) of a binomial variable; summed in log space, so that it does not underflow."""
    if successes < 0:
        return 0.0
    if successes >= trials or probability <= 0.0:
        return 1.0
    if probability >= 1.0:
        return 0.0
    return min(1.0, float(np.exp(np.logaddexp.reduce(binomial_log_pmf(trials, probability)[: successes + 1]))))


def count_below_tail(trials: int, probability: float, alpha: float) -> int:
    """The largest t with P(X ≤ t - 1) ≤ alpha; 0 where there is none."""
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability {probability} is not between 0 and 1")
    cumulative = np.logaddexp.accumulate(binomial_log_pmf(trials, probability))
    return int(np.searchsorted(cumulative, math.log(alpha), side="right"))


def median_ranks(units: int, alpha: float) -> tuple[int, int] | None:
    """The ranks, counted from 1, of the order statistics that enclose the median with confidence 1 - alpha or more.

    With the largest k for which BinomCDF(k - 1; units, ½) ≤ alpha/2 they are k and units + 1 - k. None: too few units.
    (David and Nagaraja, Order Statistics, 3rd edition, section 7.1.)
    """
    rank = count_below_tail(units, 0.5, alpha / 2) if units else 0
    return (rank, units + 1 - rank) if rank else None


def median_interval(values: ArrayLike, alpha: float) -> Bounds | None:
    """The two-sided interval of the median of independent `values` (K,) at confidence 1 - alpha; None: too few."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    ranks = median_ranks(len(ordered), alpha)
    return (float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])) if ranks else None


def median_units_needed(alpha: float) -> int:
    """The fewest independent values that give the median an interval at confidence 1 - alpha."""
    return math.ceil(math.log2(2.0 / alpha))


def percentile_upper_bound(values: ArrayLike, quantile: float, alpha: float) -> float | None:
    """A one-sided upper bound of a quantile at confidence 1 - alpha, whatever the distribution; None: too few values.

    Of n independent values the t-th largest is such a bound for the largest t with BinomCDF(t - 1; n, 1 - quantile)
    ≤ alpha.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    rank = count_below_tail(len(ordered), 1.0 - quantile, alpha)
    return float(ordered[-rank]) if rank else None


def percentile_lower_bound(values: ArrayLike, quantile: float, alpha: float) -> float | None:
    """A one-sided lower bound of a quantile: the mirror image of `percentile_upper_bound`."""
    mirrored = percentile_upper_bound(-np.asarray(values, dtype=np.float64), 1.0 - quantile, alpha)
    return None if mirrored is None else -mirrored


def percentile_values_needed(quantile: float, alpha: float) -> int:
    """The fewest values that give an upper bound of a quantile at confidence 1 - alpha."""
    return math.ceil(math.log(alpha) / math.log(quantile))


def early_stopping_under(over: int, quantile: float, confidence: float = 0.99, tolerance: float = 0.0) -> int:
    """The fewest runs within a limit that, beside `over` beyond it, show the quantile to be within it.

    The smallest h with BinomCDF(over; h + over, 1 - quantile + tolerance) ≤ 1 - confidence. (MLPerf Inference rules,
    appendix on early stopping; it asks for one order statistic more than `percentile_upper_bound`.)

    Raises:
        ValueError: no number of runs would do.
    """
    share = 1.0 - quantile + tolerance
    if not (0.0 < share < 1.0 and 0.0 < confidence < 1.0):
        raise ValueError(f"no number of runs shows quantile {quantile} less {tolerance} at confidence {confidence}")

    def enough(under: int) -> bool:
        return binomial_cdf(over, under + over, share) <= 1.0 - confidence

    most = 1
    while not enough(most):
        most *= 2
    return bisect_left(range(most), True, key=enough)


def early_stopping_total(over: int, quantile: float, confidence: float = 0.99, tolerance: float = 0.0) -> int:
    """The fewest runs of which `over` may be beyond a limit that the quantile is within: see `early_stopping_under`."""
    return over + early_stopping_under(over, quantile, confidence, tolerance)


def early_stopping_estimate(values: ArrayLike, quantile: float, confidence: float = 0.99) -> float | None:
    """The quantile as MLPerf's LoadGen reports it for runs that follow one another; None: too few `values` (n,).

    With the largest t for which `early_stopping_total(t)` ≤ n, the t - 1 highest are discarded and the next one given.
    What is not a number counts as the highest.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    over = count_below_tail(len(ordered), 1.0 - quantile, 1.0 - confidence) - 1
    return float(ordered[-over]) if over >= 1 else None


def lag_one_correlation(values: ArrayLike) -> float:
    """How much each of `values`, in the order in which they were taken, resembles the next: from -1 to 1.

    0 for values that are all the same and for fewer than 3, which show nothing; not a number where one of them is not.
    """
    series = np.asarray(values, dtype=np.float64).ravel()
    if not np.all(np.isfinite(series)):
        return math.nan
    if len(series) < 3 or (spread := float(np.ptp(series))) == 0.0:
        return 0.0
    deviations = (series - series.mean()) / spread
    return float(deviations[:-1] @ deviations[1:] / (deviations @ deviations))


def effective_size(values: ArrayLike) -> float:
    """How many independent values tell as much as `values`, taken one after another (2-D: row after row).

    n (1 - r) / (1 + r) with the lag-one correlation r, from 1 to n; true of the mean of a first-order autoregression, a
    guide for the rest. (Bayley and Hammersley, Suppl. J. R. Stat. Soc. 8, 1946.)
    """
    size, correlation = float(np.size(values)), lag_one_correlation(values)
    if correlation <= 0.0:
        return size
    # In this order `max` gives 1 where the correlation is not a number.
    return max(1.0, size * (1.0 - correlation) / (1.0 + correlation))


def wilson_interval(successes: int, trials: int, confidence: float) -> Bounds:
    """The two-sided score interval of a share. (Wilson, J. Am. Stat. Assoc. 22, 1927.)"""
    z = normal_quantile(0.5 + confidence / 2)
    share, scale = successes / trials, 1.0 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1.0 - share) / trials + z * z / (4 * trials * trials)) / scale
    # the ends as they are: rounding would leave out the very share that was seen
    return (max(0.0, centre - half) if successes else 0.0), (min(1.0, centre + half) if successes < trials else 1.0)


def exact_bounds(successes: int, trials: int, confidence: float) -> Bounds:
    """Exact one-sided bounds of a share, each at `confidence`. (Clopper and Pearson, Biometrika 26, 1934.)"""
    alpha = 1.0 - confidence
    return _exact_low(successes, trials, alpha), 1.0 - _exact_low(trials - successes, trials, alpha)


def _exact_low(successes: int, trials: int, alpha: float) -> float:
    if not successes:
        return 0.0
    return _bisect(lambda share: _at_least(successes, trials, share) > alpha, successes / trials, 0.0)


def _at_least(successes: int, trials: int, share: float) -> float:
    """P(X ≥ successes)."""
    return 1.0 - binomial_cdf(successes - 1, trials, share)


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The level of each hypothesis: to reject where p ≤ level rejects any true one with probability `alpha` at most.

    The i-th smallest of m p-values gets alpha / (m - i + 1), up to the first that is not rejected; all after it get the
    level of that one. (Holm, Scand. J. Stat. 6, 1979.)
    """
    # What is not a number comes last, where it holds up nothing else.
    ordered = sorted(range(len(p_values)), key=lambda at: math.inf if math.isnan(p_values[at]) else p_values[at])
    levels, level, rejecting = [0.0] * len(p_values), alpha, True
    for done, at in enumerate(ordered):
        if rejecting:
            level = alpha / (len(p_values) - done)
            rejecting = p_values[at] <= level
        levels[at] = level
    return levels


def floor_bounds(
    hits: Sequence[int], totals: Sequence[int], floors: Sequence[float], confidence: float
) -> list[Bounds]:
    """Exact one-sided bounds of several shares, one per class, to be held against their floors together.

    Each bound by itself holds at `confidence` or more. Together they hold against the floors: with that confidence, no
    share is below its floor whose lower bound is not (none is above whose upper bound is not). The levels are those of
    Holm's step-down, which shows more than equal parts would. A class of which nothing was seen is between 0 and 1.
    """
    alpha = 1.0 - confidence
    lows = _floor_lows(hits, totals, floors, alpha)
    misses = [total - hit for hit, total in zip(hits, totals, strict=True)]
    highs = [1.0 - low for low in _floor_lows(misses, totals, [1.0 - floor for floor in floors], alpha)]
    return list(zip(lows, highs, strict=True))


def _floor_lows(hits: Sequence[int], totals: Sequence[int], floors: Sequence[float], alpha: float) -> list[float]:
    seen = list(zip(hits, totals, floors, strict=True))
    # That a share is not below 0 needs no proof.
    p_values = [_at_least(hit, total, floor) if floor > 0.0 else 0.0 for hit, total, floor in seen]
    levels = holm_levels(p_values, alpha)
    return [_exact_low(hit, total, level) for (hit, total, _), level in zip(seen, levels, strict=True)]


def mcnemar_p_value(lost: int, gained: int) -> float:
    """The exact two-sided p-value of McNemar's test; for reports only: it judges no margin."""
    return min(1.0, 2.0 * binomial_cdf(min(lost, gained), lost + gained, 0.5))


def tango_bounds(lost: int, gained: int, pairs: int, confidence: float) -> Bounds:
    """One-sided bounds, each at `confidence`, of the paired drop (lost - gained) / pairs, as fractions.

    `lost`: the original right and the candidate wrong; `gained`: the other way round. They invert the score test whose
    variance is estimated under the margin itself, which holds where a drop of zero has been seen. (Tango, Statistics in
    Medicine 17, 1998.)
    """
    if not 0 <= lost + gained <= pairs or pairs == 0:
        raise ValueError(f"{lost} lost and {gained} gained do not fit {pairs} pairs")
    z = normal_quantile(confidence)
    return -_tango_upper(gained, lost, pairs, z), _tango_upper(lost, gained, pairs, z)


def _tango_upper(lost: int, gained: int, pairs: int, z: float) -> float:
    return _bisect(lambda drop: _tango_score(drop, lost, gained, pairs) > -z, (lost - gained) / pairs, 1.0)


def _tango_score(drop: float, lost: int, gained: int, pairs: int) -> float:
    distance = lost - gained - pairs * drop
    b = -lost - gained + (2 * pairs - lost + gained) * drop
    root = math.sqrt(max(0.0, b * b + 8 * pairs * gained * drop * (1.0 - drop)))
    discordance = max(0.0, (root - b) / (4 * pairs))
    variance = pairs * (2 * discordance + drop * (1.0 - drop))
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _bisect(holds: Callable[[float], bool], inside: float, outside: float) -> float:
    """The point between where `holds` turns false, on the outer side; `inside` is taken to hold."""
    for _ in range(100):
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if holds(middle) else (inside, middle)
    return outside


def pairs_needed(
    discordance: float, margin: float, confidence: float, *, power: float = 0.8, drop: float = 0.0
) -> int | None:
    """Images that it takes to prove a drop below `margin` with `power`; None where the drop leaves no room for it.

    All fractions; `discordance` is the share of images on which exactly one of the two is right, `drop` the true one.
    n = (z_confidence + z_power)² (discordance - drop²) / (margin - drop)², the normal approximation. (Compare Nam,
    Biometrics 53, 1997.)
    """
    if margin <= drop:
        return None
    z = normal_quantile(confidence) + normal_quantile(power)
    return math.ceil(z * z * max(0.0, discordance - drop * drop) / (margin - drop) ** 2)
