from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scripted_backend import script

from edgeopt.validation import Measurement, conditions, sustained
from edgeopt.validation.conditions import Slowdowns
from edgeopt.validation.latency_samples import Protocol
from edgeopt.validation.sustained import SustainedSamples, describe_sustained, measure_sustained, run_sustained
from edgeopt.validation.timing import SideError

INPUTS = [{"image": np.full((2, 1, 2, 2), index, np.float32)} for index in range(3)]


def fabricate(medians_ms: NDArray[np.float64], **changes: Any) -> SustainedSamples:
    """The run of one side with these medians, window by window, on a machine that does not tell its heat."""
    windows = len(medians_ms)
    values: dict[str, Any] = {
        "sides": ("int8",),
        "digests": ("digest of int8",),
        "side": np.zeros(windows, np.int64),
        "began_s": np.arange(windows) * 1.0,
        "runs": np.full(windows, 100),
        "median_ns": 1e6 * medians_ms,
        "p90_ns": 1.1e6 * medians_ms,
        "net_median_ns": 1e6 * medians_ms,
        "correctable": np.ones(windows, np.bool_),
        "temperature_c": np.full(windows, math.nan),
        "frequency_mhz": np.full(windows, math.nan),
        "slowed": np.zeros((windows, 2), np.int64),
        "threads": 1,
        "cores": (1,),
        "batch": 1,
        "seconds": float(windows),
        "environment": "this machine",
    }
    return SustainedSamples(**values | changes)


def drifting(factor: float, windows: int = 60, seed: int = 0) -> NDArray[np.float64]:
    """Window medians that grow to `factor` times what they were, with a noise of 1 %."""
    noise = np.random.default_rng(seed).standard_normal(windows)
    return np.linspace(1.0, factor, windows) * np.exp(0.01 * noise)


def drift(samples: SustainedSamples, alpha: float = 0.05) -> Measurement:
    (found,) = measure_sustained(samples, "int8", alpha, raw="samples/x86/sustained.npz")
    return found


def test_a_side_that_grows_slower_has_a_drift_above_1() -> None:
    found = drift(fabricate(drifting(1.5)))
    assert found.value == pytest.approx(1.45 / 1.05, rel=0.02)
    assert found.low is not None
    assert found.high is not None
    assert 1.25 < found.low < found.value < found.high < 1.5
    assert (found.metric, found.unit, found.samples) == ("latency.drift_ratio", "1", 60)
    assert (found.subject, found.raw) == ("digest of int8", "samples/x86/sustained.npz")
    assert (found.confidence, found.note) == (0.95, "")


@pytest.mark.slow
def test_the_interval_of_a_steady_side_holds_1_as_often_as_it_says() -> None:
    bounds = [drift(fabricate(drifting(1.0, seed=seed)), 0.2) for seed in range(400)]
    held = sum(one.low <= 1.0 <= one.high for one in bounds if one.low is not None and one.high is not None)
    assert 0.8 <= held / 400 < 1.0


@pytest.mark.parametrize(("windows", "bounded"), [(4, False), (34, False), (35, True)])
def test_too_few_windows_bound_no_drift_and_say_how_many_it_takes(windows: int, bounded: bool) -> None:
    found = drift(fabricate(drifting(1.1, windows)))
    assert (found.value is not None) == (windows >= 5)
    assert (found.high is not None) == bounded
    assert (found.note == f"{windows} windows of about a second were timed, 35 are needed") != bounded


def test_waiting_for_a_core_is_no_drift_where_it_can_be_told() -> None:
    steady = drifting(1.0)
    busy = fabricate(steady, median_ns=1e6 * drifting(2.0))
    assert drift(busy).value == pytest.approx(1.0, rel=0.02)
    pooled = replace(busy, correctable=np.zeros(60, np.bool_))
    assert drift(pooled).value == pytest.approx(1.9 / 1.1, rel=0.03)


