"""The fingerprint names the machine, the same each time, in plain data."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import environment

X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Gold 6354 CPU @ 3.00GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni

processor\t: 1
model name\t: Intel(R) Xeon(R) Gold 6354 CPU @ 3.00GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n\nHardware\t: Qualcomm SM8550\n"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Files of another machine, in place of those that the kernel shows here."""
    shown: dict[str, str] = {}
    monkeypatch.setattr(environment, "_read", lambda path: shown.get(path, ""))
    environment.cpu.cache_clear()
    yield shown
    environment.cpu.cache_clear()


def test_the_fingerprint_is_plain_data_and_the_same_in_another_process() -> None:
    code = "from edgeopt import environment; import sys; sys.stdout.write(environment.fingerprint_digest())"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "5"}
    other = subprocess.run([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True, check=True)
    assert other.stdout == environment.fingerprint_digest()
    assert json.loads(json.dumps(environment.fingerprint())) == environment.fingerprint()


def test_the_fingerprint_names_no_host_and_no_user() -> None:
    shown = json.dumps(environment.fingerprint())
    assert socket.gethostname() not in shown
    assert not re.search(r"/(home|root|tmp)\b", shown)


def test_the_fingerprint_names_the_libraries_that_are_installed() -> None:
    assert environment.fingerprint()["libraries"]["numpy"] == np.__version__
    assert environment.library_version("no-such-library") is None


def test_the_cores_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert environment.cpu_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert environment.cpu_cores() == len(allowed)


def test_memory_is_that_of_the_machine() -> None:
    with open("/proc/meminfo", encoding="utf8") as stream:
        told = int(next(line for line in stream if line.startswith("MemTotal")).split()[1]) * 1024
    assert abs(environment.memory_bytes() - told) < 0.02 * told


def test_an_x86_cpu_is_named_with_what_matters_to_int8(read: dict[str, str]) -> None:
    read["/proc/cpuinfo"] = X86
    assert environment.cpu() == ("Intel(R) Xeon(R) Gold 6354 CPU @ 3.00GHz", ("avx2", "avx512f", "avx512_vnni"))
    assert environment.has_integer_dot_product()
    assert environment.describe() == "Intel(R) Xeon(R) Gold 6354 CPU @ 3.00GHz, AVX512-VNNI"


def test_an_arm_cpu_is_named_with_what_matters_to_int8(read: dict[str, str]) -> None:
    read["/proc/cpuinfo"] = ARM
    assert environment.cpu() == ("Qualcomm SM8550", ("asimd", "asimddp", "i8mm"))
    assert environment.describe() == "Qualcomm SM8550, I8MM"


def test_a_machine_that_tells_nothing_has_a_fingerprint_too(read: dict[str, str]) -> None:
    assert environment.cpu()[1] == ()
    assert not environment.has_integer_dot_product()
    assert environment.power_mode() == "unknown"


@pytest.mark.parametrize(
    ("isa", "summary"),
    [
        ((), "no vector ISA known"),
        (("avx2",), "AVX2 (no VNNI)"),
        (("avx2", "avx512f"), "AVX512F (no VNNI)"),
        (("avx2", "avx_vnni"), "AVX-VNNI"),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), "AMX-INT8"),
        (("asimd", "asimddp"), "ASIMDDP"),
        (("asimd",), "no vector ISA known"),
    ],
)
def test_the_summary_says_whether_int8_products_saturate(isa: tuple[str, ...], summary: str) -> None:
    assert environment.isa_summary(isa) == summary


def test_the_power_mode_is_the_governor(read: dict[str, str]) -> None:
    read["/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"] = "performance\n"
    assert environment.power_mode() == "performance"


