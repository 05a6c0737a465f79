from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeopt.validation import Measurement
from edgeopt.validation.latency import (
    describe_conditions,
    describe_waiting,
    measure_latency,
    percentile_bounds,
    ratio_interval,
)
from edgeopt.validation.latency_samples import LatencySamples, Protocol
from tests.validation.fabricated import samples_of

ALPHA = 0.05 / 3


def fabricate(
    milliseconds: dict[str, float], sets: int = 10, seed: int = 0, noise: float = 0.05, process: float = 0.0
) -> LatencySamples:
    """Samples with log-normal noise per run, and per process where `process` is given."""
    random = np.random.default_rng(seed)
    protocol = Protocol()
    shape = (len(milliseconds), sets, protocol.blocks, protocol.iterations)
    logs = noise * random.standard_normal(shape) + process * random.standard_normal((*shape[:2], 1, 1))
    base = np.array(list(milliseconds.values()))[:, None, None, None]
    return samples_of((1e6 * base * np.exp(logs)).astype(np.int64), tuple(milliseconds), protocol=protocol)


def disturb(samples: LatencySamples, blocks: int, sets: int = 1, cause: int = 0) -> LatencySamples:
    """The same samples with the machine slowed down in the last blocks of the last sets."""
    slowed = samples.slowed.copy()
    slowed[-sets:, -blocks:, cause] = 1
    return replace(samples, slowed=slowed)


def by_metric(measurements: list[Measurement]) -> dict[str, Measurement]:
    return {measurement.metric: measurement for measurement in measurements}


def test_a_ratio_is_the_side_over_its_baseline_and_lies_in_its_interval() -> None:
    ratio = ratio_interval(fabricate({"int8": 1.0, "fp32": 4.0}), "int8", "fp32", ALPHA)
    assert ratio.value == pytest.approx(0.25, rel=0.02)
    assert ratio.low is not None
    assert ratio.high is not None
    assert 0.24 < ratio.low < ratio.value < ratio.high < 0.26


def test_the_inverse_comparison_gives_the_inverse_interval() -> None:
    samples = fabricate({"a": 1.0, "b": 3.0})
    ahead, back = ratio_interval(samples, "a", "b", ALPHA), ratio_interval(samples, "b", "a", ALPHA)
    assert ahead.value == pytest.approx(1 / back.value)
    assert (ahead.low, ahead.high) == pytest.approx((1 / back.high, 1 / back.low))


@given(st.integers(1, 40), st.floats(1e-4, 0.2))
def test_a_ratio_has_bounds_exactly_when_there_are_enough_sets(sets: int, alpha: float) -> None:
    ratio = ratio_interval(fabricate({"a": 1.0, "b": 1.0}, sets=sets), "a", "b", alpha)
    assert ratio.value == pytest.approx(1.0, rel=0.1)
    assert (ratio.low is not None) == (2 * 0.5**sets <= alpha) == (ratio.note == "")


def test_a_burst_in_one_block_of_each_set_does_not_move_the_ratio() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0})
    times = samples.times_ns.copy()
    times[0, :, 0] *= 20
    assert ratio_interval(replace(samples, times_ns=times), "a", "b", ALPHA).value == pytest.approx(1.0, rel=0.02)


def test_drift_that_meets_both_sides_does_not_move_the_ratio() -> None:
    samples = fabricate({"a": 1.0, "b": 2.0})
    drift = np.linspace(1, 3, samples.sets)[None, :, None, None]
    drifted = replace(samples, times_ns=(samples.times_ns * drift).astype(np.int64))
    expected = ratio_interval(samples, "a", "b", ALPHA)
    assert ratio_interval(drifted, "a", "b", ALPHA).high == pytest.approx(expected.high, rel=1e-3)


def speeds(found: list[Measurement]) -> list[Measurement]:
    """All but what was seen before any block was timed."""
    return [one for one in found if one.metric not in ("latency.open_ms", "latency.first_ms")]


def test_blocks_in_which_the_machine_slowed_down_count_for_no_side() -> None:
    samples = disturb(fabricate({"a": 1.0, "b": 1.0}), blocks=4)
    samples.times_ns[0, -1, -4:] *= 100
    found = by_metric(measure_latency(samples, "a", ALPHA, original="b"))
    assert found["latency.ratio"].samples == 10
    assert found["latency.ratio"].value == pytest.approx(1.0, rel=0.02)
    assert found["latency.p50_ms"].samples == 400 - 4 * 4
    assert found["latency.p99_ms"].value == pytest.approx(1.1, abs=0.1)


