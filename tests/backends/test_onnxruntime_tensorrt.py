"""ONNX Runtime by TensorRT: flags from the graph alone, and engines that belong to their artifact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeopt import onnx_graph
from edgeopt.backends import build_artifact, opened
from edgeopt.backends.onnxruntime_tensorrt import OnnxruntimeTensorrt, precision_flags, require_same_engines
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Model
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.profiles import TENSORRT
from edgeopt.quantization.scheme import make_scheme


def quantize(model: Model, folder: Path) -> Model:
    """The network with the pairs that TensorRT wants."""
    profile = OnnxruntimeTensorrt().profile()
    graph = fold(onnx_graph.load_graph(model.path))
    placement = make_placement(graph, profile)
    ranges = {pair.tensor: Range(-4.0, 4.0) for pair in placement.pairs}
    onnx_graph.save_graph(insert_pairs(graph, make_scheme(graph, placement, ranges, profile)), folder / "model.onnx")
    return model.at(folder, folder)


def test_it_wants_the_pairs_of_tensorrt() -> None:
    assert OnnxruntimeTensorrt().profile() == TENSORRT


def test_precision_is_what_the_graph_says(onnx_model: Model, tmp_path: Path) -> None:
    graph = onnx_graph.load_graph(onnx_model.path)
    assert precision_flags(graph) == {}
    assert precision_flags(onnx_graph.load_graph(quantize(onnx_model, tmp_path).path)) == {"trt_int8_enable": "1"}
    half = np.zeros(3, np.float16)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(half, "half"))
    assert precision_flags(graph) == {"trt_fp16_enable": "1"}


def test_a_cast_to_float16_is_float16() -> None:
    cast = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT16)
    back = onnx.helper.make_node("Cast", ["y"], ["z"], to=onnx.TensorProto.FLOAT)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "z")]
    for nodes, flags in (([cast, back], {"trt_fp16_enable": "1"}), ([back], {})):
        graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
        assert precision_flags(onnx.helper.make_model(graph)) == flags


def test_options_go_to_tensorrt_by_its_names(tmp_path: Path) -> None:
    assert OnnxruntimeTensorrt().provider_options(tmp_path) == {
        "device_id": "0", "trt_builder_optimization_level": "3", "trt_cuda_graph_enable": "0",
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(tmp_path),
    }  # fmt: skip
    asked = OnnxruntimeTensorrt(workspace_mb=256, builder_optimization_level=5)
    found = asked.provider_options(tmp_path, tmp_path / "timings")
    assert found["trt_max_workspace_size"] == "256000000"
    assert found["trt_timing_cache_path"] == str(tmp_path / "timings")
    without = asked.model_copy(update={"timing_cache": False}).provider_options(tmp_path, tmp_path / "timings")
    assert not {name for name in without if "timing" in name}


def test_an_engine_that_was_built_when_a_session_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "first.engine").touch()
    require_same_engines(["first.engine"], tmp_path)
    (tmp_path / "second.engine").touch()
    with pytest.raises(BackendError, match=r"built `second\.engine` anew"):
        require_same_engines(["first.engine"], tmp_path)


def needs_gpu() -> None:
    try:
        OnnxruntimeTensorrt().available()
    except MissingError as error:
        pytest.skip(error.message)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["float", "int8"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_engines_are_built_once_and_agree(
    onnx_model: Model, tmp_path: Path, kind: str, cuda_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_gpu()
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    model = onnx_model if kind == "float" else quantize(onnx_model, tmp_path / "int8")
    context = Context(folder=tmp_path / "built", batch=2)
    artifact = build_artifact("onnxruntime_tensorrt", model, context, {"cuda_graph": cuda_graph})
    assert str(artifact.facts["coverage"]).startswith("TensorRT 100 % of nodes")
    assert [file.path for file in artifact.files if file.path.endswith(".engine")]
    before = {path: path.read_bytes() for path in artifact.folder.rglob("*") if path.is_file()}
    inputs = onnx_graph.random_inputs(model.inputs, 2, seed=0)
    expected = onnx_graph.run_session(onnx_graph.make_session(model.path.read_bytes(), as_written=True), inputs)
    with opened(artifact) as session:
        for _ in range(4):
            tolerance = 1e-3 if kind == "float" else 0.05
            np.testing.assert_allclose(session.run(inputs)["output"], expected["output"], rtol=1e-3, atol=tolerance)
    assert {path: path.read_bytes() for path in artifact.folder.rglob("*") if path.is_file()} == before


@pytest.mark.gpu
def test_an_artifact_without_its_engines_does_not_open_with_others(
    onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_gpu()
    monkeypatch.setenv("EDGEOPT_CACHE", str(tmp_path / "cache"))
    artifact = build_artifact("onnxruntime_tensorrt", onnx_model, Context(folder=tmp_path / "built", batch=2))
    graph_only = tuple(file for file in artifact.files if file.path == "model.onnx")
    with pytest.raises(BackendError, match="anew"):
        OnnxruntimeTensorrt().open(artifact.model_copy(update={"files": graph_only}))
