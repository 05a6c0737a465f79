"""Several claims at once: Holm's levels, and the floors of classes."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from edgeopt.validation import statistics as ours

p_values = st.lists(st.sampled_from([0.0, 0.01, 0.0125, 0.02, 0.025, 0.04, 0.05, 0.3, 1.0]) | st.floats(0, 0.1))


def rejected_by_closed_testing(found: list[float], alpha: float) -> list[bool]:
    """Holm without its steps: a hypothesis falls if every set of them that holds it does, by Bonferroni's test."""
    every = range(len(found))
    sets = [chosen for size in range(1, len(found) + 1) for chosen in itertools.combinations(every, size)]
    fallen = {chosen for chosen in sets if min(found[at] for at in chosen) <= alpha / len(chosen)}
    return [all(chosen in fallen for chosen in sets if at in chosen) for at in every]


@given(p_values.filter(lambda found: len(found) <= 6), st.sampled_from([0.01, 0.05, 0.1]))
def test_what_is_within_its_level_is_what_holm_rejects(found: list[float], alpha: float) -> None:
    levels = ours.holm_levels(found, alpha)
    assert [p <= level for p, level in zip(found, levels, strict=True)] == rejected_by_closed_testing(found, alpha)


@pytest.mark.parametrize(
    ("found", "shares"),
    [
        ([0.01, 0.04, 0.03, 0.005], [3, 2, 2, 4]),
        ([0.03, 0.04, 0.02], [3, 3, 3]),
        ([0.001, 0.001], [2, 1]),
        ([0.9], [1]),
        ([], []),
    ],
)
def test_the_levels_of_holm_are_those_by_hand(found: list[float], shares: list[int]) -> None:
    assert ours.holm_levels(found, 0.05) == [0.05 / share for share in shares]


@given(p_values, st.randoms())
def test_levels_do_not_depend_on_the_order_of_hypotheses(found: list[float], random: object) -> None:
    def judged(values: list[float]) -> list[tuple[float, bool]]:
        levels = ours.holm_levels(values, 0.05)
        return sorted((p, p <= level) for p, level in zip(values, levels, strict=True))

    shuffled = found.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert judged(shuffled) == judged(found)
    assert all(0.05 / len(found) <= level <= 0.05 for level in ours.holm_levels(found, 0.05))


def test_what_is_not_a_number_is_not_rejected_and_holds_up_nothing() -> None:
    levels = ours.holm_levels([math.nan, 0.02, math.nan, 0.001], 0.06)
    assert levels == [0.03, 0.02, 0.03, 0.015]


classes = st.lists(
    st.integers(0, 120).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total), st.floats(0.01, 0.99))),
    min_size=1,
    max_size=5,
)


@settings(max_examples=30)
@given(classes, st.sampled_from([0.9, 0.95, 0.99]))
def test_a_floor_is_kept_or_missed_where_holm_says_so(found: list[tuple[int, int, float]], confidence: float) -> None:
    hits, totals, floors = (list(column) for column in zip(*found, strict=True))
    bounds = ours.floor_bounds(hits, totals, floors, confidence)
    above = [float(stats.binom.sf(hit - 1, total, floor)) for hit, total, floor in found]
    below = [float(stats.binom.cdf(hit, total, floor)) for hit, total, floor in found]
    # Equal but for the last digit: either way is right.
    assume(not any(math.isclose(p, (1.0 - confidence) / part) for p in above + below for part in range(1, 6)))
    kept, missed = (rejected_by_closed_testing(p, 1.0 - confidence) for p in (above, below))
    assert [low >= floor for (low, _), floor in zip(bounds, floors, strict=True)] == kept
    assert [high <= floor for (_, high), floor in zip(bounds, floors, strict=True)] == missed


@settings(max_examples=30)
@given(classes)
def test_bounds_of_floors_lie_between_those_of_one_class_and_those_of_equal_parts(
    found: list[tuple[int, int, float]],
) -> None:
    hits, totals, floors = (list(column) for column in zip(*found, strict=True))
    for hit, total, (low, high) in zip(hits, totals, ours.floor_bounds(hits, totals, floors, 0.95), strict=True):
        if not total:
            assert (low, high) == (0.0, 1.0)
            continue
        alone = ours.exact_bounds(hit, total, 0.95)
        parted = ours.exact_bounds(hit, total, 1.0 - 0.05 / len(found))
        assert parted[0] - 1e-12 <= low <= alone[0] + 1e-12
        assert alone[1] - 1e-12 <= high <= parted[1] + 1e-12


def test_one_floor_is_bounded_as_one_share_is() -> None:
    assert ours.floor_bounds([93], [100], [0.9], 0.95) == [ours.exact_bounds(93, 100, 0.95)]


def test_floors_that_are_kept_with_room_leave_more_to_a_close_one() -> None:
    # p = 0.017 for 97 of 100 against 0.91: enough beside two classes that are sure of theirs, too little beside others.
    beside_sure = ours.floor_bounds([97, 100, 100], [100, 100, 100], [0.91, 0.9, 0.9], 0.95)
    beside_unsure = ours.floor_bounds([97, 91, 91], [100, 100, 100], [0.91, 0.9, 0.9], 0.95)
    assert beside_sure[0][0] >= 0.91 > beside_unsure[0][0]


def test_a_floor_of_zero_takes_nothing_from_another_class() -> None:
    # p = 0.047 for 96 of 100 against 0.91.
    assert ours.floor_bounds([0, 96], [50, 100], [0.0, 0.91], 0.95)[1][0] >= 0.91


@pytest.mark.parametrize(("hits", "total"), [(0, 0), (0, 60), (60, 60)])
def test_a_floor_of_zero_is_always_kept_and_one_of_one_never_shown(hits: int, total: int) -> None:
    zero, one = ours.floor_bounds([hits, hits], [total, total], [0.0, 1.0], 0.95)
    assert zero[0] >= 0.0
    assert one[0] < 1.0
    assert (one[1] < 1.0) == (hits < total)


def test_a_class_without_images_is_not_taken_for_a_bad_or_a_good_one() -> None:
    assert ours.floor_bounds([0, 500], [0, 500], [0.9, 0.9], 0.95)[0] == (0.0, 1.0)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ours.floor_bounds([1, 2], [3], [0.5, 0.5], 0.95)
