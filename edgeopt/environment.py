"""The fingerprint of the machine: what a measurement must name to be comparable, and what a backend must know."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import os
import platform
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from edgeopt.model import canonical_json

#: the instruction sets that decide how fast and how exactly int8 runs, by the name that the kernel gives them
INTERESTING_ISA = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve",
)  # fmt: skip

#: what every 64-bit CPU of arm has
ARM = "asimd"

INTEGER_DOT_PRODUCT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})

#: what a machine does not tell
UNKNOWN = "unknown"

LIBRARIES = ("edgeopt", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch")


@functools.cache
def cpu() -> tuple[str, tuple[str, ...]]:
    """The model of the CPU, and those of `INTERESTING_ISA` that it has."""
    model, flags = platform.processor() or platform.machine(), cpu_flags()
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Hardware"):
            model = value.strip()
    return model, tuple(name for name in INTERESTING_ISA if name in flags)


def cpu_flags() -> frozenset[str]:
    """All that the kernel says the CPU has."""
    flags = frozenset[str]()
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags = frozenset(value.split())
    return flags


def has_integer_dot_product(isa: Collection[str] | None = None) -> bool:
    """Whether a CPU sums int8 products in 32 bits (VNNI, AMX, arm dot product), so that u8×s8 cannot saturate.

    Args:
        isa: what the CPU has of `INTERESTING_ISA`; None: what this one has.
    """
    return bool(INTEGER_DOT_PRODUCT.intersection(cpu()[1] if isa is None else isa))


def is_arm(isa: Collection[str] | None = None) -> bool:
    """Whether a CPU with that `isa` is one of arm's; None: this one."""
    return platform.machine() in ("aarch64", "arm64") if isa is None else ARM in isa


def needed_isa(isa: Collection[str] | None, exact: bool) -> str:
    """What a CPU must have to run an artifact for `isa`, in a word or two.

    Args:
        exact: whether its 8-bit weights were chosen for integer dot products: they give wrong sums without them.
    """
    machine = platform.machine() if isa is None or is_arm(isa) == is_arm() else ("aarch64" if is_arm(isa) else "x86_64")
    needs_vnni = exact and not is_arm(isa) and has_integer_dot_product(isa)
    return f"{machine} vnni" if needs_vnni else machine


@functools.cache
def gpus() -> tuple[dict[str, str], ...]:
    """The NVIDIA GPUs: `name`, `driver`, `compute_capability` and `power` of each; none where no driver answers."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # there is no driver
        return ()
    try:
        count, driver = _told(nvml, nvml.nvmlDeviceGetCount), _told(nvml, nvml.nvmlSystemGetDriverVersion)
        devices = [_told(nvml, nvml.nvmlDeviceGetHandleByIndex, index) for index in range(count or 0)]
        return tuple(_gpu(nvml, device, str(driver or UNKNOWN)) for device in devices if device is not None)
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, device: Any, driver: str) -> dict[str, str]:
    name = _told(nvml, nvml.nvmlDeviceGetName, device) or UNKNOWN
    capability = _told(nvml, nvml.nvmlDeviceGetCudaComputeCapability, device)
    limit = _told(nvml, nvml.nvmlDeviceGetPowerManagementLimit, device)
    return {
        "name": str(name),
        "driver": driver,
        "compute_capability": UNKNOWN if capability is None else "{}.{}".format(*capability),
        "power": UNKNOWN if limit is None else f"{limit / 1000:.0f} W",
    }


def _told(nvml: Any, ask: Callable[..., Any], *of: Any) -> Any:
    """What the driver answers; None where it does not: on a Jetson it knows its GPU and little more."""
    try:
        return ask(*of)
    except nvml.NVMLError:
        return None


def cpu_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def library_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def timing_lock() -> Path:
    """The file that everything on this machine that times anything locks meanwhile, whatever store it uses."""
    return Path(tempfile.gettempdir()) / "edgeopt-timing.lock"


def power_mode() -> str:
    """The frequency governor of the first core, or `unknown` (as on most virtual machines); a Jetson's mode, too."""
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or UNKNOWN
    number = re.search(r"pmode\s*:\s*0*(\d+)", _read("/var/lib/nvpmodel/status"))
    return f"{governor}, nvpmodel {number[1]}" if number else governor


@functools.cache
def fingerprint() -> dict[str, Any]:
    """The machine and its libraries as plain data; the same machine gives the same value, whatever it is doing."""
    model, isa = cpu()
    return {
        "cpu": model,
        "isa": list(isa),
        "cores": cpu_cores(),
        "memory_mb": memory_bytes() // 1_000_000,
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "power_mode": power_mode(),
        "gpus": list(gpus()),
        "libraries": {name: version for name in LIBRARIES if (version := library_version(name))},
    }


def fingerprint_digest() -> str:
    """SHA-256 of `fingerprint()`: the name of this machine in a measurement."""
    return hashlib.sha256(canonical_json(fingerprint())).hexdigest()


def describe() -> str:
    """One short line for people: the CPU and what of it matters to int8."""
    model, isa = cpu()
    return f"{model}, {isa_summary(isa)}"


def isa_summary(isa: tuple[str, ...]) -> str:
    """The best of `isa` for int8 in words: `AVX512-VNNI`, or `AVX2 (no VNNI)` where int8 products saturate."""
    best_first = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp", "avx512f", "avx2")
    best = next((name for name in best_first if name in isa), None)
    if best is None:
        return "no vector ISA known"
    named = best.upper().replace("_", "-")
    return named if INTEGER_DOT_PRODUCT.intersection(isa) else f"{named} (no VNNI)"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf8", errors="replace")
    except OSError:
        return ""
