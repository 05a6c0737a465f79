"""The simulation rounds as float16 does, where ONNX Runtime itself would not."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeopt.onnx_graph import make_session, run_session
from edgeopt.quantization.half_simulation import simulate

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def make_product(factor: float) -> onnx.ModelProto:
    """x in float16 times a factor, and that divided by it."""
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], name="half", to=HALF),
        helper.make_node("Mul", ["half", "factor"], ["more"], name="more"),
        helper.make_node("Div", ["more", "factor"], ["less"], name="less"),
        helper.make_node("Cast", ["less"], ["y"], name="y", to=FLOAT),
    ]
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in "xy")
    constant = numpy_helper.from_array(np.array(factor, np.float16), "factor")
    graph = helper.make_graph(nodes, "g", [x], [y], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_every_normal_number_is_rounded_as_by_numpy() -> None:
    exponents = np.random.default_rng(0).uniform(-14, 16, 10_000)
    x = (2.0**exponents * np.where(exponents % 2 > 1, -1, 1)).astype(np.float32)
    x = np.concatenate([x, np.float32([0, 1, 2048, 2049, 2051, 65504, 65519, 65520, 1e30, -1e30, np.inf, -np.inf])])
    rounded = run_session(make_session(simulate(make_product(1.0)), as_written=True), {"x": x})["y"]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(rounded, x.astype(np.float16).astype(np.float32))


def test_what_overflows_on_the_way_is_infinite() -> None:
    x = np.float32([0.25, 300, -300])
    plain, simulated = (
        run_session(make_session(graph), {"x": x})["y"] for graph in (make_product(256), simulate(make_product(256)))
    )
    np.testing.assert_array_equal(plain, x)  # ONNX Runtime computes it in float32
    np.testing.assert_array_equal(simulated, [0.25, np.inf, -np.inf])