@pytest.mark.parametrize(
    ("isa", "exact", "needed"),
    [
        (["avx2"], True, "x86_64"), (["avx2", "avx512_vnni"], True, "x86_64 vnni"), (["avx512_vnni"], False, "x86_64"),
        (["asimd", "asimddp"], True, "aarch64"), ([], True, "x86_64"),
    ],
)  # fmt: skip
def test_what_an_artifact_needs_follows_from_the_cpu_that_it_is_for(isa: list[str], exact: bool, needed: str) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("the names are those of an x86 host")
    assert environment.needed_isa(isa, exact) == needed


def test_arm_is_told_by_its_vector_unit() -> None:
    assert environment.is_arm(["asimd"])
    assert not environment.is_arm(["avx2"])
    assert environment.is_arm() == (platform.machine() in ("aarch64", "arm64"))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({}, "unknown"),
        ({"governor": "performance\n"}, "performance"),
        ({"governor": "schedutil\n", "status": "pmode:0002 fmode:fanNull\n"}, "schedutil, nvpmodel 2"),
        ({"governor": "schedutil\n", "status": "pmode:0000\n"}, "schedutil, nvpmodel 0"),
    ],
)
def test_the_power_mode_is_that_of_the_cpu_and_of_a_jetson(
    read: dict[str, str], shown: dict[str, str], expected: str
) -> None:
    read["/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"] = shown.get("governor", "")
    read["/var/lib/nvpmodel/status"] = shown.get("status", "")
    assert environment.power_mode() == expected


class FakeNvml:
    """The part of `pynvml` that is used: a board with a power limit that can be set, and one without."""

    class NVMLError(Exception):
        pass

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.65",
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetName": lambda device: ["Orin", "H100"][device],
            "nvmlDeviceGetCudaComputeCapability": lambda device: [(8, 7), (9, 0)][device],
            "nvmlDeviceGetPowerManagementLimit": self.limit,
        }
        if name not in answers:
            raise AttributeError(name)
        return answers[name]

    def limit(self, device: int) -> int:
        if device == 0:
            raise self.NVMLError
        return 700_000


@pytest.fixture
def fresh_gpus() -> Iterator[None]:
    environment.gpus.cache_clear()
    yield
    environment.gpus.cache_clear()


@pytest.mark.usefixtures("fresh_gpus")
def test_each_gpu_is_told_with_what_an_engine_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())  # type: ignore[arg-type]
    assert environment.gpus() == (
        {"name": "Orin", "driver": "580.65", "compute_capability": "8.7", "power": "unknown"},
        {"name": "H100", "driver": "580.65", "compute_capability": "9.0", "power": "700 W"},
    )


@pytest.mark.usefixtures("fresh_gpus")
@pytest.mark.parametrize("silent", ["DriverVersion", "Count", "Name", "CudaComputeCapability", "HandleByIndex"])
def test_a_driver_that_answers_some_questions_only_ends_nothing(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(FakeNvml):
        def __getattr__(self, name: str) -> Any:
            answer = super().__getattr__(name)
            return self.refuse if name.endswith(silent) else answer

        def refuse(self, *of: Any) -> Any:
            raise self.NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", Silent())  # type: ignore[arg-type]
    told = environment.gpus()
    assert len(told) == (0 if silent in ("Count", "HandleByIndex") else 2)
    assert all(set(gpu) == {"name", "driver", "compute_capability", "power"} for gpu in told)
    field = {"DriverVersion": "driver", "Name": "name", "CudaComputeCapability": "compute_capability"}.get(silent)
    assert all(gpu[field] == "unknown" for gpu in told if field)


@pytest.mark.usefixtures("fresh_gpus")
def test_without_the_library_no_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert environment.gpus() == ()


def test_the_driver_library_has_all_that_is_asked_of_it() -> None:
    nvml = pytest.importorskip("pynvml")
    used = set(re.findall(r"\bnvml\.(nvml\w+|NVMLError)", Path(environment.__file__).read_text(encoding="utf8")))
    assert len(used) >= 8
    assert not {name for name in used if not hasattr(nvml, name)}
