from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeopt.validation import Measurement
from edgeopt.validation.latency import describe_waiting, measure_latency, percentile_bounds, ratio_interval
from edgeopt.validation.latency_samples import LatencySamples, Protocol

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
    return LatencySamples(
        sides=tuple(milliseconds),
        digests=tuple(f"digest of {side}" for side in milliseconds),
        times_ns=(1e6 * base * np.exp(logs)).astype(np.int64),
        order=np.zeros((sets, protocol.blocks, len(milliseconds)), np.int64),
        waited_ns=np.zeros(shape, np.int64),
        correctable=np.ones(shape[:3], np.bool_),
        figures=np.ones((*shape[:2], 3), np.int64),
        throttled=np.zeros(sets, np.bool_),
        protocol=protocol,
        cores=(1,),
        batch=1,
        seconds=1.0,
        environment="this machine",
    )


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


def test_a_throttled_set_counts_for_no_side() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0})
    times, throttled = samples.times_ns.copy(), samples.throttled.copy()
    times[0, 4] *= 100
    throttled[4] = True
    found = by_metric(measure_latency(replace(samples, times_ns=times, throttled=throttled), "a", ALPHA, original="b"))
    assert found["latency.ratio"].samples == 9
    assert found["latency.p50_ms"].samples == 9 * 40
    assert found["latency.p99_ms"].value == pytest.approx(1.1, abs=0.1)


def test_nothing_is_concluded_where_a_quarter_was_throttled() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0}, sets=12)
    throttled = np.arange(12) < 3
    found = measure_latency(replace(samples, throttled=throttled), "a", ALPHA, original="b")
    assert all(measurement.low is None and measurement.high is None for measurement in found)
    assert all("held the processes back in 3 of 12 sets" in measurement.note for measurement in found)


def test_where_all_was_throttled_there_is_no_value() -> None:
    samples = fabricate({"a": 1.0, "b": 1.0}, sets=2)
    found = measure_latency(replace(samples, throttled=np.ones(2, np.bool_)), "a", ALPHA, original="b")
    assert {measurement.value for measurement in found} == {None}


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
    for measurement in found[:-2]:
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


def test_a_99th_percentile_without_enough_runs_has_no_upper_bound_and_says_how_many_it_takes() -> None:
    found = by_metric(measure_latency(fabricate({"a": 1.0}, sets=5), "a", 0.05))["latency.p99_ms"]
    assert found.value is not None
    assert found.high is None
    assert "200 runs in 5 sets were timed, 299 in 5 are needed" in found.note


def test_looks_and_candidates_share_the_permitted_error() -> None:
    assert Protocol().alpha(0.95) == pytest.approx(0.05 / 3)
    assert Protocol(looks=(10,)).alpha(0.9, candidates=2) == pytest.approx(0.05)


@given(st.floats(0.3, 3.0), st.integers(8, 20))
def test_bounds_scale_with_the_times(scale: float, sets: int) -> None:
    times = np.random.default_rng(3).lognormal(size=(sets, 40))
    plain, scaled = percentile_bounds(times, 0.9, ALPHA), percentile_bounds(times * scale, 0.9, ALPHA)
    assert scaled == pytest.approx(tuple(bound and bound * scale for bound in plain))


def test_where_processes_differ_more_than_runs_the_bound_of_processes_is_given() -> None:
    apart = np.repeat(np.arange(1.0, 11.0)[:, None], 40, axis=1)
    assert percentile_bounds(apart, 0.5, ALPHA) == (2.0, 9.0)


def test_where_runs_differ_and_processes_do_not_the_bound_of_runs_is_given() -> None:
    alike = np.tile(np.arange(40.0), (10, 1))
    low, high = percentile_bounds(alike, 0.5, ALPHA)
    assert low is not None
    assert high is not None
    assert low < np.quantile(alike[0], 0.5) < high


def cover(noise: float, process: float, quantile: float, truth: float, rounds: int = 400) -> float:
    """How often the upper bound of a percentile, from 10 sets of 40 runs, lies at or above the truth."""
    random, covered = np.random.default_rng(5), 0
    for _ in range(rounds):
        process_effects = process * random.standard_normal((10, 1))
        times: NDArray[np.float64] = np.exp(noise * random.standard_normal((10, 40)) + process_effects)
        high = percentile_bounds(times, quantile, ALPHA)[1]
        covered += high is not None and high >= truth
    return covered / rounds


NORMAL = {0.5: 0.0, 0.9: 1.2815516}


@pytest.mark.slow
@pytest.mark.parametrize("quantile", [0.5, 0.9])
@pytest.mark.parametrize(("noise", "process"), [(0.1, 0.0), (0.1, 0.03), (0.05, 0.05), (0.02, 0.1)])
def test_the_upper_bound_covers_the_percentile_of_the_typical_process(
    noise: float, process: float, quantile: float
) -> None:
    assert cover(noise, process, quantile, math.exp(noise * NORMAL[quantile])) >= 0.975


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
            seen = replace(samples, times_ns=samples.times_ns[:, :look], waited_ns=samples.waited_ns[:, :look],
                           correctable=samples.correctable[:, :look], throttled=samples.throttled[:look])  # fmt: skip
            ratio = ratio_interval(seen, "a", "b", alpha)
            assert ratio.low is not None
            assert ratio.high is not None
            if ratio.high <= 0.5 or ratio.low > 0.5:
                passed, failed = passed + (ratio.high <= 0.5), failed + (ratio.low > 0.5)
                break
    assert passed / 400 <= 0.045
    assert failed / 400 <= 0.045
    assert passed + failed > 0
