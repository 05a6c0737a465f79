from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeopt.validation import conditions
from edgeopt.validation.conditions import (
    Place,
    Slowdowns,
    SlowedSeconds,
    frequency_mhz,
    hottest_c,
    place,
    seconds_slowed,
    slowdowns,
    strength,
)

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of a machine that has nothing but what is written."""
    places = {
        "OWN_GROUPS": "cgroup", "OWN_THREAD": "thread", "CONTROL_GROUPS": "groups", "CORES": "cpu", "ZONES": "thermal",
    }  # fmt: skip
    for name, folder in places.items():
        monkeypatch.setattr(conditions, name, tmp_path / folder)
    monkeypatch.setattr(conditions, "usable_cores", lambda: (0, 1, 2))

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


def test_this_machine_can_be_read() -> None:
    assert min(slowdowns(())) >= 0
    assert place().core in range(10_000)
    assert math.isnan(hottest_c()) or -50 < hottest_c() < 200
    assert math.isnan(frequency_mhz(())) or frequency_mhz(()) > 0


@pytest.mark.usefixtures("write")
def test_a_machine_that_tells_nothing_counts_nothing() -> None:
    assert slowdowns(()) == slowdowns((1,)) == Slowdowns(0, 0)
    assert place() == Place(0, 0)
    assert strength(1) == 0
    assert math.isnan(hottest_c())
    assert math.isnan(frequency_mhz(()))


def test_throttling_is_counted_in_the_own_group_and_all_above(write: Write) -> None:
    counts = {"system/ours": 5, "system": 2, "others": 40, "cpu/jobs/one": 7, "cpu": 1, "memory/jobs/one": 90}
    for folder, count in counts.items():
        write(f"groups/{folder}/cpu.stat", f"nr_periods 99\nnr_throttled {count}\nthrottled_usec 3\n")
    write("cgroup", "0::/system/ours\n")
    assert slowdowns(()).quota == 7
    write("cgroup", "4:memory:/jobs/one\n3:cpu,cpuacct:/jobs/one\n0::/nowhere\n")
    assert slowdowns(()).quota == 8


def test_heat_is_counted_for_the_cores_in_use_and_their_package(write: Write) -> None:
    for core in range(4):
        write(f"cpu/cpu{core}/thermal_throttle/core_throttle_count", f"{10**core}\n")
        write(f"cpu/cpu{core}/thermal_throttle/package_throttle_count", "20000\n")
        write(f"cpu/cpu{core}/thermal_throttle/core_throttle_total_time_ms", "7\n")
    assert slowdowns((1,)).heat == 20_010
    assert slowdowns(()).heat == 60_111


def test_what_came_on_is_the_difference() -> None:
    assert Slowdowns(3, 10).until(Slowdowns(5, 10)) == Slowdowns(2, 0)


def test_the_seconds_held_back_are_those_of_the_group_that_was_held_back_most(write: Write) -> None:
    write("groups/system/ours/cpu.stat", "nr_throttled 5\nthrottled_usec 2500000\n")
    write("groups/system/cpu.stat", "throttled_usec 4000000\n")
    write("groups/cpu/jobs/cpu.stat", "nr_throttled 1\nthrottled_time 9000000000\n")
    write("cgroup", "0::/system/ours\n")
    assert seconds_slowed() == SlowedSeconds(4.0, 0.0)
    write("cgroup", "3:cpu,cpuacct:/jobs\n0::/system/ours\n")
    assert seconds_slowed() == SlowedSeconds(9.0, 0.0)


def test_the_seconds_too_hot_are_told_by_cores_or_by_what_cools_them(write: Write) -> None:
    for core in range(3):
        write(f"cpu/cpu{core}/thermal_throttle/core_throttle_total_time_ms", f"{1000 * core}\n")
    assert seconds_slowed().heat == 2.0
    assert seconds_slowed((1,)).heat == 1.0
    write("thermal/cooling_device0/type", "thermal-cpufreq-0\n")
    write("thermal/cooling_device0/stats/time_in_state_ms", "state0\t90000\nstate1\t2500\nstate2\t4500\n")
    write("thermal/cooling_device1/type", "pwm-fan\n")
    write("thermal/cooling_device1/stats/time_in_state_ms", "state0\t0\nstate1\t800000\n")
    assert seconds_slowed().heat == 7.0


@pytest.mark.usefixtures("write")
def test_a_machine_that_keeps_no_times_has_not_been_slowed_down() -> None:
    assert seconds_slowed() == SlowedSeconds(0.0, 0.0)
    assert SlowedSeconds(1.0, 2.0).until(SlowedSeconds(3.5, 2.0)) == SlowedSeconds(2.5, 0.0)


def test_the_hottest_zone_counts_and_a_sensor_that_gives_no_number_does_not(write: Write) -> None:
    for zone, text in enumerate(("41000\n", "-5000\n", "", "asleep\n", "68500\n")):
        write(f"thermal/thermal_zone{zone}/temp", text)
    (conditions.ZONES / "thermal_zone9" / "temp").mkdir(parents=True)  # which cannot be read
    assert hottest_c() == 68.5


def test_the_frequency_is_that_of_the_fastest_core_in_use(write: Write) -> None:
    for core in range(4):
        write(f"cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{(core + 1) * 800_000}\n")
    assert frequency_mhz((1,)) == 1600
    assert frequency_mhz(()) == 2400


def test_the_strength_of_a_core_is_its_capacity_or_else_its_highest_frequency(write: Write) -> None:
    write("cpu/cpu0/cpufreq/cpuinfo_max_freq", "3600000\n")
    assert strength(0) == 3_600_000
    write("cpu/cpu0/cpu_capacity", "1024\n")
    assert strength(0) == 1024


def test_the_place_of_a_thread_is_read_past_its_name(write: Write) -> None:
    fields = " ".join(str(number) for number in range(3, 53))
    write("thread/stat", f"77 (a ) b 9) {fields}\n")
    assert place() == Place(0, 39)
    write("thread/sched", "python (77, #threads: 1)\n---\nse.nr_migrations       :         12\nnr_switches : 4\n")
    assert place() == Place(12, 39)


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        (Place(3, 1), Place(3, 1), 0),
        (Place(3, 1), Place(5, 1), 2),
        (Place(0, 1), Place(0, 2), 1),
        (Place(3, 1), Place(4, 2), 1),
    ],
)
def test_a_thread_was_moved_as_often_as_the_kernel_counts_or_at_least_once_if_it_is_elsewhere(
    before: Place, after: Place, moves: int
) -> None:
    assert before.moves_until(after) == moves
