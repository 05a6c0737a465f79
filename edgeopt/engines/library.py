"""The libraries that engines need, imported when they are, and named precisely where one is missing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from edgeopt import environment
from edgeopt.errors import BackendError, MissingError

INSTALL = "pip install 'edgeopt[tensorrt]'"
NO_GPU = "an engine is built on the device that runs it: see `edgeopt device build --help`"

#: the names that a missing library has for a user
NAMED = {"tensorrt": "TensorRT", "polygraphy": "Polygraphy", "cuda": "the CUDA bindings of Python"}


def import_tensorrt() -> Any:
    """`tensorrt`, 10 or 11.

    Raises:
        MissingError: it is not installed, cannot be loaded, or is of another major version.
    """
    with _named("tensorrt"):
        import tensorrt
    major = str(tensorrt.__version__).partition(".")[0]
    if major not in ("10", "11"):
        raise MissingError(f"TensorRT {tensorrt.__version__} is installed, edgeopt builds on 10 and 11", INSTALL)
    return tensorrt


def import_polygraphy() -> Any:
    """`polygraphy.backend.trt`, with what it says going to the logging of Python.

    Raises:
        MissingError: it is not installed.
    """
    import_tensorrt()
    with _named("polygraphy"):
        import polygraphy.backend.trt
        from polygraphy.logger import G_LOGGER
    G_LOGGER.use_python_logging_system = True
    return polygraphy.backend.trt


def import_cuda() -> Any:
    """`cuda.bindings.runtime`.

    Raises:
        MissingError: it is not installed, there is no GPU, or the driver is older than it.
    """
    with _named("cuda"):
        from cuda.bindings import runtime
    error, count = runtime.cudaGetDeviceCount()
    if not runtime.cudaDriverGetVersion()[1]:
        raise MissingError("there is no NVIDIA driver here", NO_GPU)
    if error == runtime.cudaError_t.cudaErrorInsufficientDriver:
        raise MissingError("the NVIDIA driver is older than the CUDA that is installed", "update the driver")
    if error != runtime.cudaError_t.cudaSuccess or not count:
        raise MissingError("there is no NVIDIA GPU here", NO_GPU)
    return runtime


def versions() -> dict[str, str]:
    """What decides, beside the graph, which engine a build makes, as far as it can be told without importing it."""
    installed = {name: environment.library_version(name) or "" for name in ("tensorrt", "polygraphy", "cuda-bindings")}
    return installed | {f"gpu {index}": str(gpu) for index, gpu in enumerate(environment.gpus())}


def call(function: Any, *arguments: Any) -> Any:
    """What a function of the CUDA runtime returns, without the status before it: nothing, one value, or several.

    Raises:
        BackendError: it did not succeed.
    """
    runtime = import_cuda_unchecked()
    status, *results = function(*arguments)
    if status == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise BackendError("the GPU is out of memory", "free some, or lower `batch`, `streams` or `workspace_mb`")
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        told = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise BackendError(f"the GPU failed in `{function.__name__}`: {told}")
    return None if not results else results[0] if len(results) == 1 else tuple(results)


def import_cuda_unchecked() -> Any:
    """`cuda.bindings.runtime`, which was checked before."""
    from cuda.bindings import runtime

    return runtime


@contextlib.contextmanager
def told_errors() -> Iterator[list[str]]:
    """Meanwhile, what TensorRT and Polygraphy tell of errors is gathered, and printed nowhere."""
    told: list[str] = []
    logger = logging.getLogger("Polygraphy")
    handler = _Gathering(told)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield told
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class _Gathering(logging.Handler):
    """Keeps the text of errors."""

    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        self._told.append(record.getMessage().strip())


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name a library that is not installed, or one that lacks a shared library."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(f"`tensorrt` needs {NAMED[name]}, which is not installed", INSTALL) from error
    except ImportError as error:
        raise MissingError(f"{NAMED[name]} cannot be loaded: {error}", INSTALL) from error
