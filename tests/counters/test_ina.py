"""Power monitors on trees as the kernel lays them out: which rails feed the board, and power summed up over time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from trees import set_number, write_monitor, write_orin_nano

from edgeopt.counters import ina
from edgeopt.counters.ina import Ina
from edgeopt.errors import MissingError


def consumed(root: Path, seconds: float = 0.15) -> tuple[float, float]:
    """Joules, and the seconds that they were taken in."""
    with Ina(root) as counter:
        before = counter.read()
        time.sleep(seconds)
        return counter.read().since(before)


def test_the_input_of_the_module_is_counted_and_the_rails_behind_it_are_not(tmp_path: Path) -> None:
    write_orin_nano(tmp_path)
    counter = Ina(tmp_path)
    assert counter.why() == ""
    assert counter.what.startswith("VDD_IN, the rails that feed the whole board")
    joules, seconds = consumed(tmp_path)
    assert joules == pytest.approx(6.0 * seconds)


def test_the_rails_of_an_agx_orin_are_summed_without_the_one_behind_another(tmp_path: Path) -> None:
    write_monitor(
        tmp_path, 3, "ina3221",
        in1_label="VDD_GPU_SOC", in1=20_000, curr1=100,
        in2_label="VDD_CPU_CV", in2=20_000, curr2=50,
        in3_label="VIN_SYS_5V0", in3=5_000, curr3=400,
    )  # fmt: skip
    write_monitor(tmp_path, 4, "ina3221", in1_label="NC", in2_label="VDDQ_VDD2_1V8AO", in2=5_000, curr2=100)
    joules, seconds = consumed(tmp_path)
    assert joules == pytest.approx((2.0 + 1.0 + 2.0) * seconds)


def test_a_lone_monitor_needs_no_name_and_its_own_power_is_taken(tmp_path: Path) -> None:
    write_monitor(tmp_path, 7, "ina226", in0=3, in1=12_000, curr1=9_999, power1=1_500_000)
    counter = Ina(tmp_path)
    assert counter.what.startswith("ina226 hwmon7")
    joules, seconds = consumed(tmp_path)
    assert joules == pytest.approx(1.5 * seconds)


def test_a_name_from_the_device_tree_makes_a_monitor_the_one_of_the_board(tmp_path: Path) -> None:
    write_monitor(tmp_path, 0, "ina219", in1=3_300, curr1=10, power1=33_000)
    folder = write_monitor(tmp_path, 1, "ina219", in1=12_000, curr1=500, power1=6_000_000)
    why = Ina(tmp_path).why()
    assert why.startswith("which of `ina219 hwmon0`, `ina219 hwmon1` feeds the whole board is not known")
    (folder / "label").write_text("VDD_IN\n")
    assert Ina(tmp_path).why() == ""
    joules, seconds = consumed(tmp_path)
    assert joules == pytest.approx(6.0 * seconds)


def test_a_carrier_whose_rails_hold_those_of_its_module_is_not_guessed_at(tmp_path: Path) -> None:
    names = {"in1_label": "CVB_ATX_12V", "in2_label": "CVB_ATX_3V3", "in3_label": "CVB_ATX_5V"}
    figures = {f"{kind}{number}": 1000 for kind in ("in", "curr") for number in (1, 2, 3)}
    write_monitor(tmp_path, 5, "ina3221", **names, **figures)
    assert not Ina(tmp_path).available()


def test_power_that_changes_is_followed(tmp_path: Path) -> None:
    folder = write_orin_nano(tmp_path)
    with Ina(tmp_path) as counter:
        for current_ma, watts in ((2400, 12.0), (1200, 6.0), (-200, -1.0)):
            set_number(folder / "curr1_input", current_ma)
            before = counter.read()
            time.sleep(0.12)
            joules, seconds = counter.read().since(before)
            assert joules == pytest.approx(watts * seconds)


def test_all_that_lies_between_two_readings_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = write_orin_nano(tmp_path), threading.Event()
    set_number(folder / "curr1_input", 0)
    with Ina(tmp_path) as counter:
        before = counter.read()
        looks, sample = [], counter._sample
        monkeypatch.setattr(counter, "_sample", lambda: (looks.append(sample()), len(looks) > 3 and seen.set()))
        set_number(folder / "curr1_input", 1200)
        assert seen.wait(20)  # the thread looked by itself
        set_number(folder / "curr1_input", 0)
        monkeypatch.undo()
        gained = counter.read().since(before)
    # A reading at either end alone would have seen nothing.
    assert gained.joules > 0.05


def test_a_rail_that_goes_away_is_named_by_the_next_reading(tmp_path: Path) -> None:
    folder = write_orin_nano(tmp_path)
    with Ina(tmp_path) as counter:
        (folder / "curr1_input").unlink()
        for thread in threading.enumerate():
            if thread.name == "edgeopt-ina":
                thread.join(20)
        with pytest.raises(MissingError, match="curr1_input` cannot be read"):
            counter.read()


def test_nothing_samples_any_more_after_the_end(tmp_path: Path) -> None:
    write_orin_nano(tmp_path)
    with Ina(tmp_path) as counter:
        assert counter.read().joules >= 0
    assert "edgeopt-ina" not in {thread.name for thread in threading.enumerate()}


def test_a_machine_without_a_monitor_says_so(tmp_path: Path) -> None:
    write_monitor(tmp_path, 0, "coretemp", temp1=41_000, in1=5_000, curr1=100)
    write_monitor(tmp_path, 1, "ina3221", in1_label="NC", in1=5_000, curr1=100)
    (tmp_path / "hwmon2").mkdir()
    for root in (tmp_path, tmp_path / "gone"):
        assert Ina(root).why() == f"`{root}` shows no INA power monitor"


def test_a_channel_that_is_switched_off_has_no_power(tmp_path: Path) -> None:
    folder = write_orin_nano(tmp_path)
    (folder / "in1_input").unlink()
    (folder / "in1_input").mkdir()  # reading it is an error, as of one that is switched off
    assert Ina(tmp_path).why().endswith("in1_input` cannot be read: is a directory")


def test_every_list_of_rails_is_met_in_order() -> None:
    rails = [ina.Rail(name, ()) for names in ina.WHOLE for name in names]
    assert [rail.name for rail in ina._whole(rails)] == ["VDD_IN"]
    assert [rail.name for rail in ina._whole(rails[3:])] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert ina._whole(rails[4:6]) == []
