"""RAPL on trees as the kernel lays them out: which zones count, where a counter starts anew, and what is forbidden."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import RANGE_UJ, set_number, write_server, write_zone

from edgeopt.counters.rapl import Rapl
from edgeopt.errors import MissingError


def test_packages_are_summed_and_neither_their_parts_nor_the_platform_are(tmp_path: Path) -> None:
    packages = write_server(tmp_path / "powercap")
    counter = Rapl(tmp_path / "powercap")
    assert counter.why() == ""
    before = counter.read()
    for zone in (tmp_path / "powercap").glob("intel-rapl*:*"):
        gained = 3_000_000 if zone.resolve() in packages else 50_000_000
        energy = zone / "energy_uj"
        set_number(energy, int(energy.read_text()) + gained)
    assert counter.read().since(before).joules == pytest.approx(6.0)


@given(start=st.integers(0, RANGE_UJ - 1), gains=st.lists(st.integers(0, RANGE_UJ - 1), min_size=1, max_size=20))
def test_a_counter_that_starts_anew_is_counted_on(
    tmp_path_factory: pytest.TempPathFactory, start: int, gains: list[int]
) -> None:
    root = tmp_path_factory.mktemp("sys") / "powercap"
    zone = write_zone(root, "intel-rapl:0", "package-0", start)
    counter = Rapl(root)
    before, shown = counter.read(), start
    for gain in gains:
        shown = (shown + gain) % RANGE_UJ
        set_number(zone / "energy_uj", shown)
        after = counter.read()
    assert after.since(before).joules == pytest.approx(sum(gains) / 1e6)


def test_each_package_starts_anew_on_its_own(tmp_path: Path) -> None:
    first, second = write_server(tmp_path / "powercap", RANGE_UJ - 1_000_000, 5_000_000)
    counter = Rapl(tmp_path / "powercap")
    before = counter.read()
    set_number(first / "energy_uj", 2_000_000)
    set_number(second / "energy_uj", 6_000_000)
    assert counter.read().since(before).joules == pytest.approx(4.0)


def test_readings_never_fall_while_the_kernel_counts(tmp_path: Path) -> None:
    zone = write_zone(tmp_path / "powercap", "intel-rapl:0", "package-0", 0, range_uj=10_000)
    counter, done = Rapl(tmp_path / "powercap"), threading.Event()

    def count() -> None:
        for total in range(0, 20_000, 50):
            set_number(zone / "energy_uj", total % 10_000)
            done.wait(0.0005)  # the reader is never a whole start behind
        done.set()

    readings = [counter.read()]
    thread = threading.Thread(target=count)
    thread.start()
    while not done.is_set():
        readings.append(counter.read())
    thread.join()
    readings.append(counter.read())
    joules = [reading.joules for reading in readings]
    assert joules == sorted(joules)
    assert readings[-1].since(readings[0]).joules == pytest.approx(19_950 / 1e6)


def test_a_machine_without_packages_says_so(tmp_path: Path) -> None:
    for name in ("gone", "powercap"):
        assert "shows no CPU package" in Rapl(tmp_path / name).why()
    write_zone(tmp_path / "powercap", "intel-rapl:0", "psys")
    (tmp_path / "powercap" / "intel-rapl:1").mkdir()  # a zone that does not tell its name
    assert "shows no CPU package" in Rapl(tmp_path / "powercap").why()


def test_a_package_of_one_die_of_several_counts(tmp_path: Path) -> None:
    write_zone(tmp_path / "powercap", "intel-rapl:0", "package-0-die-1")
    assert Rapl(tmp_path / "powercap").available()


def test_a_counter_for_root_alone_is_not_there_and_comes_with_how_to_open_it(for_root_alone: Path) -> None:
    counter = Rapl(for_root_alone.parents[1])
    assert not counter.available()
    assert "energy_uj` is only for root to read; `sudo chmod a+r " in counter.why()
    with pytest.raises(MissingError, match="only for root"):
        counter.read()


def test_a_broken_counter_is_not_there(tmp_path: Path) -> None:
    write_zone(tmp_path / "powercap", "intel-rapl:0", "package-0", "none")
    assert Rapl(tmp_path / "powercap").why().endswith("energy_uj` holds no number")
