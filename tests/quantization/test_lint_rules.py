"""Each rule of the linter: a graph that breaks it and no other, and the node that is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.lint import ILLEGAL, SLOW, lint
from edgeopt.quantization.profiles import LITERT, TENSORRT
from tests.quantization.linted import BODIES, CPU, PLAIN, Graph, Make, drop, network, node, put, quantize, said, tensor

__all__ = ["network"]


def put_pair(graph: Graph, tensor: str, reader: str, index: int, like: str) -> None:
    """Let `reader` read `tensor` through a pair of its own, with the numbers of the pair of `like`."""
    parameters = [f"{like}_scale", f"{like}_zero_point"]
    names = [f"{tensor}_integers", f"{tensor}_floats"]
    pair = [
        helper.make_node("QuantizeLinear", [tensor, *parameters], names[:1], name=f"{tensor}_QuantizeLinear"),
        helper.make_node("DequantizeLinear", [names[0], *parameters], names[1:], name=f"{tensor}_DequantizeLinear"),
    ]
    nodes = list(graph.graph.node)
    at = next(place for place, each in enumerate(nodes) if each.name == reader)
    nodes[at].input[index] = names[1]
    del graph.graph.node[:]
    graph.graph.node.extend([*nodes[:at], *pair, *nodes[at:]])


def make_x_scale_vary(graph: Graph) -> None:
    graph.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["largest"], name="largest", keepdims=0))
    for name in ("x_QuantizeLinear", "x_DequantizeLinear"):
        node(graph, name).input[1] = "largest"


def make_weight_unsigned(graph: Graph) -> None:
    moved = (tensor(graph, "y_weight_quantized").astype(np.int16) + 128).astype(np.uint8)
    put(graph, y_weight_quantized=moved, y_weight_zero_point=np.full(16, 128, np.uint8))


def make_weight_large(graph: Graph) -> None:
    weight = tensor(graph, "y_weight_quantized")
    weight[3, 2] = -65
    put(graph, y_weight_quantized=weight)


def cut_bias_off(graph: Graph) -> None:
    bias = tensor(graph, "y_bias_quantized")
    bias[4] = 2**31 - 1
    put(graph, y_bias_quantized=bias)


def read_x_in_float(graph: Graph) -> None:
    node(graph, "c").input[0] = "x"
    drop(graph, "x_QuantizeLinear", "x_DequantizeLinear")


def read_weight_in_float(graph: Graph) -> None:
    node(graph, "y").input[1] = "m"
    put(graph, m=np.ones((16, 16), np.float32))
    drop(graph, "y_weight_DequantizeLinear")


def leave_y_in_float(graph: Graph) -> None:
    drop(graph, "y_QuantizeLinear", "y_DequantizeLinear")
    node(graph, "y").output[0] = "y"


def read_e_in_float(graph: Graph) -> None:
    drop(graph, "e_QuantizeLinear", "e_DequantizeLinear")
    node(graph, "s").input[1] = "e"


def read_sum_in_float(graph: Graph) -> None:
    node(graph, "s").input[:] = ["c", "r"]


def leave_the_second_pair_out(graph: Graph) -> None:
    drop(graph, "s_QuantizeLinear_2", "s_DequantizeLinear_2")
    node(graph, "t").input[0] = "s_dequantized"


def pair_the_wrong_branch(graph: Graph) -> None:
    read_sum_in_float(graph)
    put_pair(graph, "c", "s", 0, like="r")


#: of a target that computes SiLU in float, inside the convolution before it
SWISH = CPU.model_copy(
    update={
        "fused_activations": ("Relu", "Swish"),
        "quantized_ops": tuple(name for name in CPU.quantized_ops if name not in ("Mul", "Sigmoid")),
    }
)
TRANSPOSED = {
    "weight_axes": {**CPU.weight_axes, "ConvTranspose": 1}, "quantized_ops": (*CPU.quantized_ops, "ConvTranspose"),
}  # fmt: skip
SUM = "a = Conv (x, w) r = Relu (a) c = Conv (r, v) s = Add (c, r) y = Conv (s, v)"
GATE = "c = Conv (x, w) s = Sigmoid (c) t = Concat <axis = 1> (s, c) y = Conv (t, wide)"
POOL = "c = Conv (x, w) h = MaxPool <kernel_shape = [2, 2]> (c) y = Conv (h, v)"
FLOATS = "c = Conv (x, w) t = Tanh (c) e = Exp (t) s = Add (c, e) y = Conv (s, v)"
Broken = tuple[str, str, QuantizationProfile, dict[str, Any], Callable[[Graph], object], str]


def untouched(graph: Graph) -> None:
    """What breaks the rule is that the graph was written for another profile."""


#: rule, graph, the profile that it is linted for, how that differed when it was written, what was done to it, the node
BROKEN: list[Broken] = [
    ("activation_dtype", PLAIN, CPU, {}, lambda graph: put(graph, x_zero_point=np.int8(0)), "x_QuantizeLinear"),
    ("activation_symmetric", PLAIN, TENSORRT, {},
     lambda graph: put(graph, r_zero_point=np.int8(3)), "r_QuantizeLinear"),
    ("activation_per_tensor", PLAIN, CPU, {},
     lambda graph: put(graph, x_scale=np.full(3, 0.1, np.float32), x_zero_point=np.full(3, 9, np.uint8)),
     "x_QuantizeLinear"),
    ("scale_constant", PLAIN, CPU, {}, make_x_scale_vary, "x_QuantizeLinear"),
    ("scale_positive", PLAIN, TENSORRT, {},
     lambda graph: put(graph, y_weight_scale=np.float32([*[0.1] * 15, 0])), "y_weight_DequantizeLinear"),
    ("scale_positive", PLAIN, TENSORRT, {}, lambda graph: put(graph, r_scale=np.float32("nan")), "r_QuantizeLinear"),
    ("fixed_range", BODIES["excited"], LITERT, {}, lambda graph: put(graph, s_scale=np.float32(1 / 255)), "s"),
    ("fixed_range", GATE, LITERT, {"fixed_ranges": {}}, untouched, "s"),
    ("weight_dtype", PLAIN, CPU, {}, make_weight_unsigned, "y"),
    ("weight_symmetric", PLAIN, CPU, {},
     lambda graph: put(graph, y_weight_zero_point=np.int8([1] + [0] * 15)), "y"),
    ("weight_axis", PLAIN, CPU, {}, lambda graph: setattr(
        node(graph, "y_weight_DequantizeLinear").attribute[0], "i", -3), "y"),
    ("weight_bits", PLAIN, CPU, {}, make_weight_large, "y"),
    ("bias_dtype", PLAIN, CPU, {},
     lambda graph: put(graph, y_bias_quantized=np.ones(16, np.int8), y_bias_zero_point=np.zeros(16, np.int8)), "y"),
    ("bias_dtype", PLAIN, CPU, {}, lambda graph: put(graph, y_bias_zero_point=np.full(16, 7, np.int32)), "y"),
    ("bias_scale", PLAIN, CPU, {},
     lambda graph: put(graph, y_bias_scale=tensor(graph, "y_bias_scale") * np.float32(1.01)), "y"),
    ("bias_overflow", PLAIN, CPU, {}, cut_bias_off, "y"),
    ("bias_pair", PLAIN, TENSORRT, {"quantize_bias": True}, untouched, "y"),
    ("bias_float", "c = Conv (x, w) y = Conv (c, v, b)", CPU, {"quantize_bias": False}, untouched, "y"),
    ("few_channels", PLAIN, TENSORRT, {"least_channels": 0}, untouched, "c"),
    ("float_input", PLAIN, CPU, {}, read_x_in_float, "c"),
    ("float_weight", "c = Conv (x, w) g = GlobalAveragePool (c) f = Flatten (g) y = Gemm (f, m)", CPU, {},
     read_weight_in_float, "y"),
    ("float_output", PLAIN, CPU, {}, leave_y_in_float, "y"),
    ("left_float", FLOATS, CPU, {}, read_e_in_float, "s"),
    ("pair_before_activation", PLAIN, CPU, {"fused_activations": ()}, untouched, "c"),
    ("pair_before_activation", "c = Conv (x, w) s = Sigmoid (c) i = Mul (c, s) y = Conv (i, v)", SWISH,
     {"fused_activations": ()}, untouched, "c"),
    ("pair_around_move", BODIES["moved"], CPU, {"integer_moves": ()}, untouched, "d"),
    ("passthrough_scale", POOL, CPU, {"passthrough_ops": ()}, untouched, "h"),
    ("passthrough_scale", BODIES["concatenated"], LITERT,
     {"quantized_ops": (*LITERT.quantized_ops, "Concat"), "passthrough_ops": ("MaxPool",)}, untouched, "t"),
    ("passthrough_scale", GATE, LITERT, {}, leave_the_second_pair_out, "t"),
    ("sum_fusion", SUM, TENSORRT, {}, pair_the_wrong_branch, "c"),
    ("sum_branches", SUM, TENSORRT, {}, lambda graph: put_pair(graph, "c", "s", 0, like="r"), "s"),
    ("sum_skip", SUM, TENSORRT, {}, read_sum_in_float, "s"),
    ("wasted_pair", FLOATS, CPU, {}, lambda graph: put_pair(graph, "t", "e", 0, like="c"), "t_QuantizeLinear"),
    ("wasted_weight", "c = Conv (x, w) u = ConvTranspose (c, v) y = Conv (u, v)", CPU, TRANSPOSED, untouched, "u"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "profile", "other", "spoil", "about"), BROKEN)
def test_a_graph_that_breaks_one_rule_is_told_of_that_one_and_its_node(
    network: Make, rule: str, body: str, profile: QuantizationProfile, other: dict[str, Any],
    spoil: Callable[[Graph], object], about: str,
) -> None:  # fmt: skip
    graph = quantize(network(body), profile.model_copy(update=other))
    spoil(graph)
    found = lint(graph, profile)
    assert [(each.rule, each.node) for each in found] == [(rule, about)], said(found)
    assert found[0].severity == ("illegal" if rule in ILLEGAL else "slow")


def test_every_rule_is_broken_above() -> None:
    assert {rule for rule, *_ in BROKEN} == {*ILLEGAL, *SLOW}
