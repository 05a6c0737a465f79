"""What each runtime library finds: read off the real ones where they are installed, and off stand-ins of NVIDIA's."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgeopt import environment
from edgeopt.examining import libraries
from edgeopt.examining.libraries import LIBRARIES, examine


class NoDriverError(Exception):
    pass


def nvml(cuda: int | None) -> Any:
    """The part of `pynvml` that is asked: a driver that takes that CUDA, or none."""

    def init() -> None:
        if cuda is None:
            raise NoDriverError("NVML Shared Library Not Found")

    version = lambda: cuda  # noqa: E731
    return SimpleNamespace(NVMLError=NoDriverError, nvmlInit=init, nvmlSystemGetCudaDriverVersion_v2=version)


def test_every_library_is_there_with_a_version_or_named_as_missing() -> None:
    for name in LIBRARIES:
        if name != "openvino":  # which is imported in a process of its own, below
            found = examine(name)
            assert found.keys() == {"version", "finds", "missing", "log"}
            assert (found["version"] is None) == bool(found["missing"]), name


def test_openvino_tells_its_devices_and_reports_nothing_to_its_makers() -> None:
    pytest.importorskip("openvino")
    code = (
        "import json, sys; from edgeopt.examining.libraries import examine; found = examine('openvino'); "
        "sys.stdout.write(json.dumps([found, [name for name in sys.modules if 'openvino_telemetry' in name]]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert '"devices": "CPU (' in ran.stdout
    assert ran.stdout.endswith(", []]")
    assert environment.library_version("openvino") in ran.stdout


@pytest.fixture
def without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)


@pytest.mark.usefixtures("without_cuda_bindings")
def test_without_the_cuda_bindings_nvml_tells_what_the_driver_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(12080))
    monkeypatch.setattr(environment, "gpus", lambda: ({"driver": "570.86"},))
    assert examine("nvidia-driver") == {"version": "570.86", "finds": {"cuda": "12.8"}, "missing": "", "log": ""}


@pytest.mark.usefixtures("without_cuda_bindings")
def test_a_driver_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(None))
    missing = examine("nvidia-driver")["missing"]
    assert missing == "there is no NVIDIA driver here: NVML Shared Library Not Found"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert examine("nvidia-driver")["missing"].endswith("pip install nvidia-ml-py")


@pytest.mark.parametrize(("number", "version"), [(91002, "9.10.2"), (92700, "9.27.0"), (90100, "9.1.0")])
def test_cudnn_is_asked_for_its_version(number: int, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        assert name == "libcudnn.so.9"
        return SimpleNamespace(cudnnGetVersion=lambda: number)

    monkeypatch.setattr(libraries, "ctypes", SimpleNamespace(CDLL=load))
    assert examine("cudnn")["version"] == version


def test_without_cudnn_the_wheel_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(libraries, "ctypes", SimpleNamespace(CDLL=load))
    assert "onnxruntime-gpu[cuda,cudnn]" in examine("cudnn")["missing"]


def test_what_nvml_is_asked_for_is_in_the_real_one() -> None:
    assert hasattr(pytest.importorskip("pynvml"), "nvmlSystemGetCudaDriverVersion_v2")