def test_heat_and_a_falling_frequency_are_told() -> None:
    slowed = np.zeros((60, 2), np.int64)
    slowed[40:, Slowdowns._fields.index("heat")] = 3
    slowed[:2, Slowdowns._fields.index("quota")] = 1
    hot = fabricate(
        drifting(1.3), slowed=slowed, frequency_mhz=np.linspace(3000, 2000, 60), temperature_c=np.linspace(40, 90, 60)
    )
    assert drift(hot).note == (
        "the CPU was too hot in 20 of 60 windows, its frequency fell from 2,907 to 2,093 MHz, "
        "the machine was at 45 °C at first and at 85 °C at last, the CPU quota was spent in 2 of 60 windows"
    )
    warm = fabricate(drifting(1.0), frequency_mhz=np.full(60, 3000.0), temperature_c=np.linspace(40, 90, 60))
    assert drift(warm).note == ""


def test_each_long_run_is_told_in_a_sentence() -> None:
    steady = fabricate(np.ones(120))
    short = replace(fabricate(np.array([1.0, 1.0, 1.0, 1.0, 1.5])), sides=("fp32",))
    assert list(describe_sustained(steady.extend(short), 0.05)) == [
        "int8 ran for 2 min: at last a run took 1.00 [1.00, 1.00] times its first time",
        "fp32 ran for 0.083 min: at last a run took 1.50 times its first time; "
        "5 windows of about a second were timed, 35 are needed",
    ]


@given(st.integers(1, 12), st.integers(1, 12))
def test_samples_of_several_sides_survive_their_file_and_are_told_apart(first: int, second: int) -> None:
    one = fabricate(np.arange(first) + 1.0)
    other = replace(fabricate(np.arange(second) + 9.0), sides=("fp32",), digests=("digest of fp32",))
    both = SustainedSamples.from_npz(one.extend(other).to_npz())
    assert both.to_npz() == one.extend(other).to_npz()
    assert both.sides == ("int8", "fp32")
    assert both.seconds == first + second
    for alone in (one, other):
        found = both.of(alone.sides[0])
        for name in (field.name for field in fields(alone) if field.name != "seconds"):
            value = getattr(alone, name)
            assert np.array_equal(getattr(found, name), value, equal_nan=name.startswith(("temp", "freq"))), name


def test_samples_that_were_not_taken_alike_are_never_joined() -> None:
    one = fabricate(drifting(1.0))
    with pytest.raises(ValueError, match="`int8` is in both"):
        one.extend(one)
    for change in ({"threads": 2}, {"cores": ()}, {"batch": 4}, {"environment": "another machine"}):
        with pytest.raises(ValueError, match=next(iter(change))):
            one.extend(replace(one, sides=("fp32",), **change))  # type: ignore[arg-type]


@pytest.mark.usefixtures("scripted")
def test_a_side_runs_for_as_long_as_asked_window_by_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sustained, "WINDOW_SECONDS", 0.1)
    monkeypatch.setattr(conditions, "hottest_c", lambda: 61.5)
    told: list[tuple[str, float | None]] = []
    artifact = script(sleep_microseconds=2000)
    samples = run_sustained(
        "int8", artifact, INPUTS, Protocol(), 0.6, tmp_path / "lock",
        progress=lambda text, fraction: told.append((text, fraction)),
    )  # fmt: skip
    windows = len(samples.runs)
    assert windows == pytest.approx(6, abs=2)
    assert (samples.digests, samples.batch) == ((artifact.digest(),), 2)
    assert samples.median_ns.min() >= 2_000_000
    assert np.all(samples.median_ns <= samples.p90_ns)
    assert samples.runs.sum() > 6
    assert np.all(np.diff(samples.began_s) >= 0.1)
    assert samples.temperature_c.tolist() == [61.5] * windows
    assert samples.slowed.shape == (windows, 2)
    assert SustainedSamples.from_npz(samples.to_npz()).to_npz() == samples.to_npz()
    assert {text for text, _ in told} == {"int8 runs for 0.01 min"}
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize("fault", [{"refuse": True}, {"crash_at": 80}])
def test_a_side_that_cannot_go_on_is_named(fault: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SideError, match="`int8` could not be timed") as caught:
        run_sustained("int8", script(sleep_microseconds=1000, **fault), INPUTS, Protocol(), 30, tmp_path / "lock")
    assert caught.value.side == "int8"
