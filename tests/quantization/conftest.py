"""Small graphs in ONNX's own text form, and a profile like that of ONNX Runtime on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.bias_correction import add_biases

MakeGraph = Callable[..., onnx.ModelProto]


@pytest.fixture
def make_graph() -> MakeGraph:
    """Makes a graph from `x` to `y`; each node is named like the tensor that it makes."""

    def make(body: str, shape: str = "N,3,8,8", outputs: str = "float[] y", **arrays: NDArray[Any]) -> onnx.ModelProto:
        text = f'<ir_version: 9, opset_import: ["": 17]> g (float[{shape}] x) => ({outputs}) {{ {body} }}'
        graph = onnx.parser.parse_model(text)
        for node in graph.graph.node:
            node.name = node.output[0]
        for name, array in arrays.items():
            graph.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        graph = onnx.shape_inference.infer_shapes(graph)  # for the shape of the output
        del graph.graph.value_info[:]
        onnx.checker.check_model(graph)
        return graph

    return make


@pytest.fixture
def profile() -> QuantizationProfile:
    return QuantizationProfile(
        name="cpu",
        activation_dtype="uint8",
        weight_dtype="int8",
        weight_bits=7,  # so that the results are the same on every CPU
        weight_axes={"Conv": 0, "Gemm": 1, "MatMul": 1},
        quantized_ops=("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"),
        passthrough_ops=("MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Pad", "Resize"),
        integer_moves=("Pad",),
        fused_activations=("Relu", "Clip"),
        float_output_ops=("Gemm", "MatMul"),
    )


@pytest.fixture
def weights() -> Callable[..., NDArray[np.float32]]:
    """Normal float32 arrays of the given shape, the same each time."""

    def make(*shape: int, seed: int = 0) -> NDArray[np.float32]:
        return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)

    return make


@pytest.fixture
def biased(make_graph: MakeGraph) -> onnx.ModelProto:
    """Each weight lies a little above the middle between two integers: rounded, all grow, and so do all means."""

    def upwards(*shape: int, seed: int) -> np.ndarray:
        steps = np.random.default_rng(seed).integers(-20, 20, shape) + 0.53
        steps[:, 0, ...] = 64
        return (steps / 256).astype(np.float32)

    body = """
        c = Conv (x, w) r = Relu (c) d = Conv <group = 8> (r, v) s = Relu (d) e = Conv (s, u) t = Relu (e)
        g = GlobalAveragePool (t) f = Flatten (g) y = Gemm (f, z)
    """
    weights = {"w": (8, 3, 3, 3), "u": (8, 8, 1, 1), "z": (8, 4)}
    arrays = {name: upwards(*shape, seed=seed) for seed, (name, shape) in enumerate(weights.items())}
    depthwise = upwards(8, 1, 3, 3, seed=9)
    depthwise[:, 0, 1:] = ((np.random.default_rng(8).integers(-20, 20, (8, 2, 3)) + 0.53) / 256).astype(np.float32)
    return add_biases(make_graph(body, v=depthwise, **arrays))
