"""Energy per inference: on a machine whose counter this test advances by what its processes really worked."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_backend import script

from edgeopt import gates, registry
from edgeopt.counters import Reading
from edgeopt.counters.rapl import Rapl
from edgeopt.errors import MissingError
from edgeopt.recipe.budgets import Budgets
from edgeopt.validation import Measurement
from edgeopt.validation.energy import (
    describe_energy,
    explain_absence,
    find_counter,
    measure_energy,
    run_energy,
    unmeasured_energy,
)
from edgeopt.validation.energy_samples import EnergyProtocol, EnergySamples
from edgeopt.validation.timing import SideError

INPUTS = [{"image": np.full((2, 1, 2, 2), index, np.float32)} for index in range(3)]
QUICK = EnergyProtocol(sets=3, idle_seconds=0.15, busy_seconds=0.3, settle_seconds=0.05)
#: three sets bound a median at 80 % confidence
UNSURE = 0.2

IDLE_WATTS, CORE_WATTS = 3.0, 10.0
RANGE_UJ = 20_000_000  # small, so that it starts anew in between


class Package(Rapl):
    """A CPU package: some power all the time, and more for each second of a core that a child of this process works.

    Its file is brought up to date when it is read, as the kernel does.
    """

    def __init__(self, root: Path) -> None:
        self._zone, self._began, self._worked_ns = root / "intel-rapl:0", time.monotonic(), dict[str, int]()
        self._zone.mkdir(parents=True)
        (self._zone / "name").write_text("package-0\n")
        (self._zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        super().__init__(root)

    def read(self) -> Reading:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    # The clock of a process's CPU time, as clock_getcpuclockid(3) numbers it.
                    self._worked_ns[process.name] = time.clock_gettime_ns((~int(process.name) << 3) | 2)
        worked_s = sum(self._worked_ns.values()) / 1e9
        joules = IDLE_WATTS * (time.monotonic() - self._began) + CORE_WATTS * worked_s
        (self._zone / "energy_uj").write_text(f"{int(joules * 1e6) % RANGE_UJ}\n")
        return super().read()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells how long another process worked")
    return Package(tmp_path / "powercap")


@pytest.mark.usefixtures("scripted")
def test_the_energy_of_a_run_is_what_it_took_beyond_idle(package: Package, tmp_path: Path) -> None:
    sides = {"slow": script(microseconds=4000), "fast": script(microseconds=1000)}
    told: list[str] = []
    samples = run_energy(
        sides, INPUTS, package, QUICK, tmp_path / "lock", progress=lambda text, fraction: told.append(text)
    )
    assert samples.runs.shape == (2, 3)
    assert samples.busy.shape == (2, 3, 2)
    assert samples.idle.shape == (3, 3, 2)
    assert samples.digests == tuple(artifact.digest() for artifact in sides.values())
    assert (samples.batch, samples.sets, told[0]) == (2, 3, "energy: set 1 of 3")
    assert samples.busy[..., 1].min() >= 0.3
    assert np.array_equal(np.sort(samples.order, axis=1), np.broadcast_to([0, 1], (3, 2)))
    slow, fast = (measure_energy(samples, side, UNSURE) for side in ("slow", "fast"))
    # 4 ms and 1 ms of a core that takes 10 W; with what idles these would be 12 mJ and 3 mJ more.
    assert slow.value == pytest.approx(40, rel=0.15)
    assert fast.value == pytest.approx(10, rel=0.25)
    assert fast.low is not None
    assert slow.low is not None
    assert fast.high is not None
    assert 0 < fast.low <= fast.high < slow.low
    assert "CPU packages" in describe_energy(samples)
    assert equal(EnergySamples.from_npz(samples.to_npz()), samples)


@pytest.mark.usefixtures("scripted")
def test_work_that_the_counter_does_not_see_meets_no_budget(tmp_path: Path) -> None:
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, content in (("name", "package-0"), ("energy_uj", 7), ("max_energy_range_uj", RANGE_UJ)):
        (zone / name).write_text(f"{content}\n")
    blind = Rapl(tmp_path / "powercap")  # of another machine, say
    quick = replace(QUICK, busy_seconds=0.01, idle_seconds=0.01, settle_seconds=0.0)
    samples = run_energy({"ours": script()}, INPUTS, blind, quick, tmp_path / "lock")
    found = measure_energy(samples, "ours", UNSURE)
    assert (found.value, found.low, found.high) == (0, 0, None)
    verdict = judge(found, confidence=1 - UNSURE)
    assert verdict.verdict == "inconclusive"
    assert verdict.sentence.endswith("is not decided, the counter does not tell the runs from an idle machine")


@pytest.mark.usefixtures("scripted")
@pytest.mark.parametrize(("fault", "why"), [({"refuse": True}, "the script says no"), ({"crash_at": 60}, "SIGABRT")])
def test_a_side_that_fails_is_named(fault: dict[str, object], why: str, package: Package, tmp_path: Path) -> None:
    sides = {"good": script(), "x86/int8": script(**fault)}
    with pytest.raises(SideError, match=why) as caught:
        run_energy(sides, INPUTS, package, QUICK, tmp_path / "lock")
    assert caught.value.side == "x86/int8"


@pytest.mark.usefixtures("scripted")
def test_a_counter_that_goes_away_is_an_error_and_no_figure(tmp_path: Path) -> None:
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    with pytest.raises(MissingError, match="energy_uj"):
        run_energy({"ours": script()}, INPUTS, Rapl(tmp_path / "powercap"), QUICK, tmp_path / "lock")


# arithmetic


def fabricate(millijoules: list[list[float]], *, idle_watts: float = 5.0, drift: float = 0.0) -> EnergySamples:
    """Samples in which an inference took what is listed, by side and set; the idle power grows by `drift` W a second.

    Busy windows last 2 s and hold 100 runs, idle ones 1 s, without a pause between them.
    """
    values = np.array(millijoules)
    sides, sets = values.shape
    order = np.array([np.random.default_rng(number).permutation(sides) for number in range(sets)])
    busy, idle = np.full((sides, sets, 2), 2.0), np.full((sets, sides + 1, 2), 1.0)
    for number in range(sets):
        for turn in range(sides + 1):
            began = 3.0 * turn
            idle[number, turn, 0] = idle_watts + drift * (began + 0.5)
            if turn < sides:
                side = order[number, turn]
                busy[side, number, 0] = 100 * values[side, number] / 1e3 + 2 * (idle_watts + drift * (began + 2.0))
    names = tuple(f"side {index}" for index in range(sides))
    return EnergySamples(
        sides=names,
        digests=tuple(name * 8 for name in names),
        runs=np.full((sides, sets), 100),
        busy=busy,
        idle=idle,
        order=order,
        protocol=EnergyProtocol(sets=sets),
        what="the package",
        cores=(1,),
        batch=1,
        seconds=1.5,
        environment="machine",
    )


def equal(one: EnergySamples, other: EnergySamples) -> bool:
    names = [field.name for field in fields(one)]
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def judge(found: Measurement, max_mj: float = 5.0, confidence: float = 0.95) -> gates.Verdict:
    budgets = Budgets.model_validate({"energy": {"max_mj": max_mj, "confidence": confidence}})
    return next(one for one in gates.judge(budgets, [found]) if one.budget == "energy.max_mj")


@given(
    st.integers(1, 4).flatmap(
        lambda sides: st.lists(st.lists(st.floats(-50, 500), min_size=6, max_size=6), min_size=sides, max_size=sides)
    ),
    st.floats(0, 300),
    st.floats(-1, 1),
)
def test_idle_power_is_subtracted_even_where_it_drifts(
    millijoules: list[list[float]], idle_watts: float, drift: float
) -> None:
    samples = fabricate(millijoules, idle_watts=idle_watts, drift=drift)
    for side, expected in zip(samples.sides, millijoules, strict=True):
        assert samples.millijoules_of(side) == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 12))
def test_samples_survive_their_file(sets: int) -> None:
    samples = fabricate([[float(number) for number in range(sets)]] * 2)
    assert equal(EnergySamples.from_npz(samples.to_npz()), samples)
    assert samples.to_npz() == EnergySamples.from_npz(samples.to_npz()).to_npz()


def test_the_value_is_the_median_between_bounds_by_order_statistics() -> None:
    samples = fabricate([[4.0, 9.0, 1.0, 3.0, 2.0, 8.0, 5.0, 6.0, 7.0, 10.0]])
    found = measure_energy(samples, "side 0", 0.05, raw="samples/energy.npz")
    # Of ten values, P(at most 1 below the median) is 1.1 % and P(at most 2) is 5.5 %.
    assert (found.low, found.value, found.high) == pytest.approx((2.0, 5.5, 9.0))
    assert (found.metric, found.unit, found.samples, found.confidence) == ("energy.mj", "mJ", 10, 0.95)
    assert (found.subject, found.raw, found.environment) == ("side 0" * 8, "samples/energy.npz", "machine")
    assert not found.note
    assert measure_energy(samples, "side 0", 0.05, simulated=True).simulated


@pytest.mark.parametrize(
    ("confidence", "candidates"),
    [(0.95, 1), (0.95, 8), (0.99, 1)],
)
def test_the_sets_of_a_measurement_are_enough_for_a_verdict(confidence: float, candidates: int) -> None:
    sets = EnergyProtocol().sets
    found = measure_energy(fabricate([[3.0] * sets]), "side 0", (1 - confidence) / candidates)
    assert judge(found, confidence=confidence).verdict == "pass"


def test_too_few_sets_decide_nothing_and_say_how_many_it_takes() -> None:
    found = measure_energy(fabricate([[3.0] * 4]), "side 0", 0.05)
    assert (found.low, found.high) == (None, None)
    assert judge(found).verdict == "inconclusive"
    assert "4 sets of workers were measured, 5 are needed" in judge(found).sentence


@pytest.mark.parametrize(
    ("millijoules", "outcome"),
    [
        ([4.0, 4.2, 4.1, 4.3, 4.0, 4.4, 4.2, 4.1], "pass"),
        ([4.0, 4.2, 9.0, 4.3, 9.0, 9.4, 4.2, 9.1], "inconclusive"),
        ([8.0, 8.2, 8.1, 8.3, 8.0, 8.4, 8.2, 8.1], "fail"),
        ([-1.0, -2.0, -1.5, -1.0, -2.0, -1.2, -1.4, -1.6], "inconclusive"),
        ([-0.4, 0.5, -0.3, 0.2, 0.1, -0.6, 0.4, 0.3], "inconclusive"),
    ],
)
def test_a_budget_is_judged_by_the_bound_and_noise_around_zero_never_passes(
    millijoules: list[float], outcome: str
) -> None:
    found = measure_energy(fabricate([millijoules]), "side 0", 0.05)
    assert found.value == pytest.approx(float(np.median(millijoules)))
    assert judge(found).verdict == outcome


@pytest.mark.parametrize(("name", "number"), [("busy", np.nan), ("busy", np.inf), ("idle", np.nan), ("runs", 0)])
def test_samples_that_are_no_numbers_are_no_measurement(name: str, number: float) -> None:
    samples = fabricate([[3.0] * 10])
    getattr(samples, name)[0, 1] = number
    found = measure_energy(samples, "side 0", 0.05, raw="samples/energy.npz")
    assert (found.value, found.low, found.high, found.raw) == (None, None, None, "samples/energy.npz")
    assert judge(found).verdict == "unmeasured"


def test_a_budget_is_judged_at_its_own_confidence() -> None:
    found = measure_energy(fabricate([[3.0] * 10]), "side 0", 0.05)
    assert judge(found, confidence=0.95).verdict == "pass"
    assert judge(found, confidence=0.99).verdict == "inconclusive"
    assert "the budget asks for 99 % confidence" in judge(found, confidence=0.99).sentence


def test_what_nothing_could_measure_is_unmeasured_and_says_why() -> None:
    found = unmeasured_energy("no counter", "digest")
    assert (found.metric, found.value, found.subject) == ("energy.mj", None, "digest")
    assert judge(found).verdict == "unmeasured"
    assert judge(found).sentence == "energy was not measured: no counter"


# which counter

METERS = """
from pathlib import Path
from edgeopt.counters import EnergyCounter, Reading

