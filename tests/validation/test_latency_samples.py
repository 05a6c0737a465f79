from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeopt.validation.latency_samples import SET_AXES, LatencySamples, Protocol
from edgeopt.validation.statistics import median_units_needed
from edgeopt.validation.subject import Figures
from tests.validation.fabricated import samples_of

BLOCKS = 8


def fabricate(sets: int = 2, seed: int = 0, sides: tuple[str, ...] = ("a", "b")) -> LatencySamples:
    """Samples that differ in every array from one seed to the next, and in which nothing was disturbed."""
    random = np.random.default_rng(seed)
    count = len(sides)
    return samples_of(
        random.integers(10**6, 10**9, (count, sets, BLOCKS, 5)),
        sides,
        digests=tuple(side * 64 for side in sides),
        order=random.permuted(np.tile(np.arange(count), (sets, BLOCKS, 1)), axis=2),
        waited_ns=random.integers(0, 10**6, (count, sets, BLOCKS, 5)),
        settled=random.random((count, sets)) < 0.5,
        streams=random.integers(1, 10**9, (count, sets, 3, 2)),
        figures=random.integers(1, 10**9, (count, sets, 3)),
        device_ns=random.integers(-1, 10**9, (count, sets, 4)),
        protocol=Protocol(blocks=BLOCKS, iterations=5, seed=seed),
        batch=3,
        seconds=1.25,
    )


def slowed(sets: int, *blocks: tuple[int, int], cause: int = 0) -> NDArray[np.int64]:
    """Nothing slowed down but those blocks, told by set and number."""
    found = np.zeros((sets, BLOCKS, 2), np.int64)
    for at in blocks:
        found[(*at, cause)] = 1
    return found


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
    assert read.settled.dtype == np.bool_


def test_samples_of_one_stream_survive_their_file() -> None:
    samples = replace(fabricate(), streams=np.zeros((2, 2, 0, 2), np.int64))
    assert LatencySamples.from_npz(samples.to_npz()).streams.shape == (2, 2, 0, 2)


def test_equal_samples_give_equal_bytes() -> None:
    assert fabricate().to_npz() == fabricate().to_npz()
    assert fabricate().to_npz() != fabricate(seed=1).to_npz()


def test_extending_puts_sets_behind_each_other() -> None:
    first = fabricate(2)
    second = replace(fabricate(3, seed=1), protocol=first.protocol)
    joined = first.extend(second)
    assert joined.sets == 5
    for name, axis in SET_AXES.items():
        parts = np.split(getattr(joined, name), [2], axis=axis)
        assert np.array_equal(parts[0], getattr(first, name)), name
        assert np.array_equal(parts[1], getattr(second, name)), name
    assert joined.seconds == 2.5


def test_every_array_of_samples_is_joined_by_sets() -> None:
    samples = fabricate()
    assert SET_AXES.keys() == {name for name, value in vars(samples).items() if isinstance(value, np.ndarray)}


def test_the_first_sets_are_what_was_known_after_them() -> None:
    first, second = fabricate(2), replace(fabricate(3, seed=1), protocol=fabricate().protocol)
    cut = first.extend(second).first_sets(2)
    assert equal(replace(cut, seconds=first.seconds), first)
    assert cut.seconds == pytest.approx(1.0)
    assert first.first_sets(40).sets == 2


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


def test_a_side_is_found_by_name() -> None:
    samples = fabricate(3)
    assert np.array_equal(samples.times_of("b"), samples.times_ns[1])
    assert samples.digest_of("b") == "b" * 64
    assert samples.figures_of("b")[0] == Figures(*samples.figures[1, 0])


