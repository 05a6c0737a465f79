"""What the tests of the linter share: graphs, the profile of a CPU, what edgeopt makes of them, and edits to spoil."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeopt.model import QuantizationProfile
from edgeopt.onnx_graph import input_specs, random_inputs
from edgeopt.quantization.calibration import collect_minmax
from edgeopt.quantization.fold import fold
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.lint import Violation
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme

Make = Callable[..., Any]
Graph = onnx.ModelProto

PLAIN = "c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (c) y = Conv (r, v, b)"

BODIES = {
    "plain": PLAIN,
    "residual": """
        c0 = Conv <pads = [1, 1, 1, 1]> (x, w, b) r0 = Relu (c0)
        c1 = Conv (r0, v, b) r1 = Relu (c1) c2 = Conv (r1, v, b) d = Conv (r0, v) s = Add (d, c2) r2 = Relu (s)
        c3 = Conv (r2, v) t = Add (c3, r2) r3 = Relu (t)
        g = GlobalAveragePool (r3) f = Flatten (g) y = Gemm <transB = 1> (f, m, b)
    """,
    "depthwise": """
        c = Conv (x, w) r = Clip (c, zero, six)
        d = Conv <group = 16, pads = [1, 1, 1, 1]> (r, dw, b) q = Clip (d, zero, six) p = Conv (q, v, b) y = Add (p, r)
    """,
    "concatenated": """
        a = Conv <pads = [1, 1, 1, 1]> (x, w) e = Relu (a) h = Conv (e, v) l = Relu (h)
        t = Concat <axis = 1> (e, l) n = MaxPool <kernel_shape = [2, 2]> (t) y = Conv (n, wide)
    """,
    "excited": """
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b) a = HardSwish (c) g = GlobalAveragePool (a)
        e = Conv (g, v, b) r = Relu (e) k = Conv (r, v, b) s = Sigmoid (k) z = Mul (a, s) y = Conv (z, v)
    """,
    "swish": """
        c = Conv (x, w) s = Sigmoid (c) i = Mul (s, c) d = Conv <group = 16, pads = [1, 1, 1, 1]> (i, dw, b)
        t = Sigmoid (d) n = Mul (d, t) g = GlobalAveragePool (n) k = Conv (g, v, b) u = Sigmoid (k) z = Mul (n, u)
        y = Conv (z, v)
    """,
    "moved": """
        c = Conv (x, w) d = Pad (c, pads) e = Conv (d, v) h = MaxPool <kernel_shape = [2, 2]> (e)
        t = Transpose <perm = [0, 2, 3, 1]> (h) y = MatMul (t, m)
    """,
    "in float between": """
        c = Conv (x, w) t = Tanh (c) e = Exp (t) s = Add (c, e) k = Conv (s, v) q = Pad (k, pads, six) y = Conv (q, v)
    """,
    "prescribed": """
        c = Conv (x, w) s = Sigmoid (c) z = Mul (c, s) h = MaxPool <kernel_shape = [2, 2]> (s)
        l = MaxPool <kernel_shape = [2, 2]> (z) t = Concat <axis = 1> (h, l) y = Conv (t, wide)
    """,
    "ends moving": """
        c = Conv (x, w) r = Conv (c, v) g = GlobalAveragePool (r) s = Softmax <axis = 1> (g) y = Flatten (s)
    """,
}

CPU = QuantizationProfile(
    name="cpu",
    activation_dtype="uint8",
    weight_dtype="int8",
    weight_bits=7,
    weight_axes={"Conv": 0, "Gemm": 1, "MatMul": 1},
    quantized_ops=("Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool"),
    passthrough_ops=("MaxPool", "Reshape", "Flatten", "Transpose", "Pad"),
    integer_moves=("Pad",),
    fused_activations=("Relu", "Clip"),
    float_output_ops=("Gemm", "MatMul"),
)


def quantize(graph: Graph, profile: QuantizationProfile, **options: Any) -> Graph:
    """What edgeopt makes of a graph; rebuilt here from its parts, as the pass does."""
    folded = fold(graph)
    placement = make_placement(folded, profile, **options)
    inputs = random_inputs(input_specs(folded), 8, seed=0)
    ranges = collect_minmax(folded, [pair.tensor for pair in placement.pairs], [inputs])
    return insert_pairs(folded, make_scheme(folded, placement, ranges, profile))


def said(violations: tuple[Violation, ...]) -> str:
    return "\n".join(f"{each.severity} {each.rule} {each.node}: {each.sentence}" for each in violations)


def tensor(graph: Graph, name: str) -> np.ndarray:
    return np.array(next(numpy_helper.to_array(each) for each in graph.graph.initializer if each.name == name))


def put(graph: Graph, **arrays: Any) -> None:
    """Give initializers other values, or add them."""
    kept = [each for each in graph.graph.initializer if each.name not in arrays]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    graph.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items())


def node(graph: Graph, name: str) -> onnx.NodeProto:
    return next(each for each in graph.graph.node if each.name == name)


def drop(graph: Graph, *names: str) -> None:
    for name in names:
        graph.graph.node.remove(node(graph, name))


@pytest.fixture
def network(make_graph: Make, weights: Make) -> Callable[[str], Graph]:
    """Makes the graph of one of `BODIES`, or of another text that names the same weights."""

    def make(body: str) -> Graph:
        arrays = {
            "w": weights(16, 3, 3, 3), "v": weights(16, 16, 1, 1, seed=1), "b": weights(16, seed=2),
            "m": weights(16, 16, seed=3), "dw": weights(16, 1, 3, 3, seed=4), "wide": weights(16, 32, 1, 1, seed=5),
            "zero": np.float32(0), "six": np.float32(6), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        }  # fmt: skip
        text = BODIES.get(body, body)
        used = {name: array for name, array in arrays.items() if f"{name}," in text or f"{name})" in text}
        graph: Graph = make_graph(text, **used)
        return graph

    return make