class Meter(EnergyCounter):
    covers = frozenset({"cpu"})
    what = flag = "bench"
    def why(self):
        return "" if Path(__file__).with_name(self.flag).exists() else "it is not plugged in"
    def read(self):
        return Reading(0.0, 0.0)

class Wall(Meter):
    covers = frozenset({"cpu", "gpu"})
    what = flag = "socket"
"""


@pytest.fixture
def meters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A third party's counters, installed as distributions are; files `bench` and `socket` beside them plug them in."""
    (tmp_path / "acme_meters.py").write_text(METERS)
    metadata = tmp_path / "acme_meters-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-meters\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[edgeopt.counters]\nmeter = acme_meters:Meter\nwall = acme_meters:Wall\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()
    sys.modules.pop("acme_meters", None)


def forget() -> None:
    importlib.invalidate_caches()
    registry.names.cache_clear()
    registry._entry_points.cache_clear()


def test_a_counter_that_holds_more_than_the_processor_is_preferred(meters: Path) -> None:
    (meters / "bench").touch()
    (meters / "socket").touch()
    for processor in ("cpu", "gpu"):
        found = find_counter(processor)
        assert found is not None
        assert found.covers == {"cpu", "gpu"}


def test_a_counter_of_another_processor_is_not_taken(meters: Path) -> None:
    (meters / "bench").touch()
    for processor, expected in (("cpu", {"cpu"}), ("gpu", set())):
        found = find_counter(processor)
        assert processor in found.covers if found else not expected


def test_where_no_counter_is_each_says_why(meters: Path) -> None:
    assert "meter: it is not plugged in" in explain_absence()
    assert "rapl: " in explain_absence()
    assert "nvml: " not in explain_absence(), "a GPU's counter does not see what a CPU takes"
    assert "meter: " not in explain_absence("gpu")
    assert "nvml: " in explain_absence("gpu")