@pytest.mark.parametrize("cause", [0, 1])
def test_a_block_in_which_the_machine_slowed_down_counts_for_no_side(cause: int) -> None:
    samples = replace(fabricate(3), slowed=slowed(3, (1, 2), (1, 5), (2, 0), cause=cause))
    left = [list(range(8)), [0, 1, 3, 4, 6, 7], list(range(1, 8))]
    for index, side in enumerate(samples.sides):
        for number, times in enumerate(samples.times_of(side)):
            assert np.array_equal(times, samples.times_ns[index, number, left[number]])
    nets = samples.times_ns - samples.waited_ns
    for number, pair in enumerate(samples.paired_times_of("a", "b")):
        for index in (0, 1):
            assert np.array_equal(pair[index], nets[index, number, left[number]])
    assert (samples.blocks, samples.dropped_blocks, samples.kept_sets) == (24, 3, 3)
    assert [int(blocks.sum()) for blocks in samples.disturbed.values()] == ([3, 0, 0] if cause == 0 else [0, 3, 0])


@pytest.mark.parametrize(("cores", "dropped"), [((1,), 1), ((), 0)])
def test_a_block_in_which_one_pinned_side_was_moved_counts_for_no_side(cores: tuple[int, ...], dropped: int) -> None:
    samples = replace(fabricate(2), cores=cores)
    samples.moves[1, 0, 3] = 2
    assert samples.dropped_blocks == dropped
    assert len(samples.times_of("a")[0]) == 8 - dropped


def test_a_set_that_keeps_less_than_half_of_its_blocks_counts_for_nothing() -> None:
    half, less = [(0, block) for block in range(4)], [(1, block) for block in range(5)]
    samples = replace(fabricate(3), slowed=slowed(3, *half, *less))
    assert [len(times) for times in samples.times_of("a")] == [4, 8]
    assert np.array_equal(samples.times_of("a")[1], samples.times_ns[0, 2])
    assert (samples.kept_sets, samples.dropped_blocks) == (2, 12)


def test_waiting_longer_than_the_run_is_a_contradiction_and_taken_for_none() -> None:
    samples = waiting()
    assert pairs_of(samples) == [([[70, 100]], [[100, 100]])]
    assert samples.waited_share_of("a") == 0.8


def pairs_of(samples: LatencySamples) -> list[tuple[list[list[int]], list[list[int]]]]:
    return [(ours.tolist(), theirs.tolist()) for ours, theirs in samples.paired_times_of("a", "b")]


def waiting() -> LatencySamples:
    """One set of one block of two runs for each side; `a` waited in both."""
    return samples_of(np.full((2, 1, 1, 2), 100), ("a", "b"), waited_ns=np.array([[[[30, 130]]], [[[0, 100]]]]))


@pytest.mark.parametrize("pooled", [0, 1])
def test_waiting_is_taken_off_both_sides_of_a_pair_or_off_neither(pooled: int) -> None:
    samples = waiting()
    samples.correctable[pooled] = False
    assert pairs_of(samples) == [([[100, 100]], [[100, 100]])]
    assert samples.waited_share_of("a") == 0.8


def test_in_an_odd_block_that_cannot_be_corrected_waiting_is_taken_off_neither_side() -> None:
    samples = fabricate(2)
    samples.correctable[0, 1, 3] = False
    expected = samples.times_ns - samples.waited_ns
    expected[:, 1, 3] = samples.times_ns[:, 1, 3]
    for number, pair in enumerate(samples.paired_times_of("a", "b")):
        assert np.array_equal(pair, expected[:, number])


def test_a_side_with_many_blocks_that_cannot_be_corrected_is_not_corrected_unless_they_were_dropped() -> None:
    samples = replace(fabricate(2), slowed=slowed(2, (1, 3), (1, 4)))
    samples.correctable[0, 1, 3:5] = False
    assert samples.is_correctable("a")
    whole = replace(samples, slowed=slowed(2))
    assert not whole.is_correctable("a")
    for number, pair in enumerate(whole.paired_times_of("a", "b")):
        assert np.array_equal(pair, whole.times_ns[:, number])


@pytest.mark.parametrize(
    ("sets", "seconds", "exhausted"),
    [(10, 1.0, False), (40, 1.0, True), (10, 600.0, True), (9, 600.0, False)],
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
