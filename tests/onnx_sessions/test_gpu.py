"""What is missing for a GPU is named, each thing by itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import onnxruntime
import pytest

from edgeopt.errors import MissingError
from edgeopt.onnx_sessions import gpu


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_wheel_without_cuda_is_named_with_the_one_to_install(provider: str) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime was built with CUDA")
    with pytest.raises(MissingError, match=f"built without `{provider}`") as caught:
        gpu.require_gpu(provider)
    assert "pip install edgeopt[cuda]" in caught.value.hint
    assert "pip uninstall onnxruntime" in caught.value.hint


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    if has_driver():
        pytest.skip("this machine has NVIDIA's driver")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(MissingError, match="driver is not installed") as caught:
        gpu.require_gpu("cuda")
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(("count", "told"), [(0, "none"), (2, "2")])
def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, count: int, told: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(gpu, "count_gpus", lambda: count)
    with pytest.raises(MissingError, match=f"there is no GPU 2: the driver shows {told}"):
        gpu.require_gpu("cuda", 2)


def test_a_library_that_is_not_found_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"libonnxruntime_providers_shared\.so` is missing") as caught:
        gpu._load(tmp_path, "cuda")
    assert "onnxruntime-gpu[cuda,cudnn]" in caught.value.hint


def test_looking_for_libraries_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    gpu.preload(onnxruntime)
    assert capfd.readouterr().out == ""


def test_the_key_of_a_build_names_gpus_and_wheel() -> None:
    assert gpu.machine().keys() == {"gpus", "onnxruntime-gpu"}
