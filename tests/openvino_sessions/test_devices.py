"""Intel's GPUs and NPUs: what the kernel tells of them, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeopt import environment
from edgeopt.errors import MissingError
from edgeopt.openvino_sessions import devices, import_runtime


def add_node(root: Path, node: str, vendor: str, device: str, driver: str) -> None:
    """A device as the kernel shows it: a folder with numbers in files, and a link to its driver."""
    folder = root / "sys/class" / node / "device"
    (root / "sys/drivers" / driver).mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n", encoding="utf8")
    (folder / "device").write_text(f"{device}\n", encoding="utf8")
    (folder / "driver").symlink_to(root / "sys/drivers" / driver)


def add_library(root: Path, name: str) -> None:
    folder = root / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.1.3.29735").write_bytes(b"")
    (folder / f"{name}.1").symlink_to(f"{name}.1.3.29735")


def test_the_kernel_tells_intel_devices_and_their_drivers(tmp_path: Path) -> None:
    add_node(tmp_path, "drm/renderD128", "0x10de", "0x2684", "nvidia")
    add_node(tmp_path, "drm/renderD129", devices.INTEL, "0x56a0", "i915")
    add_node(tmp_path, "accel/accel0", devices.INTEL, "0x7d1d", "intel_vpu")
    add_library(tmp_path, "libze_intel_gpu.so")
    add_library(tmp_path, "libze_intel_vpu.so")
    gpu, npu = (devices.machine(kind, tmp_path) for kind in ("GPU", "NPU"))
    assert (gpu["gpu"], npu["npu"]) == ("0x56a0 (i915)", "0x7d1d (intel_vpu)")
    assert gpu["driver"].endswith(", libze_intel_gpu.so.1.3.29735")
    assert npu["driver"].endswith(", libze_intel_vpu.so.1.3.29735")
    assert gpu["openvino"] == (environment.library_version("openvino") or "")


def test_where_there_is_none_nothing_is_told_of_its_driver(tmp_path: Path) -> None:
    add_library(tmp_path, "libze_intel_gpu.so")
    found = devices.machine("GPU", tmp_path)
    assert (found["gpu"], found["driver"]) == ("", "")


@pytest.mark.parametrize("kind", ["GPU", "NPU"])
def test_what_is_missing_for_a_device_is_named(kind: str) -> None:
    if environment.library_version("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    if any(name.startswith(kind) for name in import_runtime().Core().available_devices):
        pytest.skip(f"there is a {kind} here")
    with pytest.raises(MissingError, match=f"finds no {kind} 0 here, but CPU") as caught:
        devices.require_device(kind)
    assert "\n" not in caught.value.message
    assert "pip install edgeopt[openvino]" in caught.value.hint
    assert f"`intel-{'opencl-icd' if kind == 'GPU' else 'level-zero-npu'}`" in caught.value.hint


def test_a_device_has_a_number_and_a_name() -> None:
    if environment.library_version("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    assert devices.require_device("CPU") == "CPU"
    assert devices.describe_device("CPU")["device"]
