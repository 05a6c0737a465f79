"""What is installed and does not go together: each conflict with what resolves it.

Wheels are looked at by their metadata, so that nothing is imported. What `onnxruntime-gpu` goes with it says itself, in
the requirements of its extras `cuda` and `cudnn`.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from typing import NamedTuple

from edgeopt import environment

#: wheels that install the same import package, or library, over each other: at most one of each row may be installed
OVERLAID = (
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-migraphx",
     "onnxruntime-rocm", "onnxruntime-cann", "onnxruntime-training"),
    ("tensorrt-cu11-bindings", "tensorrt-cu12-bindings", "tensorrt-cu13-bindings"),
    ("tensorrt-cu11-libs", "tensorrt-cu12-libs", "tensorrt-cu13-libs"),
    ("nvidia-cudnn-cu11", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)  # fmt: skip

#: the wheels that TensorRT is made of, which are all of one release
TENSORRT = ("tensorrt", *(f"tensorrt-cu{cuda}{part}" for cuda in (11, 12, 13) for part in ("", "-bindings", "-libs")))

#: the libraries that `onnxruntime-gpu` needs, by the name of their wheel without the CUDA in it
NEEDED = ("nvidia-cuda-runtime", "nvidia-cudnn")
SUFFIXES = ("", "-cu11", "-cu12", "-cu13")

#: what goes with a driver that takes CUDA up to 12 only
FOR_CUDA_12 = {
    "onnxruntime-gpu": "pip install 'onnxruntime-gpu<1.27'",
    "tensorrt": "pip install tensorrt-cu12",
    "cuda-bindings": "pip install 'cuda-bindings<13'",
}


class Conflict(NamedTuple):
    """What does not go together, and what to do about it."""

    what: str
    remedy: str


def find_conflicts(built_for: str, driver: str, runs_cuda: bool) -> list[Conflict]:
    """All of them, the most common first.

    Args:
        built_for: the version of CUDA that the installed ONNX Runtime was built for; empty: none.
        driver: the highest version of CUDA that the NVIDIA driver takes; empty: there is none, or it did not say.
        runs_cuda: whether ONNX Runtime found all that it needs to run on a GPU: then wheels say nothing.
    """
    unwanted = () if runs_cuda else _unwanted()
    return [*_overlaid(), *_mixed_releases(), *unwanted, *_beyond_the_driver(built_for, driver)]


def _overlaid() -> Iterator[Conflict]:
    for row in OVERLAID:
        here = list(_installed(row))
        if len(here) > 1:
            remedy = "uninstall all of them, then install the one that you need"
            yield Conflict(f"{' and '.join(here)} are installed over each other", remedy)


def _mixed_releases() -> Iterator[Conflict]:
    here = _installed(TENSORRT)
    if len(set(here.values())) > 1:
        told = ", ".join(f"{name} {version}" for name, version in here.items())
        remedy = "uninstall all of them, then `pip install 'edgeopt[tensorrt]'`"
        yield Conflict(f"what is installed of TensorRT is of several releases: {told}", remedy)


def _unwanted() -> Iterator[Conflict]:
    """Wheels of libraries that `onnxruntime-gpu` does not go with, where there is none that it does."""
    for version in _installed(["onnxruntime-gpu"]).values():
        from packaging.requirements import Requirement  # which every `onnxruntime-gpu` brings

        for text in importlib.metadata.requires("onnxruntime-gpu") or ():
            wanted = Requirement(text)
            family = re.sub(r"-cu\d+$", "", wanted.name)
            here = _installed([family + suffix for suffix in SUFFIXES]) if family in NEEDED else {}
            cuda = _cuda_of(wanted.name, str(wanted.specifier))
            fits = [cuda == _cuda_of(name, one) and one in wanted.specifier for name, one in here.items()]
            if here and not any(fits):
                told = ", ".join(f"{name} {one}" for name, one in here.items())
                what = f"onnxruntime-gpu {version} needs {wanted.name}{wanted.specifier}, and there is {told}"
                yield Conflict(what, "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def _beyond_the_driver(built_for: str, driver: str) -> Iterator[Conflict]:
    """What is for a newer CUDA than the driver takes: an older one runs on every driver."""
    if not driver:
        return
    highest = _major(driver)
    for name, (version, cuda) in _built(built_for).items():
        if cuda > highest:
            what = f"{name} {version} is for CUDA {cuda}, and the NVIDIA driver takes CUDA up to {driver}"
            other = f", or `{FOR_CUDA_12[name]}`" if highest == 12 else ""
            yield Conflict(what, f"update the driver{other}")


def _built(built_for: str) -> dict[str, tuple[str, int]]:
    """Distribution → its version, and the CUDA that it was built for."""
    built: dict[str, tuple[str, int]] = {}
    for name, version in _installed(["onnxruntime-gpu"]).items():
        if built_for:
            built[name] = (version, _major(built_for))
    for name, version in _installed(OVERLAID[2]).items():
        built["tensorrt"] = (version, _cuda_of(name, version))
    for name, version in _installed(["cuda-bindings"]).items():
        built[name] = (version, _major(version))
    return built


def _installed(names: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Those of `names` that are installed, with their versions."""
    return {name: version for name in names if (version := environment.library_version(name))}


def _cuda_of(name: str, version: str) -> int:
    """The major version of CUDA that a wheel is for: in its name, or else its own, as of CUDA 13."""
    suffix = re.search(r"-cu(\d+)\b", name)
    return int(suffix[1]) if suffix else _major(version)


def _major(version: str) -> int:
    """The first number in a version, or in a requirement such as `~=13.0`."""
    found = re.search(r"\d+", version)
    return int(found[0]) if found else 0
