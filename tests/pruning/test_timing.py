"""What networks took that were timed says what others will take."""

from __future__ import annotations

import random

import pytest

from edgeopt.pruning.timing import Fit, Seen, fit_times


def time_of(fit: Fit, alone_ms: float, elements: float, weights: float) -> float:
    return fit.share * alone_ms + fit.element_ms * elements + fit.weight_ms * weights + fit.fixed_ms


def narrower(fit: Fit, share: float) -> Seen:
    """A network of which a share of the channels is left: most of its time falls with the square of that."""
    alone, elements, weights = 0.2 * share + 0.8 * share**2, 150_000 * share, 9e6 * share**2
    return Seen(alone, elements, weights, time_of(fit, alone, elements, weights))


@pytest.mark.parametrize(
    "true",
    [
        Fit(0.9, 0.0, 0.0, 0.0),
        Fit(0.8, 1e-6, 0.0, 0.1),
        Fit(0.0, 1.5e-6, 7e-8, 0.0),  # weights come from beyond the cache, which they do not for a layer alone
        Fit(0.5, 0.0, 3e-8, 0.05),
    ],
)
def test_a_few_networks_say_what_one_between_them_takes(true: Fit) -> None:
    seen = [narrower(true, share) for share in (1.0, 0.5, 0.25)]
    found, between = fit_times(seen), narrower(true, 0.4)
    assert time_of(found, between.alone_ms, between.elements, between.weights) == pytest.approx(between.ms, rel=0.03)
    assert min(found.share, found.element_ms, found.weight_ms, found.fixed_ms) >= 0


def test_the_network_as_given_alone_is_taken_to_last_as_long_as_its_layers() -> None:
    (only,) = [narrower(Fit(0.7, 0.0, 0.0, 0.0), 1.0)]
    found = fit_times([only])
    assert time_of(found, only.alone_ms, only.elements, only.weights) == pytest.approx(only.ms, rel=0.01)
    assert found.share == pytest.approx(0.7, rel=0.02)


def test_times_that_scatter_give_no_negative_part() -> None:
    drawn = random.Random(0)
    for _ in range(50):
        shares = [1.0, 0.5, 0.25, *(drawn.uniform(0.2, 0.6) for _ in range(4))]
        exact = [narrower(Fit(0.6, 5e-7, 2e-8, 0.02), share) for share in shares]
        seen = [Seen(one.alone_ms, one.elements, one.weights, one.ms * drawn.uniform(0.95, 1.05)) for one in exact]
        found, between = fit_times(seen), narrower(Fit(0.6, 5e-7, 2e-8, 0.02), 0.4)
        assert min(found.share, found.element_ms, found.weight_ms, found.fixed_ms) >= 0
        assert time_of(found, between.alone_ms, between.elements, between.weights) == pytest.approx(between.ms, rel=0.1)
