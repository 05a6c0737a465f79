"""The libraries that engines need, imported when they are, and named precisely where one is missing."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from edgeopt import environment
from edgeopt.errors import BackendError, MissingError

INSTALL = "pip install 'edgeopt[tensorrt]'"
VERBOSE = "see all its messages with `edgeopt compile --verbose`"
LESS_MEMORY = "free some memory of the GPU, or lower `batch`, `streams` or `workspace_mb`"
NO_GPU = "an engine is built on the device that runs it: see `edgeopt device build --help`"

#: the names that a missing library has for a user
NAMED = {"tensorrt": "TensorRT", "polygraphy": "Polygraphy", "cuda": "the CUDA bindings of Python"}

#: how TensorRT says that memory is short
MEMORY = re.compile(r"out ?of ?memory|cannot allocate|insufficient (memory|workspace)", re.IGNORECASE)


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
    """`polygraphy.backend.trt`, with what it and TensorRT say going to whoever is `listening`, and nowhere else.

    Raises:
        MissingError: it is not installed.
    """
    import_tensorrt()
    with _named("polygraphy"):
        import polygraphy.backend.trt
        from polygraphy.logger import G_LOGGER
    G_LOGGER.use_python_logging_system = True
    logging.getLogger("Polygraphy").propagate = False
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
    """What decides, beside the graph, which engine a build makes, or whether there is one.

    TensorRT is not imported for it. CUDA is asked as well as the driver's library, which a Jetson has not, and which
    tells of GPUs that this process may not see.
    """
    installed = {name: environment.library_version(name) or "" for name in ("tensorrt", "polygraphy", "cuda-bindings")}
    gpus = {f"gpu {index}": str(gpu) for index, gpu in enumerate(environment.gpus())}
    try:
        seen = ", ".join(describe_gpu().values())
    except MissingError as error:
        seen = error.message
    return installed | gpus | {"cuda": seen}


def describe_gpu() -> dict[str, str]:
    """The GPU that engines are built for and run on, and its driver.

    Raises:
        MissingError: it, the driver, or the library that tells of it is not there.
    """
    runtime = import_cuda()
    properties = call(runtime.cudaGetDeviceProperties, 0)
    name = properties.name
    return {
        "driver": version_of(call(runtime.cudaDriverGetVersion)),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "gpu": (name.decode() if isinstance(name, bytes) else str(name)).strip("\0 "),
    }


def version_of(number: int) -> str:
    """`12080` → `12.8`."""
    return f"{number // 1000}.{number % 1000 // 10}"


def call(function: Any, *arguments: Any) -> Any:
    """What a function of the CUDA runtime returns, without the status before it: nothing, one value, or several.

    Raises:
        BackendError: it did not succeed.
    """
    runtime = import_cuda_unchecked()
    status, *results = function(*arguments)
    if status == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise BackendError("the GPU is out of memory", LESS_MEMORY)
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        told = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise BackendError(f"the GPU failed in `{function.__name__}`: {told}")
    return None if not results else results[0] if len(results) == 1 else tuple(results)


def import_cuda_unchecked() -> Any:
    """`cuda.bindings.runtime`, which was checked before."""
    from cuda.bindings import runtime

    return runtime


@dataclass
class Told:
    """What TensorRT and Polygraphy told while somebody listened."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def cause(self) -> str:
        """The last error that says something; Polygraphy adds one that does not."""
        return next((line for line in reversed(self.errors) if line and "Invalid Engine" not in line), "")

    def error(self, what: str, hint: str) -> BackendError:
        """An error of TensorRT's, with what it told; its log has all of that."""
        cause = self.cause
        if MEMORY.search(cause):
            hint = LESS_MEMORY
        return BackendError(f"{what}: {cause}" if cause else what, hint, "\n".join([*self.warnings, *self.errors]))


@contextlib.contextmanager
def listening() -> Iterator[Told]:
    """Meanwhile, what TensorRT and Polygraphy tell of errors and warnings is gathered."""
    told = Told()
    logger, handler = logging.getLogger("Polygraphy"), _Gathering(told)
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


class _Gathering(logging.Handler):
    """Keeps the text of errors and warnings."""

    def __init__(self, told: Told) -> None:
        super().__init__(logging.WARNING)
        self._told = told

    def emit(self, record: logging.LogRecord) -> None:
        kept = self._told.errors if record.levelno >= logging.ERROR else self._told.warnings
        kept.append(record.getMessage().strip())


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name a library that is not installed, or one that lacks a shared library."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(f"`tensorrt` needs {NAMED[name]}, which is not installed", INSTALL) from error
    except ImportError as error:
        raise MissingError(f"{NAMED[name]} cannot be loaded: {error}", INSTALL) from error
