"""Folding: the graph computes the same, and is one that can be quantized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeopt.errors import PassError
from edgeopt.onnx_graph import make_session, max_difference, run_session
from edgeopt.quantization.fold import fold

Make = Callable[..., Any]


def operators(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


def norm(channels: int) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(1)
    return {name: generator.uniform(0.5, 1.5, channels).astype(np.float32) for name in ("g", "s", "m", "v")}


def difference(one: onnx.ModelProto, other: onnx.ModelProto, *shape: int) -> float:
    inputs = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    return max_difference(run_session(make_session(one), inputs), run_session(make_session(other), inputs))


@pytest.mark.parametrize("bias", ["", ", b"])
def test_normalization_goes_into_the_convolution(make_graph: Make, weights: Make, bias: str) -> None:
    body = f"c = Conv (x, w{bias}) y = BatchNormalization <epsilon = 0.01> (c, g, s, m, v)"
    arrays = {"w": weights(4, 3, 3, 3), **norm(4), **({"b": weights(4)} if bias else {})}
    given = make_graph(body, **arrays)
    folded = fold(given)
    assert operators(folded) == ["Conv"]
    assert difference(given, folded, 2, 3, 8, 8) < 1e-6
    assert len(folded.graph.initializer) == 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_normalization_goes_into_a_matrix_product(make_graph: Make, weights: Make, transposed: int) -> None:
    body = f"c = Gemm <transB = {transposed}> (x, w, b) y = BatchNormalization (c, g, s, m, v)"
    weight = weights(4, 3) if transposed else weights(3, 4)
    given = make_graph(body, "N,3", w=weight, b=weights(4), **norm(4))
    folded = fold(given)
    assert operators(folded) == ["Gemm"]
    assert difference(given, folded, 2, 3) < 1e-6


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("c = Conv (x, w) y = BatchNormalization (c, g, s, m, v) z = Neg (c)", "c is read by two"),
        ("c = Conv (x, w) r = Relu (c) y = BatchNormalization (r, g, s, m, v)", "something lies between"),
        ("g2 = Exp (g) c = Conv (x, w) y = BatchNormalization (c, g2, s, m, v)", "no constant"),
    ],
)
def test_normalization_that_a_weight_cannot_hold_stays(make_graph: Make, weights: Make, body: str, why: str) -> None:
    given = make_graph(body, w=weights(4, 3, 1, 1), **norm(4))
    folded = fold(given)
    assert operators(folded) == operators(given), why
    assert difference(given, folded, 2, 3, 8, 8) == 0


def test_identities_before_a_weight_go(make_graph: Make, weights: Make) -> None:
    given = make_graph(
        "i = Identity (b) j = Identity (i) c = Conv (x, w, j) y = Identity (c)", w=weights(4, 3, 1, 1), b=weights(4)
    )
    folded = fold(given)
    assert operators(folded) == ["Conv", "Identity"]
    assert list(folded.graph.node[0].input) == ["x", "w", "b"]
    assert difference(given, folded, 2, 3, 8, 8) == 0


def test_constants_become_initializers(make_graph: Make) -> None:
    body = "k = Constant <value_float = 2.0> () p = Constant <value_ints = [1, -1]> () m = Mul (x, k) y = Reshape(m, p)"
    given = make_graph(body, "2,3")
    weight = onnx.helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.float32([1])))
    given.graph.node.insert(0, weight)
    folded = fold(given)
    assert operators(folded) == ["Mul", "Reshape"]
    assert {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in folded.graph.initializer} == {
        "k": 2.0,
        "p": [1, -1],
    }
    assert difference(given, folded, 2, 3) == 0


def test_each_node_gets_a_name_of_its_own_and_keeps_the_one_it_has(make_graph: Make) -> None:
    given = make_graph("a = Relu (x) b = Relu (a) c = Relu (b) y = Relu (c)")
    for node, name in zip(given.graph.node, ["", "mine", "mine", "Relu_0"], strict=True):
        node.name = name
    assert [node.name for node in fold(given).graph.node] == ["Relu_0_", "mine", "mine_2", "Relu_0"]


def test_the_given_graph_is_left_as_it_was(make_graph: Make, weights: Make) -> None:
    given = make_graph("c = Conv (x, w) y = BatchNormalization (c, g, s, m, v)", w=weights(4, 3, 1, 1), **norm(4))
    before = given.SerializeToString()
    fold(given)
    assert given.SerializeToString() == before


def test_weights_that_are_also_inputs_are_no_inputs_any_more(make_graph: Make, weights: Make) -> None:
    given = make_graph("y = Conv (x, w)", w=weights(4, 3, 1, 1))
    given.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3, 1, 1]))
    assert [value.name for value in fold(given).graph.input] == ["x"]


def test_an_old_graph_is_brought_to_an_opset_that_has_scales_per_channel(make_graph: Make, weights: Make) -> None:
    given = make_graph("c = Conv (x, w) y = Relu (c)", w=weights(4, 3, 1, 1))
    given.opset_import[0].version = 11
    folded = fold(given)
    assert folded.opset_import[0].version == 13
    assert difference(given, folded, 2, 3, 8, 8) == 0


def test_an_old_graph_that_cannot_be_converted_says_so(make_graph: Make) -> None:
    given = make_graph("y = Relu (x)")
    given.graph.node[0].op_type = "Unheard"
    given.opset_import[0].version = 8
    with pytest.raises(PassError, match="of opset 8, quantization takes 13 or later"):
        fold(given)


def test_a_quantized_graph_is_refused(make_graph: Make) -> None:
    scale = {"s": np.float32(0.1), "z": np.uint8(0)}
    given = make_graph("q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)", **scale)
    with pytest.raises(PassError, match="quantized already: it has 2 nodes such as QuantizeLinear `q`"):
        fold(given)


def test_control_flow_is_refused_by_name(weights: Make) -> None:
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    branches = {
        name: helper.make_graph([helper.make_node(operator, ["a"], ["z"])], name, [], [z])
        for name, operator in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("If", ["flag"], ["y"], name="choice", **branches),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in "xy")
    tensors = [numpy_helper.from_array(weights(3, 3, 1, 1), "w"), numpy_helper.from_array(np.asarray(True), "flag")]
    given = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    with pytest.raises(PassError, match="control flow, If `choice`"):
        fold(given)


def test_an_operator_of_another_domain_is_refused_by_name(make_graph: Make, weights: Make) -> None:
    given = make_graph("c = Conv (x, w) y = Relu (c)", w=weights(3, 3, 1, 1))
    given.graph.node[1].domain = "com.acme"
    with pytest.raises(PassError, match=r"Relu `y` is of the domain `com\.acme`"):
        fold(given)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, make_graph: Make, weights: Make) -> None:
    spoiled = weights(3, 3, 1, 1)
    spoiled[1, 2] = value
    with pytest.raises(PassError, match="the weight `w` has 1 values that are not finite"):
        fold(make_graph("y = Conv (x, w)", w=spoiled))