def test_a_set_of_which_most_was_disturbed_counts_for_no_side() -> None:
    found = by_metric(measure_latency(disturb(fabricate({"a": 1.0, "b": 1.0}), blocks=6), "a", ALPHA, original="b"))
    assert found["latency.ratio"].samples == 9
    assert found["latency.p50_ms"].samples == 9 * 40


@pytest.mark.parametrize(("sets", "concluded"), [(4, True), (5, False)])
def test_nothing_is_concluded_where_more_than_a_fifth_of_the_blocks_was_dropped(sets: int, concluded: bool) -> None:
    samples = disturb(fabricate({"a": 1.0, "b": 1.0}), blocks=5, sets=sets, cause=1)
    found = speeds(measure_latency(samples, "a", 0.05, original="b"))
    bounded = [one for one in found if one.metric != "latency.p99_ms"]
    assert all((one.low is not None and one.high is not None) == concluded for one in bounded)
    why = f"{5 * sets} of 100 blocks were dropped for all sides: the CPU was too hot in {5 * sets}"
    assert all((one.note == why) != concluded for one in bounded)
    assert why in describe_conditions(samples)


def test_where_all_was_disturbed_there_is_no_value_but_that_of_opening() -> None:
    samples = disturb(fabricate({"a": 1.0, "b": 1.0}, sets=2), blocks=10, sets=2)
    found = measure_latency(samples, "a", ALPHA, original="b")
    assert {one.metric for one in found if one.value is not None} == {"latency.open_ms", "latency.first_ms"}


def test_each_reason_why_blocks_were_dropped_is_told_with_its_count() -> None:
    samples = disturb(disturb(fabricate({"a": 1.0, "b": 1.0}), blocks=6), blocks=2, cause=1)
    samples.moves[1, 3, 2] = 1
    assert list(describe_conditions(samples)) == [
        "11 of 100 blocks were dropped for all sides: the CPU quota was spent in 6, the CPU was too hot in 2, "
        "a thread was moved off its core in 1, too little of their set was left in 4"
    ]
    assert list(describe_conditions(fabricate({"a": 1.0}))) == []


def test_a_side_whose_warm_up_did_not_end_by_itself_is_told() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0})
    samples.settled[1, :3] = False
    told = "b was still gaining speed when its warm-up ended, in 3 of 10 sets"
    assert list(describe_conditions(samples)) == [told]


@pytest.mark.parametrize(("sets", "seconds", "told"), [(20, 601.0, True), (20, 599.0, False), (40, 601.0, False)])
def test_where_the_time_was_spent_before_the_last_look_that_is_told(sets: int, seconds: float, told: bool) -> None:
    samples = replace(fabricate({"a": 1.0}, sets=sets), seconds=seconds)
    sentence = f"the 600 s of timing were spent after {sets} of 40 sets; `measure.seconds` allows more"
    assert list(describe_conditions(samples)) == ([sentence] if told else [])


def test_one_side_has_percentiles_throughput_and_its_ratios() -> None:
    samples = replace(fabricate({"original": 8.0, "float": 4.0, "int8": 2.0}), batch=4)
    found = measure_latency(samples, "int8", ALPHA, original="original", float_side="float", raw="samples/x86.npz")
    named = by_metric(found)
    assert named["latency.p50_ms"].value == pytest.approx(2.0, rel=0.02)
    assert named["latency.p90_ms"].value == pytest.approx(2.0 * math.exp(0.05 * 1.2816), rel=0.02)
    assert named["throughput.per_s"].value == pytest.approx(2000, rel=0.02)
    assert named["latency.ratio"].value == pytest.approx(0.25, rel=0.02)
    assert named["latency.ratio_fp32"].value == pytest.approx(0.5, rel=0.02)
    assert named["latency.ratio"].baseline == "digest of original"
    assert named["latency.ratio_fp32"].baseline == "digest of float"
    assert {measurement.subject for measurement in found} == {"digest of int8"}
    assert {measurement.raw for measurement in found} == {"samples/x86.npz"}
    assert {measurement.environment for measurement in found} == {"this machine"}
    for measurement in found:
        assert measurement.confidence == pytest.approx(1 - ALPHA)
        if measurement.high is not None:
            assert measurement.low is not None
            assert measurement.value is not None
            assert measurement.low <= measurement.value <= measurement.high


