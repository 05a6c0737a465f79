"""Simplification: what goes, what stays, and that a graph that computes something else is never written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeopt import onnx_graph
from edgeopt.context import Context
from edgeopt.errors import PassError
from edgeopt.model import Model, OnnxValue, write_model
from edgeopt.passes import simplify_onnx
from edgeopt.passes.simplify_onnx import SimplifyOnnx

FLOAT = onnx.TensorProto.FLOAT


def make_model(
    folder: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shapes: tuple[list[int | str], list[int | str]] = (["batch", 2, 4, 4], ["batch", 3, 4, 4]),
    stale: list[onnx.ValueInfoProto] | None = None,
) -> Model:
    """A graph from `x` to `y` as a model in `folder`."""
    ends = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in zip("xy", shapes, strict=True)]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors, value_info=stale or []),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=8,
    )
    onnx_graph.save_graph(graph, folder / "model.onnx")
    specs = onnx_graph.input_specs(graph), onnx_graph.output_specs(graph)
    return write_model(Model(value=OnnxValue(), inputs=specs[0], outputs=specs[1], folder=folder), folder)


def convolution(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {"w": generator.standard_normal((3, 2, 1, 1), np.float32), "b": generator.standard_normal(3, np.float32)}


def operators(model: Model) -> list[str]:
    return [node.op_type for node in onnx.load(model.path).graph.node]


def test_what_computes_nothing_goes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["b"], ["b1"]),
        helper.make_node("Dropout", ["x"], ["d"]),
        helper.make_node("Conv", ["d", "w", "b1"], ["c"]),
        helper.make_node("Identity", ["c"], ["i"]),
        helper.make_node("Relu", ["i"], ["y"]),
    ]
    result = SimplifyOnnx()(make_model(tmp_path / "given", nodes, convolution()), Context(folder=tmp_path))
    assert operators(result.model) == ["Conv", "Relu"]
    assert result.facts["summary"] == "5 → 2 nodes"
    assert (result.facts["nodes_before"], result.facts["nodes_after"]) == (5, 2)


def test_constants_are_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["p", "p"], ["q"]),
        helper.make_node("Mul", ["q", "p"], ["r"]),
        helper.make_node("Sub", ["x", "r"], ["y"]),
    ]
    shapes: tuple[list[int | str], list[int | str]] = (["batch", 2], ["batch", 2])
    model = make_model(tmp_path / "given", nodes, {"p": np.float32([3])}, shapes)
    simplified = SimplifyOnnx()(model, Context(folder=tmp_path)).model
    assert operators(simplified) == ["Sub"]
    session = onnx_graph.make_session(onnx_graph.load_graph(simplified.path))
    np.testing.assert_array_equal(onnx_graph.run_session(session, {"x": np.float32([[20, 0]])})["y"], [[2, -18]])


def test_normalization_is_folded_into_its_convolution(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    statistics = {name: generator.uniform(0.5, 1.5, 3).astype(np.float32) for name in ("s", "o", "m", "v")}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "o", "m", "v"], ["y"]),
    ]
    model = make_model(tmp_path / "given", nodes, convolution() | statistics)
    result = SimplifyOnnx()(model, Context(folder=tmp_path))
    assert operators(result.model) == ["Conv"]
    assert float(result.facts["max_difference"]) < 1e-5


def test_stale_shapes_are_replaced_by_true_ones(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    stale = [helper.make_tensor_value_info("c", FLOAT, ["batch", 64, 9, 9])]
    model = make_model(tmp_path / "given", nodes, convolution(), stale=stale)
    simplified = SimplifyOnnx()(model, Context(folder=tmp_path)).model
    (found,) = onnx.load(simplified.path).graph.value_info
    dims = [dim.dim_param or dim.dim_value for dim in found.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 4, 4]


def test_the_second_time_nothing_changes(onnx_model: Model, tmp_path: Path) -> None:
    once = SimplifyOnnx()(onnx_model, Context(folder=tmp_path / "once"))
    twice = SimplifyOnnx()(once.model, Context(folder=tmp_path / "twice"))
    assert not twice.changed
    assert twice.model.digest() == once.model.digest()


def test_quantized_weights_stay_integers(tmp_path: Path) -> None:
    """Folding a DequantizeLinear of constants would turn an int8 network into a float one, with the same outputs."""
    scale = {"s": np.float32(0.05), "z": np.uint8(128), "ws": np.float32(0.01), "wz": np.int8(0)}
    weights = {"wq": np.random.default_rng(0).integers(-127, 128, (3, 2, 1, 1)).astype(np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["y"]),
    ]
    model = make_model(tmp_path / "given", nodes, scale | weights)
    simplified = SimplifyOnnx()(model, Context(folder=tmp_path)).model
    assert sorted(operators(simplified)) == ["Conv", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear"]


def test_other_outputs_are_a_named_failure(onnx_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(given: onnx.ModelProto) -> onnx.ModelProto:
        spoiled = onnx.ModelProto()
        spoiled.CopyFrom(given)
        for tensor in spoiled.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
        return spoiled

    monkeypatch.setattr(simplify_onnx, "_simplify", spoil)
    with pytest.raises(PassError, match=r"outputs differ by \de-0[12], allowed is 1e-04") as caught:
        SimplifyOnnx()(onnx_model, Context(folder=tmp_path))
    assert "simplify_onnx" in caught.value.hint
    assert not (tmp_path / "model.onnx").exists()


def test_other_names_are_a_named_failure(onnx_model: Model, tmp_path: Path) -> None:
    renamed = onnx_model.outputs[0].model_copy(update={"name": "scores"})
    with pytest.raises(PassError, match=r"changed inputs and outputs to .*`output`"):
        SimplifyOnnx()(onnx_model.model_copy(update={"outputs": (renamed,)}), Context(folder=tmp_path))


def test_nothing_is_said_on_any_stream(
    onnx_model: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    SimplifyOnnx()(onnx_model, Context(folder=tmp_path))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
