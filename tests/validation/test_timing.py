from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted_backend import script

from edgeopt import files
from edgeopt.validation import conditions, timing
from edgeopt.validation.conditions import Slowdowns
from edgeopt.validation.latency import ratio_interval
from edgeopt.validation.latency_samples import Protocol
from edgeopt.validation.timing import SideError, measure_sets

pytestmark = pytest.mark.usefixtures("scripted")

INPUTS = [{"image": np.full((2, 1, 2, 2), index, np.float32)} for index in range(3)]
QUICK = Protocol(looks=(2, 3), blocks=3, iterations=4, seconds=60.0, least_sets=1)


def test_sides_are_timed_in_turns_and_the_slower_one_is_found(tmp_path: Path) -> None:
    sides = {"slow": script(microseconds=900), "fast": script(microseconds=300)}
    told: list[str] = []
    samples = measure_sets(
        sides, INPUTS, QUICK, 2, tmp_path / "lock", progress=lambda text, fraction: told.append(text)
    )
    assert samples.sides == ("slow", "fast")
    assert samples.digests == tuple(artifact.digest() for artifact in sides.values())
    assert samples.times_ns.shape == (2, 2, 3, 4)
    assert samples.times_ns[0].min() >= 900_000
    assert samples.times_ns[1].min() >= 300_000
    assert samples.batch == 2
    assert np.array_equal(np.sort(samples.order, axis=2), np.broadcast_to([0, 1], (2, 3, 2)))
    assert told == ["set 1 of 2", "set 2 of 2"]
    value = ratio_interval(samples, "fast", "slow", 0.05).value
    assert value is not None
    assert 0.2 < value < 0.8

    again = measure_sets(sides, INPUTS, QUICK, 3, tmp_path / "lock", so_far=samples)
    assert np.array_equal(again.times_ns[:, :2], samples.times_ns)
    assert again.sets == 3
    assert again.exhausted
    assert again.seconds > samples.seconds


@pytest.mark.parametrize("threads", [1, 2])
def test_single_threaded_sides_are_pinned_to_one_core_and_others_to_none(threads: int, tmp_path: Path) -> None:
    samples = measure_sets({"a": script()}, INPUTS, replace(QUICK, threads=threads), 1, tmp_path / "lock")
    assert len(samples.cores) == (1 if threads == 1 else 0)
    assert set(samples.cores) <= os.sched_getaffinity(0)


def test_the_order_of_turns_comes_from_the_seed_alone(tmp_path: Path) -> None:
    sides = {"a": script(), "b": script(microseconds=1), "c": script(microseconds=2)}
    protocol = replace(QUICK, blocks=6)
    orders = [measure_sets(sides, INPUTS, protocol, 1, tmp_path / "lock").order for _ in range(2)]
    assert np.array_equal(orders[0], orders[1])
    assert len({tuple(turns) for turns in orders[0][0]}) > 1


def test_measuring_ends_when_its_time_is_spent_but_never_before_one_set(tmp_path: Path) -> None:
    samples = measure_sets({"a": script()}, INPUTS, replace(QUICK, seconds=0.01), 3, tmp_path / "lock")
    assert samples.sets == 1
    assert samples.exhausted


def test_measuring_does_not_end_before_it_has_the_sets_of_a_verdict(tmp_path: Path) -> None:
    protocol = replace(QUICK, seconds=0.01, least_sets=2)
    samples = measure_sets({"a": script()}, INPUTS, protocol, 3, tmp_path / "lock")
    assert samples.sets == 2
    assert samples.exhausted


