"""Intel's GPUs and NPUs: whether OpenVINO finds one, what is missing where it does not, and what it is called.

A plan asks what a machine has, before anything is imported: so the kernel is asked for that, and OpenVINO only for what
it can run on.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from edgeopt import environment
from edgeopt.errors import MissingError
from edgeopt.openvino_sessions import INSTALL, first_line, import_runtime

INTEL = "0x8086"

#: kind of device → where the kernel shows those that have a driver
NODES = {"GPU": "class/drm/renderD*", "NPU": "class/accel/accel*"}

#: kind of device → the libraries of its driver outside of the kernel, whose names tell the version
DRIVERS = {
    "GPU": ("libze_intel_gpu.so.*", "intel-opencl/libigdrcl.so"),
    "NPU": ("libze_intel_vpu.so.*", "libze_intel_npu.so.*"),
}
LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")

HINTS = {
    "GPU": "install Intel's compute runtime (`libze-intel-gpu1`, `intel-opencl-icd`) and join group `render`; "
    f"{INSTALL} brings all else, and `openvino_cpu` runs without one",
    "NPU": "install Intel's NPU driver (`intel-level-zero-npu`, `intel-driver-compiler-npu`) and join group `render`; "
    f"{INSTALL} brings all else, and `openvino_cpu` runs without one",
}


def require_device(kind: str, number: int = 0) -> str:
    """OpenVINO's name of the device of that kind and number, which it can run on.

    Raises:
        MissingError: OpenVINO is not installed, or finds no such device; says why, as far as it does.
    """
    core = import_runtime().Core()
    found = [str(name) for name in core.available_devices]
    of_kind = sorted(name for name in found if name.partition(".")[0] == kind)
    if number < len(of_kind):
        return of_kind[number]
    told = ", ".join(found) or "none"
    raise MissingError(f"OpenVINO finds no {kind} {number} here, but {told}{_why(core, kind)}", HINTS[kind])


def describe_device(device: str) -> dict[str, str]:
    """The device as OpenVINO calls it, and its driver."""
    core = import_runtime().Core()
    told = {"device": str(core.get_property(device, "FULL_DEVICE_NAME"))}
    driver = "NPU_DRIVER_VERSION"
    if driver in core.get_property(device, "SUPPORTED_PROPERTIES"):
        told["driver"] = str(core.get_property(device, driver))
    return told


def machine(kind: str, root: Path = Path("/")) -> dict[str, str]:
    """Devices, drivers and the version of OpenVINO, for the key of a build.

    Args:
        root: where `sys` and `usr` are.
    """
    shown = sorted((root / "sys").glob(NODES[kind]))
    devices = [_describe(node / "device") for node in shown if _read(node / "device" / "vendor") == INTEL]
    libraries = {path.resolve().name for path in _drivers(kind, root)}
    return {
        kind.lower(): ", ".join(devices),
        "driver": ", ".join([platform.release(), *sorted(libraries)]) if devices else "",
        "openvino": environment.library_version("openvino") or "",
    }


def _describe(device: Path) -> str:
    return f"{_read(device / 'device')} ({(device / 'driver').resolve().name})"


def _drivers(kind: str, root: Path) -> list[Path]:
    return [path for name in LIBRARY_FOLDERS for pattern in DRIVERS[kind] for path in (root / name).glob(pattern)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8").strip()
    except OSError:
        return ""


def _why(core: Any, kind: str) -> str:
    """What the loader says where a library is missing that OpenVINO needs for that kind of device."""
    try:
        core.get_property(kind, "AVAILABLE_DEVICES")
    except RuntimeError as error:
        _, quoted, reason = first_line(error).rpartition('": ')
        return f" ({reason})" if quoted else ""
    return ""
