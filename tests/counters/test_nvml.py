"""NVML: on a module of the driver's interface whose GPUs this test advances, and without a driver."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edgeopt.counters.nvml import Nvml
from edgeopt.errors import MissingError

#: the part of `pynvml` that is used: GPUs whose counters move at every fifth look
LIBRARY = """
class NVMLError(Exception):
    pass

devices, refuse, opened, looks = [], "", 0, 0

def _check(name):
    if refuse == name:
        raise NVMLError("Not Supported")

def nvmlInit():
    global opened
    _check("nvmlInit")
    opened += 1

def nvmlShutdown():
    global opened
    opened -= 1

def nvmlDeviceGetCount():
    return len(devices)

def nvmlDeviceGetHandleByIndex(index):
    return index

def nvmlDeviceGetTotalEnergyConsumption(handle):
    global looks
    _check("nvmlDeviceGetTotalEnergyConsumption")
    looks += 1
    if looks % 5 == 0:
        devices[handle] += 40
    return devices[handle]
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "pynvml.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    import pynvml

    yield pynvml
    monkeypatch.delitem(sys.modules, "pynvml")


def test_the_millijoules_of_all_gpus_are_summed_as_joules(driver: ModuleType) -> None:
    driver.devices[:] = [5_000, 7_000]
    with Nvml() as counter:
        before = counter.read()
        driver.devices[0] += 3_000
        driver.devices[1] += 1_500
        gained = counter.read().since(before)
    assert before.joules == pytest.approx(12.0, abs=0.1)
    assert gained.joules == pytest.approx(4.5, abs=0.1)
    assert driver.opened == 0


def test_a_reading_is_taken_when_the_counter_has_just_moved(driver: ModuleType) -> None:
    driver.devices[:] = [1_000]
    with Nvml() as counter:
        for _ in range(3):
            counter.read()
            assert driver.looks % 5 == 0


def test_a_counter_that_rests_is_taken_as_it_is(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: 8_000)
    driver.devices[:] = [8_000]
    with Nvml() as counter:
        assert counter.read().joules == 8.0


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_driver_that_counts_nothing_says_so(function: str, driver: ModuleType) -> None:
    driver.devices[:] = [1]
    assert Nvml().available()
    driver.refuse = function
    assert Nvml().why() == "the NVIDIA driver counts no energy here: Not Supported"
    driver.refuse = ""


def test_a_counter_that_stops_while_it_is_read_is_named(driver: ModuleType) -> None:
    driver.devices[:] = [1]
    with Nvml() as counter:
        driver.refuse = "nvmlDeviceGetTotalEnergyConsumption"
        with pytest.raises(MissingError, match="counts no energy here"):
            counter.read()
        driver.refuse = ""


def test_a_driver_without_a_gpu_counts_nothing(driver: ModuleType) -> None:
    driver.devices[:] = []
    assert Nvml().why() == "the NVIDIA driver shows no GPU"


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml().why() == "`pynvml` is not installed; pip install nvidia-ml-py"
