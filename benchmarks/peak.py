"""What a thread of this machine sums in a second, at most: layers that runtimes have the easiest time with.

Each is a chain of equal convolutions or matrix products, of u8 activations without a zero point and s8 weights of 7
bits with a scale per channel, beside the same in float. QLinearConv and QLinearMatMul are written as QDQ pairs, which
both runtimes turn into integer operators of their own; MatMulInteger, whose sums have 32 bits, is no chain. Nothing is
padded: runtimes may skip products with padding, and would seem faster than the machine is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeopt import environment
from edgeopt.model import Model, OnnxValue, TensorSpec
from edgeopt.onnx_graph import save_graph
from edgeopt.quantization.wiring import attribute

DTYPES: dict[str, np.dtype[Any]] = {"int8": np.dtype(np.uint8), "float": np.dtype(np.float32)}
OPSET, IR_VERSION = 13, 8
MOST = 63  # of 7 bits: two products with 255 fit 16 bits
STEP = 0.02  # of activations

#: instruction set → products and sums of int8 in a cycle, where two units work on vectors of its width. AVX2 takes
#: three instructions for what is one in the others, and two of them are multiplications
PER_CYCLE = {"avx512_vnni": 256, "avx_vnni": 128, "avx2": 64}


@dataclass(frozen=True)
class Chain:
    """`depth` equal layers; `channels` come in and go out of each.

    `side`: the last convolution makes so many pixels at each side, and a matrix product has so many rows.
    """

    operator: str
    channels: int
    side: int
    kernel: int = 1
    depth: int = 4

    @property
    def name(self) -> str:
        if self.operator == "Conv":
            return f"{self.kernel}×{self.kernel} Conv, {self.channels} channels, {self.side}×{self.side}"
        return f"{self.operator}, {self.side}×{self.channels}×{self.channels}"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the input, and of what each layer makes."""
        if self.operator != "Conv":
            return [(self.side, self.channels)] * (self.depth + 1)
        sides = [self.side + (self.kernel - 1) * left for left in range(self.depth, -1, -1)]
        return [(1, self.channels, side, side) for side in sides]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        square = (self.channels, self.channels)
        return (*square, self.kernel, self.kernel) if self.operator == "Conv" else square

    @property
    def operations(self) -> int:
        """Products and sums of one run."""
        return 2 * self.channels * self.kernel**2 * sum(int(np.prod(shape)) for shape in self.shapes[1:])

    @property
    def kinds(self) -> tuple[str, ...]:
        return ("int8",) if self.operator == "MatMulInteger" else tuple(DTYPES)


CHAINS = (
    Chain("Conv", 64, 56, kernel=3), Chain("Conv", 128, 28, kernel=3), Chain("Conv", 256, 14, kernel=3),
    Chain("Conv", 256, 28, kernel=3), Chain("Conv", 256, 28), Chain("Conv", 512, 14),
    Chain("MatMul", 512, 512), Chain("MatMul", 1024, 512), Chain("MatMulInteger", 1024, 512, depth=1),
)  # fmt: skip


def write_chain(chain: Chain, kind: str, folder: Path) -> Model:
    """The chain in int8 or float as a model in a file; integers come in, and go out."""
    folder.mkdir(parents=True)
    graph, value = _Graph(chain, kind).write(), OnnxValue()
    save_graph(graph, folder / value.file)
    inputs, outputs = ([_spec(one) for one in values] for values in (graph.graph.input, graph.graph.output))
    return Model(value=value, inputs=tuple(inputs), outputs=tuple(outputs), folder=folder)


def count_operations(graph: onnx.ModelProto) -> tuple[int, int]:
    """Products and sums of convolutions and linear layers for one image, and as many of them as are no padding."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    shapes = {one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
              for one in (*inferred.input, *inferred.value_info, *inferred.output)}  # fmt: skip
    weights = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    every = inside = 0
    for node in inferred.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        channels, kernel = weights[node.input[1]][:2], weights[node.input[1]][2:]
        pads, strides = attribute(node, "pads", [0] * 2 * len(kernel)), attribute(node, "strides", [1] * len(kernel))
        sizes, made = shapes[node.input[0]][2:], shapes[node.output[0]][2:]
        taps = map(_taps_inside, sizes, made, kernel, strides, pads)
        every += 2 * math.prod((*channels, *kernel, *made))
        inside += 2 * math.prod((*channels, *taps))
    return every, inside


def _taps_inside(size: int, made: int, kernel: int, stride: int, pad: int) -> int:
    """Along one axis of a convolution, how often a tap of the kernel meets one of the `size` pixels."""
    places = stride * np.arange(made)[:, None] + np.arange(kernel) - pad
    return int(np.count_nonzero((places >= 0) & (places < size)))


def describe_theory() -> str:
    """What the instruction set allows, where it is one that `PER_CYCLE` knows."""
    known = next((name for name in PER_CYCLE if name in environment.cpu()[1]), None)
    if known is None:
        return "the most that this instruction set allows is not known"
    most = PER_CYCLE[known]
    return f"by {environment.isa_summary((known,))}, at most {most} operations a cycle: {most} GOP/s for each GHz"


class _Graph:
    """The nodes and constants of one chain as they are written."""

    def __init__(self, chain: Chain, kind: str) -> None:
        self._chain, self._dtype, self._integer = chain, DTYPES[kind], kind == "int8"
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def write(self) -> onnx.ModelProto:
        tensor, dtype = "x", self._dtype
        if self._chain.operator == "MatMulInteger":
            tensor, dtype = self._node("MatMulInteger", "sums", tensor, self._integers("weight")), np.dtype(np.int32)
        else:
            for layer in range(self._chain.depth):
                tensor = self._layer(tensor, str(layer))
        first, last = self._chain.shapes[0], self._chain.shapes[-1]
        ends = [_value("x", self._dtype, first)], [_value(tensor, dtype, last)]
        graph = helper.make_graph(self._nodes, "chain", *ends, list(self._constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)

    def _layer(self, tensor: str, name: str) -> str:
        step = self._constant("step", np.float32(STEP)), self._constant("zero", np.uint8(0))
        if self._integer:
            tensor = self._node("DequantizeLinear", f"read{name}", tensor, *step)
        made = self._node(self._chain.operator, f"made{name}", tensor, self._weight(name))
        made = self._node("Relu", f"relu{name}", made)
        return self._node("QuantizeLinear", f"written{name}", made, *step) if self._integer else made

    def _weight(self, name: str) -> str:
        shape, channels = self._chain.weight_shape, self._chain.channels
        # What is summed then spreads as its sums do: neither zeros nor the largest value pile up from layer to layer.
        scale = np.float32(2.4 / MOST / np.sqrt(np.prod(shape) / channels))
        if not self._integer:
            return self._constant(f"weight{name}", self._random.integers(-MOST, MOST, shape).astype(np.float32) * scale)
        scales = self._constant(f"scales{name}", np.full(channels, scale))
        zeros, axis = self._constant("zeros", np.zeros(channels, np.int8)), 0 if self._chain.operator == "Conv" else 1
        integers = self._integers(f"weight{name}")
        return self._node("DequantizeLinear", f"weights{name}", integers, scales, zeros, axis=axis)

    def _integers(self, name: str) -> str:
        return self._constant(name, self._random.integers(-MOST, MOST, self._chain.weight_shape).astype(np.int8))

    def _constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _node(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def _value(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return TensorSpec(name=value.name, dtype=dtype.name, shape=tuple(dim.dim_value for dim in kind.shape.dim))
