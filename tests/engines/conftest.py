"""A GPU with TensorRT, made of fakes that the contract test holds against the real modules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt.context import Context
from edgeopt.data import Samples
from edgeopt.data.preprocess import Preprocess
from edgeopt.model import Model

HERE = Path(__file__).parent

# Test files here import `fake_gpu`, `real_api` and `describe` by name; the fakes come onto the path by the fixture.
sys.path.insert(0, str(HERE))

from fake_gpu import VARIABLE, VERSIONS, FakeGpu  # noqa: E402

FAKES = HERE / "fakes"

#: loaded anew for each test: the fakes, and what remembers them
FAKED = ("tensorrt", "cuda", "polygraphy")

#: `PYTHONPATH` of a process that is started without edgeopt's workers, which inherit the path of the test
PATH = os.pathsep.join([str(FAKES), str(HERE)])


class GpuInPlace:
    """What a test does to the GPU: `set` changes it, for this process and for those that are started from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, major: int) -> None:
        self._monkeypatch = monkeypatch
        self.now = FakeGpu(version=VERSIONS[major])
        self.set()

    @property
    def major(self) -> int:
        return int(self.now.version.partition(".")[0])

    def set(self, **changes: Any) -> None:
        """Change fields of `FakeGpu`; the version is that of `import tensorrt`, so `reload` follows a change of it."""
        self.now = replace(self.now, **changes)
        self._monkeypatch.setenv(VARIABLE, self.now.written())

    def reload(self) -> None:
        """Have the modules imported anew, as another process would."""
        _forget()

    def alive(self) -> dict[str, int]:
        """How many allocations, streams, events and graphs this process has made and not freed."""
        from cuda.bindings import _state

        return _state.alive()


@pytest.fixture
def fake_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuInPlace]:
    """`tensorrt` and `cuda.bindings.runtime` are the fakes, here and in workers.

    TensorRT is 11, or what a test asks for: `@pytest.mark.parametrize("fake_gpu", [10, 11], indirect=True)`.
    """
    before = _forget()
    monkeypatch.syspath_prepend(str(FAKES))
    yield GpuInPlace(monkeypatch, getattr(request, "param", 11))
    _forget()
    sys.modules.update(before)


@pytest.fixture(scope="session")
def int8_model(onnx_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The network with pairs where TensorRT wants them."""
    from edgeopt.passes.quantize_int8 import QuantizeInt8
    from edgeopt.quantization.profiles import TENSORRT

    folder = tmp_path_factory.mktemp("int8")
    images = np.random.default_rng(0).standard_normal((100, 1, 16, 16)).astype(np.float32)
    np.savez(folder / "samples.npz", image=images)
    samples = Samples("npz", folder / "samples.npz", ("image",), Preprocess())
    context = Context(folder=folder / "quantized", calibration=samples, profile=TENSORRT)
    return QuantizeInt8()(onnx_model, context).model


def _forget() -> dict[str, Any]:
    loaded = [name for name in sys.modules if name.partition(".")[0] in FAKED]
    return {name: sys.modules.pop(name) for name in loaded}