def share_machine(samples: LatencySamples, waited: dict[str, float]) -> LatencySamples:
    """The same runs, each longer by so many milliseconds in which another process had the core."""
    lost = np.zeros_like(samples.times_ns)
    for side, milliseconds in waited.items():
        lost[samples.sides.index(side)] = int(milliseconds * 1e6)
    return replace(samples, times_ns=samples.times_ns + lost, waited_ns=lost)


def test_a_ratio_leaves_out_waiting_for_a_core_and_what_a_user_would_see_does_not() -> None:
    busy = share_machine(fabricate({"a": 1.0, "b": 1.0}), {"a": 1.0})
    found = by_metric(measure_latency(busy, "a", ALPHA, original="b"))
    assert found["latency.ratio"].value == pytest.approx(1.0, rel=0.02)
    assert found["latency.p50_ms"].value == pytest.approx(2.0, rel=0.02)
    assert found["latency.p50_ms"].low == pytest.approx(2.0, rel=0.05)
    assert found["latency.p90_ms"].low is not None
    assert found["latency.p90_ms"].low > 2.0
    assert found["throughput.per_s"].value == pytest.approx(500, rel=0.02)


@pytest.mark.parametrize("pooled", ["a", "b"])
def test_a_ratio_never_leaves_out_the_waiting_of_one_side_only(pooled: str) -> None:
    busy = share_machine(fabricate({"a": 1.0, "b": 1.0}), {"a": 1.0, "b": 1.0})
    busy.correctable[busy.sides.index(pooled)] = False
    both = ratio_interval(busy, "a", "b", ALPHA)
    assert both.value == pytest.approx(1.0, rel=0.02)
    alone = share_machine(fabricate({"a": 1.0, "b": 1.0}), {"a": 1.0})
    alone.correctable[alone.sides.index(pooled)] = False
    assert ratio_interval(alone, "a", "b", ALPHA).value == pytest.approx(2.0, rel=0.02)


def test_waiting_is_told_with_the_figures_that_hold_it() -> None:
    busy = share_machine(fabricate({"original": 1.0, "int8": 1.0, "float": 1.0}), {"original": 0.25, "int8": 1.0})
    shared = "the machine was shared: waiting for a core took original 20 %, int8 50 % of the time; "
    assert describe_waiting(busy) == shared + "ratios leave that out, percentiles do not"
    busy.correctable[0, :2] = False
    assert describe_waiting(busy) == shared + "ratios leave that out but for those with original, percentiles do not"
    busy.correctable[1] = False
    assert describe_waiting(busy) == shared + "percentiles and ratios hold that"


def test_next_to_no_waiting_is_not_told() -> None:
    assert describe_waiting(share_machine(fabricate({"a": 1.0, "b": 1.0}), {"a": 0.005})) == ""


def test_the_original_has_no_ratio_to_itself() -> None:
    found = measure_latency(fabricate({"original": 8.0}), "original", ALPHA)
    assert not [measurement for measurement in found if "ratio" in measurement.metric]


@pytest.mark.parametrize(
    ("sets", "alpha", "note"),
    [
        (5, 0.05, "200 runs in 5 sets were timed; it takes 299, in 8 sets"),
        (10, ALPHA, "400 runs in 10 sets were timed; it takes 408, in 11 sets"),
        (3, 0.05, "120 runs in 3 sets were timed; it takes 299, in 8 sets"),
        (20, 1e-5, "800 runs in 20 sets were timed; it takes 1146, in 29 sets"),
        (40, 1e-9, "1600 runs in 40 sets were timed; it takes 2062, in 52 sets, and 40 is the most that are timed"),
    ],
)
def test_a_99th_percentile_without_enough_runs_has_no_upper_bound_and_says_how_many_it_takes(
    sets: int, alpha: float, note: str
) -> None:
    samples = fabricate({"a": 1.0}, sets=sets)
    alternating = np.where(np.arange(4) % 2, 1_000_000, 1_100_000)
    samples.times_ns[:] = alternating
    found = by_metric(measure_latency(samples, "a", alpha))["latency.p99_ms"]
    assert found.value is not None
    assert found.high is None
    assert found.note == note


