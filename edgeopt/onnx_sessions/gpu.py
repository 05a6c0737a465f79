"""What ONNX Runtime needs to run on an NVIDIA GPU: each thing that may be missing is found and named by itself.

It needs a wheel that was built with CUDA, NVIDIA's driver, a GPU, and the libraries that its provider is linked with,
or loads later: CUDA's, cuDNN, and for TensorRT that. Where one is not found it says so in a log only, and runs on the
CPU. So the provider's library is loaded here, as ONNX Runtime would, and the loader says what it did not find.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeopt import environment
from edgeopt.errors import MissingError
from edgeopt.onnx_sessions import PROVIDERS, import_runtime

INSTALL = "`pip uninstall onnxruntime`, then `pip install edgeopt[cuda]`: one of the two wheels may be there"
LIBRARIES = "`pip install 'onnxruntime-gpu[cuda,cudnn]'` brings CUDA's libraries and cuDNN for its wheel"
TENSORRT = "`pip install tensorrt` of the major version in that name, or install TensorRT"
ELSEWHERE = "`pip install edgeopt[cpu]` runs without one, by `onnxruntime_cpu`"

SHARED, LIBRARY = "libonnxruntime_providers_shared.so", "libonnxruntime_providers_{}.so"

#: where wheels of TensorRT keep its libraries, and which of them, in the order that one needs another
TENSORRT_WHEELS = ("tensorrt_libs",)
TENSORRT_LIBRARIES = ("libnvinfer.so*", "libnvinfer_plugin.so*", "libnvonnxparser.so*")

#: loaded by the provider when the first convolution runs; every wheel since 1.19 takes this one
CUDNN = "libcudnn.so.9"

#: the driver's numbers of the two halves of a compute capability
CAPABILITY = (75, 76)


def require_gpu(provider: str, device: int = 0) -> None:
    """Return if `provider`, `cuda` or `tensorrt`, can run on that GPU here.

    Raises:
        MissingError: says what is missing and how to get it.
    """
    runtime = import_runtime()
    if PROVIDERS[provider] not in runtime.get_available_providers():
        raise MissingError(f"the ONNX Runtime that is installed was built without `{provider}`", INSTALL)
    count = count_gpus()
    if device >= count:
        raise MissingError(f"there is no GPU {device}: the driver shows {count or 'none'}", ELSEWHERE)
    preload(runtime)
    _load(Path(runtime.__file__).parent / "capi", provider)


def count_gpus() -> int:
    """The GPUs that the driver shows to this process.

    Raises:
        MissingError: there is no driver.
    """
    driver, count = _driver(), ctypes.c_int(0)
    works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if works else 0


def compute_capability(device: int) -> str:
    """Of a GPU by its number in this process, such as `8.7`.

    Raises:
        MissingError: there is no driver.
    """
    driver, found = _driver(), [ctypes.c_int(0), ctypes.c_int(0)]
    driver.cuInit(0)
    for attribute, value in zip(CAPABILITY, found, strict=True):
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return ".".join(str(value.value) for value in found)


def preload(runtime: Any) -> None:
    """Load the libraries that came as wheels: nothing else would look for them there."""
    if hasattr(runtime, "preload_dlls"):  # since 1.21; it prints what it does not find
        with contextlib.redirect_stdout(io.StringIO()):
            runtime.preload_dlls()
    for folder in (path for name in TENSORRT_WHEELS for path in _wheel_folders(name)):
        for pattern in TENSORRT_LIBRARIES:
            for path in sorted(folder.glob(pattern)):
                with contextlib.suppress(OSError):  # what is needed and cannot be loaded is named by who needs it
                    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def machine() -> dict[str, str]:
    """GPUs, driver and the version of ONNX Runtime, for the key of a build."""
    gpus = ", ".join(f"{gpu['name']} ({gpu['driver']})" for gpu in environment.gpus())
    return {"gpus": gpus, "onnxruntime-gpu": environment.library_version("onnxruntime-gpu") or ""}


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MissingError("NVIDIA's driver is not installed", ELSEWHERE) from error


def _load(folder: Path, provider: str) -> None:
    try:
        ctypes.CDLL(str(folder / SHARED), ctypes.RTLD_GLOBAL)
        for name in _needed(provider):
            ctypes.CDLL(str(folder / LIBRARY.format(name)))
        ctypes.CDLL(CUDNN)
    except OSError as error:
        missing = str(error).partition(":")[0]
        hint = TENSORRT if missing.startswith(("libnvinfer", "libnvonnxparser")) else LIBRARIES
        raise MissingError(f"`{missing}` is missing, which ONNX Runtime needs for `{provider}`", hint) from error


def _needed(provider: str) -> Sequence[str]:
    """The providers that must be there: what TensorRT does not take runs by CUDA."""
    return ("cuda",) if provider == "cuda" else ("cuda", provider)


def _wheel_folders(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
