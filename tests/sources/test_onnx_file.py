"""OnnxFile: real graphs, settled and loaded, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeopt.errors import SourceError
from edgeopt.model import TensorSpec, load_model
from edgeopt.onnx_graph import load_graph
from edgeopt.sources import SourceRequest, load_source
from edgeopt.sources.onnx_file import read_inputs

Shape = Sequence[int | str | None]


def make_graph(
    shape: Shape = ("n", 1, 8, 8), output: Shape | None = ("n", 4), opset: int = 17, **extra: Any
) -> onnx.ModelProto:
    """A convolution, a global average, and what `extra` adds: nodes, inputs, outputs."""
    weight = np.random.default_rng(0).standard_normal((4, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
        *extra.get("nodes", []),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape), *extra.get("inputs", [])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output), *extra.get("outputs", [])]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [numpy_helper.from_array(weight, "weight")])
    opsets = [helper.make_opsetid("", opset), *extra.get("opsets", [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def make_request(folder: Path, graph: onnx.ModelProto, *inputs: TensorSpec) -> SourceRequest:
    onnx.save(graph, folder / "net.onnx")
    return SourceRequest(root=folder, onnx=folder / "net.onnx", inputs=inputs)


def load(folder: Path, graph: onnx.ModelProto, *inputs: TensorSpec) -> Any:
    return load_source("onnx_file", make_request(folder, graph, *inputs), folder / "out")


def fault(folder: Path, graph: onnx.ModelProto, *inputs: TensorSpec) -> SourceError:
    with pytest.raises(SourceError) as caught:
        load(folder, graph, *inputs)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not (folder / "out").exists()
    return caught.value


def image(*shape: int, name: str = "image") -> TensorSpec:
    return TensorSpec(name=name, shape=shape)


def test_a_graph_is_loaded_with_its_specs_and_facts(tmp_path: Path) -> None:
    model, facts = load(tmp_path, make_graph())
    assert model.inputs == (TensorSpec(name="image", shape=("batch", 1, 8, 8)),)
    assert model.outputs == (TensorSpec(name="logits", shape=("batch", 4)),)
    assert facts == {"parameters": 36, "nodes": 3, "summary": "3 nodes, 0.00 M parameters"}
    assert load_model(tmp_path / "out") == model.at(tmp_path / "out", tmp_path / "out")
    onnx.checker.check_model(load_graph(model.path), full_check=True)


def test_a_batch_fixed_at_one_stays_fixed(tmp_path: Path) -> None:
    model, _ = load(tmp_path, make_graph((1, 1, 8, 8), (1, 4)))
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((1, 1, 8, 8), (1, 4))


@pytest.mark.parametrize("installed", [True, False])
def test_open_sizes_are_settled_by_the_recipe_with_or_without_a_runtime(
    tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    graph = make_graph((None, 1, "h", "w"), ("n", "classes"))
    graph.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ("n", 4, "h", "w")))
    model, _ = load(tmp_path, graph, image(1, 6, 10))
    assert model.inputs[0].shape == ("batch", 1, 6, 10)
    assert [spec.shape for spec in model.outputs] == [("batch", 4), ("batch", 4, 6, 10)]
    assert [dim.dim_value for dim in load_graph(model.path).graph.input[0].type.tensor_type.shape.dim[2:]] == [6, 10]


def test_open_sizes_without_the_recipes_inputs_are_asked_for(tmp_path: Path) -> None:
    error = fault(tmp_path, make_graph(("n", 1, "h", 8)))
    assert "leaves sizes open: [n, 1, h, 8]" in error.message
    assert "`inputs:`" in error.hint


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (image(1, 8, 9), "is float32 [n, 1, 8, 8], the recipe says float32 [1, 8, 9]"),
        (image(8, 8), "the recipe says float32 [8, 8]"),
        (image(2, 1, 8, 8), "the recipe says float32 [2, 1, 8, 8]"),
        (TensorSpec(name="image", dtype="uint8", shape=(1, 8, 8)), "the recipe says uint8"),
        (image(1, 8, 8, name="imgae"), "has no input `imgae`"),
    ],
)
def test_inputs_that_contradict_the_recipe_are_refused(tmp_path: Path, spec: TensorSpec, says: str) -> None:
    assert says in fault(tmp_path, make_graph(), spec).message


def test_the_recipe_must_name_all_inputs_or_none(tmp_path: Path) -> None:
    second = helper.make_tensor_value_info("other", TensorProto.FLOAT, ("n", 4))
    graph = make_graph(
        inputs=[second],
        nodes=[helper.make_node("Add", ["logits", "other"], ["sum"])],
        outputs=[helper.make_tensor_value_info("sum", TensorProto.FLOAT, ("n", 4))],
    )
    assert "lack `other`" in fault(tmp_path, graph, image(1, 8, 8)).message
    model, _ = load(tmp_path, graph)
    assert [spec.shape[0] for spec in (*model.inputs, *model.outputs)] == ["batch"] * 4


@pytest.mark.parametrize("shape", [(8, 1, 8, 8), (0, 1, 8, 8)])
def test_a_first_axis_that_is_no_batch_is_refused(tmp_path: Path, shape: Shape) -> None:
    assert f"`image` of `{tmp_path / 'net.onnx'}` has shape" in fault(tmp_path, make_graph(shape)).message


def test_a_graph_that_only_runs_with_one_image_is_refused(tmp_path: Path) -> None:
    graph = make_graph(
        nodes=[helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[0], keepdims=1)],
        outputs=[helper.make_tensor_value_info("mean", TensorProto.FLOAT, (1, 4))],
    )
    assert "`mean`" in fault(tmp_path, graph).message
    assert "for a batch of 2" in fault(tmp_path, graph).message


def test_a_graph_that_fails_when_it_runs_is_refused(tmp_path: Path) -> None:
    graph = make_graph()
    graph.graph.initializer.append(numpy_helper.from_array(np.array([7, 7], np.int64), "wrong"))
    graph.graph.node.append(helper.make_node("Reshape", ["logits", "wrong"], ["shaped"]))
    graph.graph.output.append(helper.make_tensor_value_info("shaped", TensorProto.FLOAT, (7, 7)))
    assert "cannot be run" in fault(tmp_path, graph).message


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08", b"<html>not found</html>", b"\x00" * 100])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    request = make_request(tmp_path, make_graph())
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(SourceError, match=r"net\.onnx"):
        load_source("onnx_file", request, tmp_path / "out")


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    request = make_request(tmp_path, make_graph())
    whole = (tmp_path / "net.onnx").read_bytes()
    for size in range(0, len(whole), 11):
        (tmp_path / "net.onnx").write_bytes(whole[:size])
        with pytest.raises(SourceError, match=r"net\.onnx"):
            load_source("onnx_file", request, tmp_path / "out")


def test_a_missing_file_comes_with_the_nearest(tmp_path: Path) -> None:
    make_request(tmp_path, make_graph())
    request = SourceRequest(root=tmp_path, onnx=tmp_path / "nte.onnx")
    with pytest.raises(SourceError, match="there is no file") as caught:
        load_source("onnx_file", request, tmp_path / "out")
    assert caught.value.hint == "did you mean `net.onnx`?"


def test_a_graph_that_breaks_the_standard_is_refused(tmp_path: Path) -> None:
    assert (
        "not a sound ONNX graph" in fault(tmp_path, make_graph(nodes=[helper.make_node("Relu", ["no"], ["r"])])).message
    )


def test_old_operators_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    error = fault(tmp_path, make_graph(opset=12))
    assert "opset 12, at least 13" in error.message
    assert "version_converter" in error.hint


def test_custom_operators_are_refused_by_name(tmp_path: Path) -> None:
    graph = make_graph(
        nodes=[helper.make_node("Gelu", ["logits"], ["g"], domain="com.microsoft")],
        opsets=[helper.make_opsetid("com.microsoft", 1)],
    )
    assert "beyond the standard: com.microsoft.Gelu" in fault(tmp_path, graph).message


def test_control_flow_is_refused_by_name(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["logits"], ["kept"])],
        "branch",
        [],
        [helper.make_tensor_value_info("kept", TensorProto.FLOAT, ("n", 4))],
    )
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, ())
    node = helper.make_node("If", ["condition"], ["chosen"], then_branch=branch, else_branch=branch)
    assert "control flow: If" in fault(tmp_path, make_graph(nodes=[node], inputs=[condition])).message


def test_tensors_in_other_files_are_refused(tmp_path: Path) -> None:
    graph = make_graph()
    onnx.external_data_helper.convert_model_to_external_data(graph, location="weights.bin", size_threshold=0)
    assert "`weight`" in fault(tmp_path, graph).message


def test_outputs_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    node = helper.make_node("SplitToSequence", ["logits"], ["parts"], axis=1)
    assert "`parts`" in fault(tmp_path, make_graph(nodes=[node], outputs=[sequence])).message


def test_a_graph_without_inputs_is_refused(tmp_path: Path) -> None:
    graph = make_graph((1, 1, 8, 8), (1, 4))
    graph.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1, 8, 8), np.float32), "image"))
    assert "has no inputs" in fault(tmp_path, graph).message


def test_loading_twice_gives_the_same_digest(tmp_path: Path) -> None:
    request = make_request(tmp_path, make_graph())
    digests = {load_source("onnx_file", request, tmp_path / name)[0].digest() for name in ("one", "two")}
    assert len(digests) == 1


def test_inputs_are_read_as_they_are_declared(tmp_path: Path) -> None:
    onnx.save(make_graph(("n", 1, "h", None)), tmp_path / "net.onnx")
    assert read_inputs(tmp_path / "net.onnx") == (TensorSpec(name="image", shape=("n", 1, "h", "image_3")),)
