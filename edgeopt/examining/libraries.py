"""The runtime libraries: their versions, and what each finds on this machine.

Each is imported as backends do it, and may crash: see `asking.py`, which runs this in a worker.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

from edgeopt import environment, onnx_sessions
from edgeopt.backends import get
from edgeopt.engines import library
from edgeopt.errors import EdgeoptError, MissingError
from edgeopt.onnx_sessions import gpu

#: version, and what it finds by name
Facts = tuple[str, dict[str, Any]]

NO_DRIVER = "there is no NVIDIA driver here"


def examine(name: str) -> dict[str, Any]:
    """The `version` of a library and what it `finds`, or what is `missing`."""
    try:
        version, finds = LIBRARIES[name]()
    except EdgeoptError as error:
        missing = f"{error.message}; {error.hint}" if error.hint else error.message
    except Exception as error:  # a broken library may raise anything, and is to be shown with it
        missing = f"{type(error).__name__}: {onnx_sessions.first_line(error)}"
    else:
        return {"version": version, "finds": finds, "missing": "", "log": ""}
    return {"version": None, "finds": {}, "missing": missing, "log": ""}


def _onnxruntime() -> Facts:
    """With its providers, and the CUDA that its wheel was built for."""
    runtime = onnx_sessions.import_runtime()
    names = [name.removesuffix("ExecutionProvider").lower() for name in runtime.get_available_providers()]
    cuda = str(getattr(runtime, "cuda_version", ""))
    return str(runtime.__version__), {"providers": ", ".join(names)} | ({"cuda": cuda} if cuda else {})


def _openvino() -> Facts:
    """With its devices and their names."""
    get("openvino_cpu").available()  # imports it, without what it would report to its makers
    runtime: Any = importlib.import_module("openvino")
    core = runtime.Core()
    devices = [f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME')})" for device in core.available_devices]
    return str(runtime.__version__).partition("-")[0], {"devices": ", ".join(devices)}


def _tensorrt() -> Facts:
    return str(library.import_tensorrt().__version__), {}


def _polygraphy() -> Facts:
    return _installed("polygraphy"), {}


def _cuda_bindings() -> Facts:
    """With the CUDA runtime in them, and the GPUs that it shows."""
    version = _installed("cuda-bindings")
    runtime = library.import_cuda_unchecked()
    finds: dict[str, Any] = {"runtime": _cuda_version(library.call(runtime.cudaRuntimeGetVersion))}
    _, count = runtime.cudaGetDeviceCount()
    if count:
        finds["gpus"] = [_gpu(runtime, device) for device in range(count)]
    return version, finds


def _gpu(runtime: Any, device: int) -> dict[str, str]:
    properties = library.call(runtime.cudaGetDeviceProperties, device)
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return {"name": name.strip("\0 "), "compute_capability": f"{properties.major}.{properties.minor}"}


def _cudnn() -> Facts:
    """The cuDNN that ONNX Runtime loads, or the wheel that has one."""
    try:
        number = int(ctypes.CDLL(gpu.CUDNN).cudnnGetVersion())
    except OSError as error:
        raise MissingError(f"`{gpu.CUDNN}` is not found, which ONNX Runtime needs on a GPU", gpu.LIBRARIES) from error
    return f"{number // 10_000}.{number % 10_000 // 100}.{number % 100}", {}


def _nvidia_driver() -> Facts:
    """With the highest CUDA that it takes, by the CUDA bindings or by NVML."""
    try:
        number = library.call(library.import_cuda_unchecked().cudaDriverGetVersion)
    except ImportError:
        number = _ask_nvml()
    if not number:
        raise MissingError(NO_DRIVER)
    driver = next((one["driver"] for one in environment.gpus()), "unknown")
    return driver, {"cuda": _cuda_version(number)}


def _ask_nvml() -> int:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ModuleNotFoundError as error:
        raise MissingError("not known without NVML's bindings", "pip install nvidia-ml-py") from error
    try:
        nvml.nvmlInit()
        return int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    except nvml.NVMLError as error:
        raise MissingError(f"{NO_DRIVER}: {error}") from error


def _installed(name: str) -> str:
    version = environment.library_version(name)
    if version is None:
        raise MissingError("not installed", library.INSTALL)
    return version


def _cuda_version(number: int) -> str:
    """`12080` → `12.8`."""
    return f"{number // 1000}.{number % 1000 // 10}"


LIBRARIES: dict[str, Callable[[], Facts]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "polygraphy": _polygraphy,
    "cuda-bindings": _cuda_bindings,
    "cudnn": _cudnn,
    "nvidia-driver": _nvidia_driver,
}