@pytest.mark.parametrize(("sets", "bounded"), [(10, False), (20, True), (40, True)])
def test_a_99th_percentile_is_bounded_at_the_second_look_of_the_default_protocol(sets: int, bounded: bool) -> None:
    samples = fabricate({"a": 1.0}, sets=sets)
    samples.times_ns[:] = np.where(np.arange(4) % 2, 1_000_000, 1_100_000)
    found = by_metric(measure_latency(samples, "a", samples.protocol.alpha(0.95)))["latency.p99_ms"]
    assert (found.high is not None) == bounded


def in_bursts(sets: int, runs: int, seed: int = 0) -> LatencySamples:
    """Samples of a machine that is slow for so many runs at a time."""
    random = np.random.default_rng(seed)
    bursts = np.repeat(random.lognormal(0.0, 0.3, (sets, 40 // runs)), runs, axis=1)
    return samples_of((1e6 * bursts).astype(np.int64).reshape(1, sets, 10, 4), ("a",), protocol=Protocol())


def test_runs_that_resemble_the_one_before_count_for_fewer() -> None:
    samples = in_bursts(20, runs=8)
    found = by_metric(measure_latency(samples, "a", ALPHA))
    assert found["latency.p99_ms"].high is None
    worth = re.fullmatch(
        r"800 runs in 20 sets were timed, worth (\d+) independent ones; it takes 408, in (\d+) sets, and 40 .*",
        found["latency.p99_ms"].note,
    )
    assert worth is not None
    assert 20 < int(worth[1]) < 160
    assert int(worth[2]) == pytest.approx(20 * 408 / int(worth[1]), abs=1)
    assert found["latency.p90_ms"].high is not None
    shuffled = replace(samples, times_ns=np.random.default_rng(1).permutation(samples.times_ns.ravel()).reshape(
        samples.times_ns.shape))  # fmt: skip
    alone = by_metric(measure_latency(shuffled, "a", ALPHA))
    assert alone["latency.p99_ms"].high is not None
    assert alone["latency.p90_ms"].high is not None
    assert alone["latency.p90_ms"].high < found["latency.p90_ms"].high


def test_opening_and_the_first_run_are_told_with_the_order_statistics_of_fresh_processes() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0})
    samples.figures[0, :, 0] = np.arange(10, 110, 10) * 1_000_000
    samples.figures[0, :, 1] = 7_000_000
    found = by_metric(measure_latency(samples, "a", 0.05, raw="samples/x86.npz"))
    opened, first = found["latency.open_ms"], found["latency.first_ms"]
    assert (opened.low, opened.value, opened.high) == (20.0, 55.0, 90.0)
    assert (first.low, first.value, first.high) == (7.0, 7.0, 7.0)
    assert (opened.unit, opened.samples, opened.confidence, opened.raw) == ("ms", 10, 0.95, "samples/x86.npz")


def test_too_few_fresh_processes_bound_no_cold_start() -> None:
    opened = by_metric(measure_latency(fabricate({"a": 1.0}, sets=4), "a", 0.05))["latency.open_ms"]
    assert opened.value is not None
    assert opened.low is None
    assert opened.high is None
    assert opened.note == "4 fresh processes were opened, 5 are needed"


def test_looks_and_candidates_share_the_permitted_error() -> None:
    assert Protocol().alpha(0.95) == pytest.approx(0.05 / 3)
    assert Protocol(looks=(10,)).alpha(0.9, candidates=2) == pytest.approx(0.05)


@given(st.floats(0.3, 3.0), st.integers(8, 20))
def test_bounds_scale_with_the_times(scale: float, sets: int) -> None:
    times = np.random.default_rng(3).lognormal(size=(sets, 40))
    plain, scaled = (percentile_bounds(list(one), 0.9, ALPHA) for one in (times, times * scale))
    assert scaled == pytest.approx(tuple(bound and bound * scale for bound in plain))


def test_where_processes_differ_as_much_as_runs_the_bound_of_processes_is_given() -> None:
    apart = np.arange(1.0, 11.0)[:, None] + np.tile([-3.0, 0.0, 0.0, 3.0], 10)
    assert percentile_bounds(list(apart), 0.5, ALPHA) == (2.0, 9.0)


def test_where_runs_of_a_process_are_all_alike_they_bound_no_percentile() -> None:
    assert percentile_bounds(list(np.repeat(np.arange(1.0, 11.0)[:, None], 40, axis=1)), 0.5, ALPHA) == (None, None)


def test_where_runs_differ_and_processes_do_not_the_bound_of_runs_is_given() -> None:
    alike = np.tile(np.arange(40.0), (10, 1))
    low, high = percentile_bounds(list(alike), 0.5, ALPHA)
    assert low is not None
    assert high is not None
    assert low < np.quantile(alike[0], 0.5) < high


def cover(
    noise: float, process: float, quantile: float, truth: float, correlation: float = 0.0, rounds: int = 400
) -> float:
    """How often the upper bound of a percentile, from 10 sets of 40 runs, is not below the truth, or there is none."""
    random, missed = np.random.default_rng(5), 0
    for _ in range(rounds):
        process_effects = process * random.standard_normal((10, 1))
        runs = random.standard_normal((10, 40))
        for at in range(1, 40):
            runs[:, at] = correlation * runs[:, at - 1] + math.sqrt(1 - correlation**2) * runs[:, at]
        times: NDArray[np.float64] = np.exp(noise * runs + process_effects)
        high = percentile_bounds(list(times), quantile, ALPHA)[1]
        missed += high is not None and high < truth
    return 1 - missed / rounds


NORMAL = {0.5: 0.0, 0.9: 1.2815516}


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize(("noise", "process"), [(0.1, 0.0), (0.1, 0.03), (0.05, 0.05), (0.02, 0.1)])
def test_the_upper_bound_covers_the_percentile_of_the_typical_process(
    noise: float, process: float, quantile: float
) -> None:
    assert cover(noise, process, quantile, math.exp(noise * NORMAL[quantile])) >= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_the_upper_bound_covers_the_percentile_of_runs_that_resemble_one_another(
    correlation: float, quantile: float
) -> None:
    assert cover(0.1, 0.0, quantile, math.exp(0.1 * NORMAL[quantile]), correlation) >= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("process", [0.0, 0.03])
def test_the_upper_bound_covers_the_percentile_of_all_processes_where_they_differ_less_than_runs(
    process: float,
) -> None:
    assert cover(0.1, process, 0.9, math.exp(math.hypot(0.1, process) * NORMAL[0.9])) >= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("sets", [10, 20, 40])
@pytest.mark.parametrize("process", [0.0, 0.1])
def test_the_interval_of_a_ratio_covers_it_as_often_as_it_says(sets: int, process: float) -> None:
    missed = 0
    for seed in range(400):
        ratio = ratio_interval(fabricate({"a": 1.0, "b": 2.0}, sets=sets, seed=seed, process=process), "a", "b", 0.05)
        assert ratio.low is not None
        assert ratio.high is not None
        missed += not ratio.low <= 0.5 <= ratio.high
    assert missed / 400 <= 0.07
    assert missed > 0


@pytest.mark.slow
def test_all_looks_together_pass_a_side_at_its_budget_no_more_often_than_they_may() -> None:
    passed = failed = 0
    for seed in range(400):
        samples = fabricate({"a": 1.0, "b": 2.0}, sets=40, seed=seed, noise=0.2, process=0.05)
        alpha = samples.protocol.alpha(0.95)
        for look in samples.protocol.looks:
            ratio = ratio_interval(samples.first_sets(look), "a", "b", alpha)
            assert ratio.low is not None
            assert ratio.high is not None
            if ratio.high <= 0.5 or ratio.low > 0.5:
                passed, failed = passed + (ratio.high <= 0.5), failed + (ratio.low > 0.5)
                break
    assert passed / 400 <= 0.045
    assert failed / 400 <= 0.045
    assert passed + failed > 0


def test_the_clock_of_a_device_is_told_apart_from_that_of_the_host() -> None:
    times = np.full((2, 10, 4, 3), 5_000_000)
    device = np.full((2, 10, 3), -1)
    device[1] = 2_000_000
    samples = samples_of(times, ("host", "gpu"), device_ns=device)
    found = {side: {one.metric: one for one in measure_latency(samples, side, 0.05)} for side in ("host", "gpu")}
    assert "latency.device_ms" not in found["host"]
    assert (found["gpu"]["latency.device_ms"].value, found["gpu"]["latency.p50_ms"].value) == (2.0, 5.0)
    assert found["gpu"]["latency.device_ms"].samples == 30
