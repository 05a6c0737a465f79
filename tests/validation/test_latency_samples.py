from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.validation.latency_samples import LatencySamples, Protocol
from edgeopt.validation.statistics import median_units_needed
from edgeopt.validation.subject import Figures


def fabricate(sets: int = 2, seed: int = 0, sides: tuple[str, ...] = ("a", "b")) -> LatencySamples:
    random = np.random.default_rng(seed)
    count = len(sides)
    return LatencySamples(
        sides=sides,
        digests=tuple(side * 64 for side in sides),
        times_ns=random.integers(10**6, 10**9, (count, sets, 8, 5)),
        order=random.permuted(np.tile(np.arange(count), (sets, 8, 1)), axis=2),
        waited_ns=random.integers(0, 10**6, (count, sets, 8, 5)),
        correctable=np.ones((count, sets, 8), np.bool_),
        figures=random.integers(1, 10**9, (count, sets, 3)),
        throttled=random.random(sets) < 0.5,
        protocol=Protocol(seed=seed),
        cores=(1,),
        batch=3,
        seconds=1.25,
        environment="machine",
    )


def equal(one: LatencySamples, other: LatencySamples) -> bool:
    names = [field.name for field in fields(one)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@given(st.integers(1, 12), st.integers(0, 99))
def test_samples_survive_their_file(sets: int, seed: int) -> None:
    samples = fabricate(sets, seed)
    read = LatencySamples.from_npz(samples.to_npz())
    assert equal(read, samples)
    assert (read.protocol, read.cores) == (samples.protocol, samples.cores)
    assert read.times_ns.dtype == np.int64
    assert read.throttled.dtype == np.bool_


def test_equal_samples_give_equal_bytes() -> None:
    assert fabricate().to_npz() == fabricate().to_npz()
    assert fabricate().to_npz() != fabricate(seed=1).to_npz()


def test_extending_puts_sets_behind_each_other() -> None:
    first, second = fabricate(2), replace(fabricate(3, seed=1), protocol=Protocol())
    joined = first.extend(second)
    assert joined.sets == 5
    assert np.array_equal(joined.times_ns[:, :2], first.times_ns)
    assert np.array_equal(joined.times_ns[:, 2:], second.times_ns)
    assert np.array_equal(joined.throttled, [*first.throttled, *second.throttled])
    assert joined.order.shape[0] == joined.waited_ns.shape[1] == joined.figures.shape[1] == 5
    assert joined.waited_ns.shape == joined.times_ns.shape
    assert joined.correctable.shape == joined.times_ns.shape[:3]
    assert joined.seconds == 2.5


@pytest.mark.parametrize(
    "change",
    [
        {"sides": ("a", "c")},
        {"digests": ("x", "y")},
        {"protocol": Protocol(iterations=9)},
        {"cores": ()},
        {"batch": 4},
        {"environment": "another machine"},
    ],
)
def test_samples_of_two_measurements_are_never_joined(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        fabricate().extend(replace(fabricate(), **change))  # type: ignore[arg-type]


def test_a_side_is_found_by_name_without_its_throttled_sets() -> None:
    samples = replace(fabricate(3), throttled=np.array([False, True, False]))
    assert np.array_equal(samples.times_of("b"), samples.times_ns[1][[0, 2]])
    assert np.array_equal(samples.paired_times_of("a", "b")[1], (samples.times_ns - samples.waited_ns)[1][[0, 2]])
    assert samples.kept_sets == 2
    assert samples.digest_of("b") == "b" * 64
    assert samples.figures_of("b")[0] == Figures(*samples.figures[1, 0])


def test_waiting_longer_than_the_run_is_a_contradiction_and_taken_for_none() -> None:
    samples = waiting()
    assert [times.tolist() for times in samples.paired_times_of("a", "b")] == [[[[70, 100]]], [[[100, 100]]]]
    assert samples.waited_share_of("a") == 0.8


def waiting() -> LatencySamples:
    times, waited = np.full((2, 1, 1, 2), 100), np.array([[[[30, 130]]], [[[0, 100]]]])
    correctable = np.ones((2, 1, 1), np.bool_)
    return replace(fabricate(1), times_ns=times, waited_ns=waited, correctable=correctable, throttled=np.array([False]))


@pytest.mark.parametrize("pooled", [0, 1])
def test_waiting_is_taken_off_both_sides_of_a_pair_or_off_neither(pooled: int) -> None:
    samples = waiting()
    samples.correctable[pooled] = False
    assert [times.tolist() for times in samples.paired_times_of("a", "b")] == [[[[100, 100]]]] * 2
    assert samples.waited_share_of("a") == 0.8


def test_in_an_odd_block_that_cannot_be_corrected_waiting_is_taken_off_neither_side() -> None:
    samples = replace(fabricate(2), throttled=np.array([False, False]))
    samples.correctable[0, 1, 3] = False
    odd = np.zeros((2, 8, 5), np.bool_)
    odd[1, 3] = True
    for index, times in enumerate(samples.paired_times_of("a", "b")):
        net = samples.times_ns[index] - samples.waited_ns[index]
        assert np.array_equal(times, np.where(odd, samples.times_ns[index], net))


def test_a_side_with_many_blocks_that_cannot_be_corrected_is_not_corrected_unless_their_sets_were_throttled() -> None:
    samples = replace(fabricate(2), throttled=np.array([False, True]))
    samples.correctable[0, 1, 3:5] = False
    assert samples.is_correctable("a")
    whole = replace(samples, throttled=np.array([False, False]))
    assert not whole.is_correctable("a")
    for index, times in enumerate(whole.paired_times_of("a", "b")):
        assert np.array_equal(times, whole.times_ns[index])


@pytest.mark.parametrize(
    ("sets", "seconds", "exhausted"), [(10, 1.0, False), (40, 1.0, True), (10, 600.0, True), (9, 600.0, False)]
)
def test_a_measurement_is_exhausted_by_its_last_look_or_its_time(sets: int, seconds: float, exhausted: bool) -> None:
    assert replace(fabricate(sets), seconds=seconds).exhausted == exhausted


@pytest.mark.parametrize(("confidence", "candidates"), [(0.95, 1), (0.95, 8), (0.99, 1)])
def test_the_time_never_ends_a_measurement_that_has_too_few_sets_for_a_verdict(
    confidence: float, candidates: int
) -> None:
    protocol = Protocol()
    assert median_units_needed(protocol.alpha(confidence, candidates)) <= protocol.least_sets <= protocol.looks[0]


@given(st.floats(1e-6, 20.0))
def test_a_set_of_slow_sides_takes_no_longer_than_it_may_or_has_the_fewest_runs(round_seconds: float) -> None:
    protocol = Protocol()
    fit = protocol.fit(round_seconds)
    runs = fit.blocks * (fit.discard + fit.iterations)
    assert runs * round_seconds <= protocol.set_seconds or (fit.blocks, fit.iterations) == (2, 1)
    assert 2 <= fit.blocks <= protocol.blocks
    assert 1 <= fit.iterations <= protocol.iterations
    assert fit.fit(round_seconds) == fit
    assert replace(fit, blocks=10, iterations=4, discard=2) == protocol


def test_a_set_of_fast_sides_is_left_as_it_is() -> None:
    assert Protocol().fit(0.01) == Protocol()
