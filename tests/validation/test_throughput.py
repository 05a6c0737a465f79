from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeopt.validation import Measurement
from edgeopt.validation.latency import measure_latency
from edgeopt.validation.latency_samples import LatencySamples
from edgeopt.validation.throughput import per_second
from tests.validation.test_latency import ALPHA, disturb, fabricate

MS = 1_000_000


def streamed(runs: list[int], streams: int = 4, batch: int = 2) -> LatencySamples:
    """Samples with so many runs of each of the first side's streams in half a second, set by set."""
    samples = fabricate({"a": 1.0, "b": 1.0}, sets=len(runs))
    found = np.full((2, len(runs), streams, 2), 500 * MS)
    found[0, :, :, 0] = np.array(runs)[:, None]
    found[1, :, :, 0] = 0
    return replace(samples, streams=found, batch=batch)


def throughput(samples: LatencySamples, side: str = "a") -> Measurement:
    found = measure_latency(samples, side, ALPHA, original="b", raw="samples/x86.npz")
    return next(one for one in found if one.metric == "throughput.per_s")


def test_streams_do_together_what_each_does_in_its_own_time() -> None:
    streams = np.array([[[10, 1000 * MS], [10, 500 * MS]], [[1, 250 * MS], [0, 1000 * MS]]])
    assert per_second(streams).tolist() == [30.0, 4.0]


def test_with_several_streams_the_throughput_is_theirs_over_sets() -> None:
    found = throughput(streamed([100, 10, 20, 30, 40, 50, 60, 70, 80, 90]))
    # 4 streams of batch 2 in half a second: 16 images per second for each run
    assert (found.low, found.value, found.high) == (16 * 20, 16 * 55, 16 * 90)
    assert found.note == "4 streams at once through one session"
    assert (found.samples, found.unit, found.subject) == (10, "1/s", "digest of a")
    assert (found.raw, found.confidence) == ("samples/x86.npz", 1 - ALPHA)


def test_with_one_stream_it_follows_from_the_median_latency() -> None:
    samples = replace(fabricate({"a": 2.0, "b": 1.0}), batch=4)
    found = throughput(samples)
    assert found.value == pytest.approx(2000, rel=0.02)
    assert found.samples == 400
    assert found.note == ""


def test_too_few_sets_bound_no_throughput_and_say_how_many_it_takes() -> None:
    found = throughput(streamed([10] * 5))
    assert found.value == 160
    assert found.low is None
    assert found.high is None
    assert found.note.endswith("; 5 sets of workers were timed, 6 are needed")


@pytest.mark.parametrize(("slowed", "bounded"), [(2, True), (3, False)])
def test_turns_in_which_the_machine_slowed_down_are_left_out_and_too_many_of_them_conclude_nothing(
    slowed: int, bounded: bool
) -> None:
    samples = streamed([1] * slowed + [50] * (10 - slowed))
    samples.streams_slowed[0, :slowed, 0] = 1
    found = throughput(samples)
    assert found.value == 16 * 50
    assert found.samples == 10 - slowed
    assert (found.low is not None) == bounded
    assert found.note.endswith("its CPU quota was spent in 3 of 10 turns") != bounded


def test_where_every_turn_was_slowed_there_is_no_value() -> None:
    samples = streamed([10] * 8)
    samples.streams_slowed[0, :, 1] = 1
    found = throughput(samples)
    assert found.value is None
    assert found.note.endswith("the CPU was too hot in 8 of 8 turns")


def test_where_blocks_were_disturbed_no_throughput_is_concluded_either() -> None:
    found = throughput(disturb(streamed([10] * 10), blocks=6, sets=4))
    assert found.low is None
    assert "blocks were dropped for all sides" in found.note
