"""What holds for every counter that the registry finds, and how a number of the kernel is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeopt.counters import EnergyCounter, Reading, all_counters, described, read_number
from edgeopt.errors import MissingError


def test_the_counters_of_processors_graphics_cards_and_boards_are_known() -> None:
    assert {"ina", "nvml", "rapl"} <= all_counters().keys()


@pytest.mark.parametrize("name", sorted(all_counters()))
def test_a_counter_tells_what_it_counts_and_why_it_cannot_where_it_cannot(name: str) -> None:
    counter = all_counters()[name]
    assert counter.covers
    assert counter.covers <= {"cpu", "gpu"}
    assert counter.what
    assert "\n" not in counter.what + counter.why()
    assert counter.available() == (not counter.why())


@pytest.mark.parametrize("name", sorted(all_counters()))
def test_a_counter_that_this_machine_has_goes_on(name: str) -> None:
    counter = all_counters()[name]
    if not counter.available():
        pytest.skip(counter.why())
    with counter:
        first, second = counter.read(), counter.read()
    assert second.joules >= first.joules
    assert second.seconds >= first.seconds


def test_two_readings_tell_what_lies_between_them() -> None:
    assert Reading(7.0, 12.0).since(Reading(2.5, 10.0)) == Reading(4.5, 2.0)


def test_a_number_is_read_as_the_kernel_writes_it(tmp_path: Path) -> None:
    for text, number in (("42\n", 42), ("-17\n", -17), ("262143328850\n", 262_143_328_850)):
        (tmp_path / "energy_uj").write_text(text)
        assert read_number(tmp_path / "energy_uj") == number


@pytest.mark.parametrize("content", ["", "\n", "many\n", "1.5\n", "12 ma\n", "é\n"])
def test_what_is_no_number_is_refused_with_the_name_of_its_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "curr1_input"
    path.write_text(content, encoding="utf8")
    with pytest.raises(MissingError, match=r"`.*curr1_input` holds no number"):
        read_number(path)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"`.*gone` cannot be read: no such file or directory"):
        read_number(tmp_path / "gone")
    with pytest.raises(MissingError, match="cannot be read: is a directory"):
        read_number(tmp_path)


def test_a_file_for_root_alone_comes_with_how_to_open_it(for_root_alone: Path) -> None:
    with pytest.raises(MissingError) as caught:
        read_number(for_root_alone)
    assert caught.value.message == f"`{for_root_alone}` is only for root to read"
    assert described(caught.value).endswith(
        f"root to read; `sudo chmod a+r {for_root_alone}` lets everybody read it until the next start of the machine"
    )
    assert os.geteuid() != 0


def test_a_counter_needs_no_more_than_reading_and_saying_why_not() -> None:
    class Plain(EnergyCounter):
        covers = frozenset({"cpu"})
        what = "nothing"

        def why(self) -> str:
            return ""

        def read(self) -> Reading:
            return Reading(0.0, 0.0)

    with Plain() as counter:
        assert counter.available()
        assert counter.read().joules == 0
