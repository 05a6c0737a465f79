from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.validation.latency_samples import LatencySamples, Protocol
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
    assert np.array_equal(samples.times_of("b"), (samples.times_ns - samples.waited_ns)[1][[0, 2]])
    assert samples.kept_sets == 2
    assert samples.digest_of("b") == "b" * 64
    assert samples.figures_of("b")[0] == Figures(*samples.figures[1, 0])


def test_waiting_longer_than_the_run_is_a_contradiction_and_taken_for_none() -> None:
    times, waited = np.full((2, 1, 1, 2), 100), np.array([[[[30, 130]]], [[[0, 100]]]])
    samples = replace(fabricate(1), times_ns=times, waited_ns=waited, throttled=np.array([False]))
    assert samples.times_of("a").tolist() == [[[70, 100]]]
    assert samples.times_of("b").tolist() == [[[100, 100]]]
    assert samples.waited_share_of("a") == 0.8


@pytest.mark.parametrize(("sets", "seconds", "exhausted"), [(10, 1.0, False), (40, 1.0, True), (10, 600.0, True)])
def test_a_measurement_is_exhausted_by_its_last_look_or_its_time(sets: int, seconds: float, exhausted: bool) -> None:
    assert replace(fabricate(sets), seconds=seconds).exhausted == exhausted
