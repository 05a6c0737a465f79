"""Who reads and makes what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgeopt.quantization.wiring import Wiring, attribute

Make = Callable[..., Any]


def test_readers_and_makers_are_known(make_graph: Make, weights: Make) -> None:
    wiring = Wiring(make_graph("c = Conv (x, w) s = Add (c, c) y = Add (s, x)", w=weights(3, 3, 1, 1)))
    assert wiring.inputs == ("x",)
    assert wiring.producers["s"].op_type == "Add"
    assert [node.name for node in wiring.readers["c"]] == ["s"]
    assert [node.name for node in wiring.readers["x"]] == ["c", "y"]
    assert wiring.array("w").shape == (3, 3, 1, 1)
    assert wiring.array("x") is None


def test_a_tensor_that_leaves_the_graph_has_no_sole_reader(make_graph: Make) -> None:
    wiring = Wiring(make_graph("a = Relu (x) b = Relu (a) y = Relu (b)", outputs="float[] y, float[] a"))
    assert wiring.sole_reader("a") is None
    assert wiring.sole_reader("b").name == "y"
    assert wiring.sole_reader("x").name == "a"


def test_only_float32_that_depends_on_the_input_is_an_activation(make_graph: Make) -> None:
    wiring = Wiring(make_graph("s = Shape (x) d = Cast <to = 11> (x) y = Mul (x, k)", k=np.float32(2)))
    assert wiring.is_activation("x")
    assert wiring.is_activation("y")
    assert not wiring.is_activation("s")
    assert not wiring.is_activation("d")
    assert wiring.is_float("k")
    assert not wiring.is_activation("k")
    assert not wiring.is_float("unheard of")


def test_what_a_branch_reads_must_keep_its_meaning() -> None:
    y = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Neg", ["a"], ["z"])], "branch", [], [y])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="a"),
        helper.make_node("If", ["flag"], ["y"], name="y", then_branch=branch, else_branch=branch),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    wiring = Wiring(helper.make_model(helper.make_graph(nodes, "g", [x, flag], [out])))
    assert {"a", "y"} <= wiring.outputs


def test_attributes_have_defaults() -> None:
    node = onnx.helper.make_node("Gemm", ["a", "b"], ["y"], alpha=0.5)
    assert attribute(node, "alpha", 1.0) == 0.5
    assert attribute(node, "transB", 0) == 0
