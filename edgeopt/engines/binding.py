"""What an engine was built for, and whether this machine is that.

An engine holds kernels that were chosen by timing them: elsewhere it may not load, or be slower than it was proven.
So it is refused where anything differs that it was not built to be compatible with, before a byte of it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeopt.engines.library import call, describe_gpu, import_cuda_unchecked, import_tensorrt, version_of
from edgeopt.errors import BackendError

REBUILD = "build it anew on this machine: `edgeopt device build` on the folder that it was built from, or compile here"

NAMES = {"tensorrt": "TensorRT", "cuda": "CUDA", "driver": "driver", "compute_capability": "compute capability",
         "gpu": "GPU"}  # fmt: skip

#: the first generation that engines of level `ampere_plus` run on
AMPERE = (8, 0)


def describe_machine() -> dict[str, str]:
    """What an engine that is built here is bound to.

    Raises:
        MissingError: a library, or a GPU, is not there.
    """
    tensorrt, gpu = import_tensorrt(), describe_gpu()
    cuda = version_of(call(import_cuda_unchecked().cudaRuntimeGetVersion))
    return {"tensorrt": str(tensorrt.__version__), "cuda": cuda, **gpu}


def check_binding(requires: Mapping[str, str], here: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Refuse an engine that was built for something else.

    Args:
        requires: what it was built for, as `describe_machine` told it.
        here: this machine.
        settings: of the artifact: what it was built to be compatible with.

    Raises:
        BackendError: says everything that differs, and how to build it anew.
    """
    differing = [name for name in NAMES if name in requires and not _fits(name, requires[name], here, settings)]
    if differing:
        told = ", ".join(f"{NAMES[name]} {requires[name]} and not {here.get(name, 'none')}" for name in differing)
        raise BackendError(f"the engine was built for {told}", REBUILD)


def _fits(name: str, wanted: str, here: Mapping[str, str], settings: Mapping[str, Any]) -> bool:
    found, level = here.get(name, ""), settings.get("hardware_compatible", "none")
    if found == wanted:
        return True
    if name in ("tensorrt", "cuda", "driver"):
        return bool(settings.get("version_compatible")) and _number(found) >= _number(wanted)
    if level == "ampere_plus":
        return _number(here.get("compute_capability", "")) >= AMPERE
    return level == "same_compute_capability" and name == "gpu"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
