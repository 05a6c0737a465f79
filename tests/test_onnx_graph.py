"""Graphs in and out of files, and the difference of outputs, on which every pass over graphs relies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper, numpy_helper

from edgeopt import onnx_graph
from edgeopt.errors import PassError, SourceError
from edgeopt.model import Model, TensorSpec

FLOAT = onnx.TensorProto.FLOAT


def make_graph(nodes: list[onnx.NodeProto], constants: dict[str, float] | None = None) -> onnx.ModelProto:
    """A graph from `x` to `y`, both (batch, 2)."""
    ends = [helper.make_tensor_value_info(name, FLOAT, ["batch", 2]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.float32([value]), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def test_a_graph_comes_back_as_it_was_written(tmp_path: Path) -> None:
    graph = make_graph([helper.make_node("Relu", ["x"], ["y"])])
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    loaded = onnx_graph.load_graph(tmp_path / "model.onnx")
    assert loaded.graph.SerializeToString() == graph.graph.SerializeToString()
    assert onnx_graph.input_specs(loaded) == (TensorSpec(name="x", shape=("batch", 2)),)
    assert onnx_graph.output_specs(loaded) == (TensorSpec(name="y", shape=("batch", 2)),)


def test_written_bytes_hold_no_trace_of_where_they_came_from() -> None:
    plain = make_graph([helper.make_node("Relu", ["x"], ["y"])])
    told = onnx.ModelProto()
    told.CopyFrom(plain)
    told.producer_name, told.producer_version, told.doc_string = "pytorch", "2.13", "/home/someone"
    for message in (told, told.graph, told.graph.node[0], told.graph.input[0], told.graph.output[0]):
        message.metadata_props.add(key="stack_trace", value="/home/someone/network.py")
    told.graph.node[0].doc_string = "network.py(12)"
    assert onnx_graph.serialize(told) == onnx_graph.serialize(plain)
    assert told.producer_name == "pytorch", "the given graph is left as it is"


def test_a_subgraph_is_cleaned_as_well() -> None:
    inner = helper.make_node("Relu", ["x"], ["r"], doc_string="/home/someone")
    branch = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("r", FLOAT, ["batch", 2])])
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    assert b"/home/someone" not in onnx_graph.serialize(make_graph([condition, choice]))


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x08\x08"], ids=["empty", "text", "no nodes"])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(SourceError, match="does not parse as ONNX"):
        onnx_graph.load_graph(tmp_path / "model.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot read .*nowhere\.onnx"):
        onnx_graph.load_graph(tmp_path / "nowhere.onnx")


def test_every_truncation_is_refused_or_parses_as_less(onnx_model: Model, tmp_path: Path) -> None:
    whole = onnx_model.path.read_bytes()
    for length in range(0, len(whole), len(whole) // 50):
        (tmp_path / "model.onnx").write_bytes(whole[:length])
        with pytest.raises(SourceError):
            onnx_graph.load_graph(tmp_path / "model.onnx")


def test_tensors_in_other_files_are_refused_by_name(tmp_path: Path) -> None:
    graph = make_graph([helper.make_node("Add", ["x", "far"], ["y"])], {"far": 1.0})
    graph.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    graph.graph.initializer[0].external_data.add(key="location", value="../../etc/passwd")
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(SourceError, match="`far`"):
        onnx_graph.load_graph(tmp_path / "model.onnx")


def test_identities_vanish_even_in_chains() -> None:
    nodes = [
        helper.make_node("Identity", ["c"], ["c1"]),
        helper.make_node("Identity", ["c1"], ["c2"]),
        helper.make_node("Add", ["x", "c2"], ["s"]),
        helper.make_node("Identity", ["s"], ["t"]),
        helper.make_node("Mul", ["t", "c1"], ["y"]),
    ]
    graph = make_graph(nodes, {"c": 3.0})
    onnx_graph.inline_identities(graph)
    assert operators(graph) == ["Add", "Mul"]
    found = onnx_graph.run_session(onnx_graph.make_session(graph), {"x": np.float32([[1, 2]])})
    np.testing.assert_array_equal(found["y"], [[12, 15]])


def test_an_identity_that_names_an_output_stays() -> None:
    graph = make_graph([helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Identity", ["r"], ["y"])])
    onnx_graph.inline_identities(graph)
    assert operators(graph) == ["Relu", "Identity"]


def test_an_identity_read_inside_a_branch_vanishes() -> None:
    inner = helper.make_node("Relu", ["i"], ["r"])
    branch = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("r", FLOAT, ["batch", 2])])
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = make_graph([helper.make_node("Identity", ["x"], ["i"]), condition, choice])
    onnx_graph.inline_identities(graph)
    found = onnx_graph.run_session(onnx_graph.make_session(graph), {"x": np.float32([[-1, 2]])})
    np.testing.assert_array_equal(found["y"], [[0, 2]])


def test_an_operator_that_the_runtime_lacks_is_named() -> None:
    with pytest.raises(PassError, match="Frobnicate"):
        onnx_graph.make_session(make_graph([helper.make_node("Frobnicate", ["x"], ["y"])]))


def test_random_inputs_follow_the_specs_and_the_seed() -> None:
    specs = (TensorSpec(name="a", shape=("batch", 3)), TensorSpec(name="b", dtype="int64", shape=(2,)))
    one, again, other = (onnx_graph.random_inputs(specs, 5, seed) for seed in (0, 0, 1))
    assert (one["a"].shape, one["a"].dtype, one["b"].shape, one["b"].dtype) == ((5, 3), np.float32, (2,), np.int64)
    assert np.array_equal(one["a"], again["a"])
    assert not np.array_equal(one["a"], other["a"])


floats = arrays(np.float32, (2, 3), elements=st.floats(-1e6, 1e6, width=32))


@given(floats, floats)
def test_the_difference_is_zero_only_between_equal_outputs(one: np.ndarray, other: np.ndarray) -> None:
    assert onnx_graph.max_difference({"y": one}, {"y": one}) == 0
    assert (onnx_graph.max_difference({"y": one}, {"y": other}) > 0) == (not np.array_equal(one, other))


@given(floats.filter(np.any), st.floats(1e-3, 1e3))
def test_the_difference_does_not_depend_on_the_unit(one: np.ndarray, factor: float) -> None:
    scaled = {"y": one.astype(np.float64) * factor}
    assert onnx_graph.max_difference(scaled, {"y": scaled["y"] * 1.5}) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_on_one_side_differs_infinitely(wrong: float) -> None:
    plain, broken = {"y": np.float32([1, 2])}, {"y": np.float32([1, wrong])}
    assert onnx_graph.max_difference(plain, broken) == np.inf
    assert onnx_graph.max_difference(broken, plain) == np.inf
    assert onnx_graph.max_difference(broken, broken) == 0


def test_outputs_of_other_shapes_differ_infinitely() -> None:
    assert onnx_graph.max_difference({"y": np.zeros(2)}, {"y": np.zeros(3)}) == np.inf
