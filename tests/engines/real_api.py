"""What the real `tensorrt` and `cuda.bindings.runtime` offer, read off them where no TensorRT and no GPU is.

TensorRT's bindings are on the package index, the libraries that they load are not. So the bindings of the newest 10.x
and 11.x are fetched, and empty libraries are compiled in place of those that they look for: that is enough to import
the module in a process of its own and to read every class, enum and signature, though nothing in it works. What was
read is kept beside the wheel below `.venv`, so that a machine without a network does it once. Who lacks a compiler, the
network or a wheel for its Python skips the tests that ask.

Bindings and description stay on the machine that fetched them; nothing of them is in the repository.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_gpu import VERSIONS
from filelock import FileLock

from edgeopt import files

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".venv" / "real-apis"
DESCRIBE = Path(__file__).with_name("describe.py")

#: of `cuda-bindings`, the newest of the series before the one that is installed
OLDER_CUDA = "12.9.10"

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

#: what the bindings import from the three libraries, all together
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip


def real_tensorrt(major: int) -> dict[str, Any]:
    """The description of the real module of one major version, as `describe` makes it; skips where it cannot be had."""
    return _kept(f"tensorrt-{VERSIONS[major]}", lambda folder: _read_tensorrt(folder, major))


def real_cuda(version: str = "") -> dict[str, Any]:
    """The same of `cuda.bindings.runtime`: the installed one, or a version of the package index."""
    if not version:
        return _described("cuda.bindings.runtime")
    return _kept(f"cuda-{version}", lambda folder: _read_cuda(folder, version))


def _kept(name: str, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / f"{files.hash_file(DESCRIBE)[:16]}.json"
    with FileLock(folder / "lock"):
        if not described.is_file():
            described.write_text(json.dumps(read(folder)), encoding="utf8")
    found: dict[str, Any] = json.loads(described.read_text(encoding="utf8"))
    return found


def _read_tensorrt(folder: Path, major: int) -> dict[str, Any]:
    bindings = _fetched(folder, "tensorrt_cu12_bindings", VERSIONS[major])
    return _described("tensorrt_bindings", LD_LIBRARY_PATH=str(_compiled(folder, major)), PYTHONPATH=str(bindings))


def _read_cuda(folder: Path, version: str) -> dict[str, Any]:
    return _described("cuda.bindings.runtime", PYTHONPATH=str(_fetched(folder, "cuda-bindings", version)))


def _described(module: str, **environ: str) -> dict[str, Any]:
    command = [sys.executable, str(DESCRIBE), module]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"`{module}` cannot be imported:\n{done.stderr}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _fetched(folder: Path, package: str, version: str) -> Path:
    """The unpacked wheel, from whatever index pip is set up for."""
    unpacked = folder / "wheel"
    if not unpacked.is_dir():
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command = [*fetch, "--dest", str(folder), f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            pytest.skip(f"no {package} {version} for this Python from the package index: {reason}")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "unpacking")
        (folder / "unpacking").rename(unpacked)
    return unpacked


def _compiled(folder: Path, major: int) -> Path:
    """A folder with a library of each name that the bindings load, which has what they look for and does nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, which stands in for the libraries of TensorRT: install gcc")
    libraries = folder / "libraries"
    libraries.mkdir(exist_ok=True)
    source = "".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS)
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(libraries / name), "-x", "c", "-"]
        subprocess.run(command, input=source, text=True, capture_output=True, check=True)
    return libraries