def test_slow_sides_have_fewer_turns_the_same_in_every_set(tmp_path: Path) -> None:
    protocol = replace(QUICK, blocks=10, discard=2, set_seconds=0.2)
    samples = measure_sets({"a": script(sleep_microseconds=40_000)}, INPUTS, protocol, 1, tmp_path / "lock")
    fit = samples.protocol
    assert (fit.blocks, fit.discard, fit.iterations) == (2, 1, 1)
    again = measure_sets(
        {"a": script(sleep_microseconds=40_000)}, INPUTS, protocol, 2, tmp_path / "lock", so_far=samples
    )
    assert again.times_ns.shape == (1, 2, 2, 1)
    assert again.protocol == fit


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"refuse": True}, "the script says no"),
        ({"crash_at": 1}, "SIGABRT"),
        ({"crash_at": 60}, "SIGABRT"),
        pytest.param({"hang_at": 60}, "did not answer within 6 s", marks=pytest.mark.slow),
    ],
)
def test_a_side_that_fails_is_named_and_leaves_no_process(fault: dict[str, object], why: str, tmp_path: Path) -> None:
    sides = {"good": script(), "x86/int8": script(**fault)}
    began = time.monotonic()
    with pytest.raises(SideError, match=why) as caught:
        measure_sets(sides, INPUTS, replace(QUICK, call_seconds=6.0), 2, tmp_path / "lock")
    assert caught.value.side == "x86/int8"
    assert "`x86/int8` could not be timed" in caught.value.message
    assert time.monotonic() - began < 25
    with files.lock(tmp_path / "lock", wait=False) as free:
        assert free


def test_two_measurements_on_one_machine_wait_for_each_other(tmp_path: Path) -> None:
    told: list[str] = []
    waiting = threading.Event()

    def progress(text: str, fraction: float | None) -> None:
        told.append(text)
        waiting.set()

    def measure() -> None:
        measure_sets({"a": script()}, INPUTS, QUICK, 1, tmp_path / "lock", progress=progress)

    with files.lock(tmp_path / "lock"):
        thread = threading.Thread(target=measure)
        thread.start()
        assert waiting.wait(10)
        time.sleep(0.2)
        assert told == ["waiting: something else on this machine is being timed"]
    thread.join(20)
    assert told[1:] == ["set 1 of 1"]


def test_a_block_in_which_the_machine_slowed_down_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([(3, 0), (3, 0), (3, 0), (5, 0), (5, 1), (5, 4)])
    monkeypatch.setattr(conditions, "slowdowns", lambda cores: Slowdowns(*next(told)))
    samples = measure_sets({"a": script()}, INPUTS, QUICK, 1, tmp_path / "lock")
    assert samples.slowed.tolist() == [[[0, 0], [2, 0], [0, 3]]]


def test_a_side_that_is_pinned_is_not_moved_and_one_that_settles_is_marked(tmp_path: Path) -> None:
    samples = measure_sets({"a": script(), "b": script()}, INPUTS, QUICK, 1, tmp_path / "lock")
    assert not samples.moves.any()
    assert samples.settled.tolist() == [[True], [True]]


def test_without_concurrency_no_stream_runs(tmp_path: Path) -> None:
    assert measure_sets({"a": script()}, INPUTS, QUICK, 1, tmp_path / "lock").streams.shape == (1, 1, 0, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_each_side_has_a_turn_with_so_many_streams_in_every_set(threads: int, tmp_path: Path) -> None:
    sides = {"slow": script(sleep_microseconds=30_000), "fast": script(sleep_microseconds=3000)}
    protocol = replace(QUICK, threads=threads, concurrency=3, stream_seconds=0.2)
    samples = measure_sets(sides, INPUTS, protocol, 2, tmp_path / "lock")
    assert samples.streams.shape == (2, 2, 3, 2)
    assert samples.streams[..., 1].min() >= 200_000_000
    assert samples.streams[0, ..., 0].max() < samples.streams[1, ..., 0].min()
    assert samples.streams_slowed.shape == (2, 2, 2)


@pytest.mark.skipif(len(conditions.usable_cores()) < 2, reason="there is one core")
def test_streams_are_not_held_to_the_core_of_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[tuple[int, ...]] = []
    call = timing.Worker.call

    def watch(worker: timing.Worker, method: str, *arguments: object) -> object:
        found = call(worker, method, *arguments)
        if method == "stream":
            pinned.append(tuple(sorted(os.sched_getaffinity(worker.process_id))))
        return found

    monkeypatch.setattr(timing.Worker, "call", watch)
    measure_sets({"a": script()}, INPUTS, replace(QUICK, concurrency=2, stream_seconds=0.05), 1, tmp_path / "lock")
    assert pinned == [conditions.usable_cores()]


def test_the_strongest_core_is_taken_and_of_equals_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "usable_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(conditions, "strength", lambda core: 1024 if core in (1, 2) else 512)
    assert timing.timed_cores(1) == (2,)
    assert timing.timed_cores(2) == ()
