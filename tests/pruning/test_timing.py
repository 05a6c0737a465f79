"""What networks took that were timed says what others will take."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from edgeopt.pruning.timing import Fit, Seen, fit_times


def time_of(fit: Fit, one: Seen) -> float:
    counted = fit.element_ms * one.elements + fit.added_ms * one.added + fit.weight_ms * one.weights
    return fit.share * one.alone_ms + counted + fit.fixed_ms


def timed(fit: Fit, alone_ms: float, elements: float, added: float, weights: float) -> Seen:
    one = Seen(alone_ms, elements, added, weights, 0.0)
    return replace(one, ms=time_of(fit, one))


def narrower(fit: Fit, share: float) -> Seen:
    """A network of which a share of the channels is left: most of its time falls with the square of that."""
    return timed(fit, 0.2 * share + 0.8 * share**2, 150_000 * share, 0.0, 9e6 * share**2)


def shorter(fit: Fit, blocks: int) -> Seen:
    """A residual network of so many blocks of eight, whose layers hardly get faster with fewer channels."""
    return timed(fit, 0.2 + 0.1 * blocks, 32_000 + 32_000 * blocks, 16_000 * blocks, 8000 * blocks)


@pytest.mark.parametrize(
    "true",
    [
        Fit(0.9, 0.0, 0.0, 0.0, 0.0),
        Fit(0.8, 1e-6, 0.0, 0.0, 0.1),
        Fit(0.0, 1.5e-6, 0.0, 7e-8, 0.0),  # weights come from beyond the cache, which they do not for a layer alone
        Fit(0.5, 0.0, 0.0, 3e-8, 0.05),
    ],
)
def test_a_few_networks_say_what_one_between_them_takes(true: Fit) -> None:
    seen = [narrower(true, share) for share in (1.0, 0.5, 0.25)]
    found, between = fit_times(seen), narrower(true, 0.4)
    assert time_of(found, between) == pytest.approx(between.ms, rel=0.03)
    assert min(found.share, found.element_ms, found.added_ms, found.weight_ms, found.fixed_ms) >= 0


def test_two_networks_without_some_blocks_say_what_more_blocks_save() -> None:
    """With half of the channels such a network takes as long: layers alone seem to matter little by that."""
    true = Fit(0.6, 0.0, 8e-6, 0.0, 0.05)
    whole = shorter(true, 8)
    halved = [replace(whole, alone_ms=0.97 * whole.alone_ms, added=share * whole.added) for share in (0.5, 0.25)]
    seen = [whole, *(replace(one, elements=0.5 * one.elements) for one in halved), shorter(true, 7), shorter(true, 6)]
    found, fewer = fit_times(seen), shorter(true, 4)
    assert time_of(found, fewer) == pytest.approx(fewer.ms, rel=0.06)


def test_the_network_as_given_alone_is_taken_to_last_as_long_as_its_layers() -> None:
    (only,) = [narrower(Fit(0.7, 0.0, 0.0, 0.0, 0.0), 1.0)]
    found = fit_times([only])
    assert time_of(found, only) == pytest.approx(only.ms, rel=0.01)
    assert found.share == pytest.approx(0.7, rel=0.02)


def test_times_that_scatter_give_no_negative_part() -> None:
    drawn = random.Random(0)
    for _ in range(50):
        shares = [1.0, 0.5, 0.25, *(drawn.uniform(0.2, 0.6) for _ in range(4))]
        exact = [narrower(Fit(0.6, 5e-7, 0.0, 2e-8, 0.02), share) for share in shares]
        seen = [replace(one, ms=one.ms * drawn.uniform(0.95, 1.05)) for one in exact]
        found, between = fit_times(seen), narrower(Fit(0.6, 5e-7, 0.0, 2e-8, 0.02), 0.4)
        assert min(found.share, found.element_ms, found.added_ms, found.weight_ms, found.fixed_ms) >= 0
        assert time_of(found, between) == pytest.approx(between.ms, rel=0.1)
