"""ONNX Runtime by CUDA: what is asked of it anywhere, and on a GPU that it does it there and nowhere else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from edgeopt import onnx_graph
from edgeopt.backends import build_artifact, get, opened
from edgeopt.backends.onnxruntime_cuda import OnnxruntimeCuda
from edgeopt.context import Context
from edgeopt.errors import BackendError, MissingError
from edgeopt.model import Model


def test_float_products_are_not_rounded_and_nothing_is_limited_unless_asked() -> None:
    assert OnnxruntimeCuda().provider_options() == {
        "device_id": "0", "cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0", "enable_cuda_graph": "0",
    }  # fmt: skip
    asked = OnnxruntimeCuda(
        device_id=1, arena_mb=64, cudnn_conv_algo_search="heuristic", use_tf32=True, cuda_graph=True
    )
    assert asked.provider_options() == {
        "device_id": "1", "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "1", "enable_cuda_graph": "1",
        "gpu_mem_limit": "64000000",
    }  # fmt: skip


@pytest.mark.parametrize("backend", ["onnxruntime_cuda", "onnxruntime_tensorrt"])
def test_a_captured_graph_is_of_the_gpu_alone(backend: str) -> None:
    with pytest.raises(ValidationError, match="without `allow_cpu`"):
        get(backend, {"cuda_graph": True, "allow_cpu": True})


def test_it_runs_no_integers() -> None:
    assert OnnxruntimeCuda().profile() is None


def needs_gpu() -> None:
    try:
        OnnxruntimeCuda().available()
    except MissingError as error:
        pytest.skip(error.message)


def expected(model: Model, batch: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    inputs = onnx_graph.random_inputs(model.inputs, batch, seed)
    return inputs, onnx_graph.run_session(onnx_graph.make_session(model.path.read_bytes()), inputs)["output"]


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"cudnn_conv_algo_search": "heuristic"}, {"arena_mb": 512}])
def test_every_node_runs_on_the_gpu_and_agrees(onnx_model: Model, tmp_path: Path, options: dict[str, object]) -> None:
    needs_gpu()
    artifact = build_artifact("onnxruntime_cuda", onnx_model, Context(folder=tmp_path, batch=2), options)
    assert artifact.facts["coverage"] == "CUDA 100 % of nodes, 100 % of time"
    with opened(artifact) as session:
        for batch in (2, 5, 2):
            inputs, output = expected(onnx_model, batch)
            np.testing.assert_allclose(session.run(inputs)["output"], output, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
def test_a_captured_graph_gives_the_same_and_takes_one_batch(onnx_model: Model, tmp_path: Path) -> None:
    needs_gpu()
    artifact = build_artifact("onnxruntime_cuda", onnx_model, Context(folder=tmp_path, batch=2), {"cuda_graph": True})
    assert artifact.inputs[0].shape[0] == 2
    with opened(artifact) as session:
        for seed in range(5):  # captured in the first runs, launched in the others
            inputs, output = expected(onnx_model, 2, seed)
            np.testing.assert_allclose(session.run(inputs)["output"], output, rtol=1e-3, atol=1e-4)
        with pytest.raises(BackendError, match="expected `image`"):
            session.run(expected(onnx_model, 3)[0])
        cases = [expected(onnx_model, 2, seed) for seed in range(4)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda number: session.run(cases[number % 4][0])["output"], range(40)))
    for number, output in enumerate(found):
        np.testing.assert_allclose(output, cases[number % 4][1], rtol=1e-3, atol=1e-4)


def determinant(folder: Path) -> Model:
    """Relu, which CUDA takes, and Det, which it does not."""
    nodes = [onnx.helper.make_node("Relu", ["image"], ["r"]), onnx.helper.make_node("Det", ["r"], ["output"])]
    ends = [
        onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 3, 3]),
        onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx_graph.save_graph(model, folder / "model.onnx")
    specs = {"inputs": onnx_graph.input_specs(model), "outputs": onnx_graph.output_specs(model)}
    return Model.model_validate({"value": {"form": "onnx"}, **specs}).at(folder, folder)


@pytest.mark.gpu
def test_an_operator_that_cuda_lacks_is_named_unless_the_cpu_is_allowed(tmp_path: Path) -> None:
    needs_gpu()
    model = determinant(tmp_path / "model")
    with pytest.raises(BackendError, match="not on CUDA, but on CPU ran Det"):
        build_artifact("onnxruntime_cuda", model, Context(folder=tmp_path / "strict"))
    artifact = build_artifact("onnxruntime_cuda", model, Context(folder=tmp_path / "cpu"), {"allow_cpu": True})
    assert "CPU 50 % of nodes" in str(artifact.facts["coverage"])
    assert int(artifact.facts["copies"]) >= 1
    with opened(artifact) as session:
        inputs, output = expected(model, 4)
        np.testing.assert_allclose(session.run(inputs)["output"], output, rtol=1e-3, atol=1e-4)
