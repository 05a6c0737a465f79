"""OpenVINO on GPUs and NPUs, as far as it can be told without one: on the CPU, by the same code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeopt import environment, onnx_graph
from edgeopt.backends import Backend
from edgeopt.backends.openvino_cpu import OpenvinoCpu
from edgeopt.backends.openvino_gpu import OpenvinoGpu
from edgeopt.backends.openvino_npu import OpenvinoNpu
from edgeopt.context import Context
from edgeopt.errors import BackendError
from edgeopt.model import Artifact, Model
from edgeopt.openvino_sessions import devices

if environment.library_version("openvino") is None:  # looked up, and not imported: see `openvino_sessions`
    pytest.skip("OpenVINO is not installed", allow_module_level=True)

#: in which OpenVINO computes on this CPU where it is asked to
FLOATS_HERE = ("f32", *(("f16",) if "avx512_fp16" in environment.cpu_flags() else ()))


@pytest.fixture
def as_if(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the device: all but its name is real."""
    monkeypatch.setattr(devices, "require_device", lambda kind, number=0: "CPU")
    monkeypatch.setattr("edgeopt.backends.openvino_npu.KIND", "CPU")


def build(backend: Backend, model: Model, folder: Path) -> Artifact:
    return backend.build(model, Context(folder=folder, target="here", batch=2), folder)


def run(backend: Backend, artifact: Artifact) -> Any:
    with backend.open(artifact) as session:
        return session.run(onnx_graph.random_inputs(artifact.inputs, 2, seed=0))["output"]


def test_gpus_want_zero_points_and_npus_none_and_both_all_bits_of_weights() -> None:
    gpu, npu = OpenvinoGpu().profile(["avx2"]), OpenvinoNpu().profile(["avx2"])
    assert (gpu.activation_dtype, gpu.activation_symmetric) == ("uint8", False)
    assert (npu.activation_dtype, npu.activation_symmetric) == ("int8", True)
    assert (gpu.weight_dtype, gpu.weight_bits, npu.weight_dtype, npu.weight_bits) == ("int8", 8, "int8", 8)


@pytest.mark.usefixtures("as_if")
@pytest.mark.parametrize(("backend", "precision"), [(OpenvinoGpu(), "f32"), (OpenvinoNpu(), "f16")])
def test_facts_tell_the_device_and_the_precision(
    backend: Backend, precision: str, onnx_model: Model, tmp_path: Path
) -> None:
    artifact = build(backend, onnx_model, tmp_path)
    assert artifact.facts["device"]
    assert artifact.facts["float precision"] == precision
    expected = run(OpenvinoCpu(), build(OpenvinoCpu(), onnx_model, tmp_path / "cpu"))
    half = precision == "f16" and "f16" in FLOATS_HERE  # a CPU without float16 computes in float32 all the same
    bounds = {"rtol": 2e-2, "atol": 1e-3} if half else {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(run(backend, artifact), expected, **bounds)


@pytest.mark.usefixtures("as_if")
def test_facts_of_a_gpu_count_nodes_by_what_they_compute_in(onnx_model: Model, tmp_path: Path) -> None:
    counted = {
        name: value
        for name, value in build(OpenvinoGpu(), onnx_model, tmp_path).facts.items()
        if name.startswith("nodes")
    }
    assert set(counted) == {"nodes in f32"}
    assert counted["nodes in f32"] > 5  # type: ignore[operator]


@pytest.mark.skipif("f16" in FLOATS_HERE, reason="this CPU has float16")
@pytest.mark.usefixtures("as_if")
def test_float16_that_a_device_lacks_is_never_dropped(onnx_model: Model, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="computes in f32 on this CPU, and was asked for f16"):
        build(OpenvinoGpu(float16=True), onnx_model, tmp_path)


@pytest.mark.usefixtures("as_if")
@pytest.mark.parametrize("backend", [OpenvinoGpu(cache=True), OpenvinoNpu(cache=True)])
def test_a_compiled_network_is_kept(
    backend: Backend, onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(devices.NODES, "CPU", "class/none")
    monkeypatch.setitem(devices.DRIVERS, "CPU", ())
    artifact = build(backend, onnx_model, tmp_path / "built")
    np.testing.assert_array_equal(run(backend, artifact), run(backend, artifact))
    assert len(list((tmp_path / "cache").rglob("*.memo"))) == 1


@pytest.mark.usefixtures("as_if")
def test_an_npu_takes_no_axis_that_is_left_open(onnx_model: Model, tmp_path: Path) -> None:
    spec = onnx_model.inputs[0]
    opened = spec.model_copy(update={"shape": (*spec.shape[:2], "height", *spec.shape[3:])})
    with pytest.raises(BackendError, match="fixed shapes, and `image` has the axis `height`") as caught:
        build(OpenvinoNpu(), onnx_model.model_copy(update={"inputs": (opened,)}), tmp_path)
    assert "`inputs:`" in caught.value.hint
