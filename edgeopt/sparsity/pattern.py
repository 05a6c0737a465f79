"""Two of four in a finished graph: whether TensorRT's sparse kernels fit any of its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

#: of so many neighbours along what is summed over, so many may differ from zero
OF, MOST = 4, 2


def find_sparse(graph: onnx.ModelProto) -> dict[str, bool]:
    """Node with a constant weight → whether at most two of each four weights along its inputs differ from zero.

    Convolutions, Gemm and MatMul are looked at, in float or behind a DequantizeLinear; layers whose inputs are no
    multiple of four are not sparse.
    """
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    found = {}
    for node in graph.graph.node:
        axis = _summed_axis(node)
        weight = None if axis is None else _zeros_of(node.input[1], constants, producers)
        if weight is not None and axis is not None and weight.ndim > 1:
            found[node.name or node.output[0]] = _is_sparse(np.moveaxis(weight, axis, -1))
    return found


def has_sparse(graph: onnx.ModelProto) -> bool:
    """Whether any layer is."""
    return any(find_sparse(graph).values())


def _summed_axis(node: onnx.NodeProto) -> int | None:
    """The axis of the second input that the node sums over, as far as it is one of those that have sparse kernels."""
    if node.op_type == "Conv":
        return 1
    if node.op_type == "MatMul":
        return -2
    if node.op_type == "Gemm":
        return 1 if any(each.name == "transB" and each.i for each in node.attribute) else 0
    return None


def _zeros_of(
    name: str, constants: dict[str, onnx.TensorProto], producers: dict[str, onnx.NodeProto]
) -> NDArray[Any] | None:
    """A weight, or integers that stand for it with their zero point taken off; None where it is no constant."""
    if name in constants:
        return numpy_helper.to_array(constants[name])
    node = producers.get(name)
    if node is None or node.op_type != "DequantizeLinear" or node.input[0] not in constants:
        return None
    integers = numpy_helper.to_array(constants[node.input[0]]).astype(np.int32)
    if len(node.input) < 3 or node.input[2] not in constants:
        return integers
    zero_point = numpy_helper.to_array(constants[node.input[2]]).astype(np.int32)
    if zero_point.ndim:
        axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
        zero_point = zero_point.reshape([-1 if at == axis % integers.ndim else 1 for at in range(integers.ndim)])
    difference: NDArray[Any] = integers - zero_point
    return difference


def _is_sparse(weight: NDArray[Any]) -> bool:
    """Of a weight (…, inputs)."""
    if weight.shape[-1] % OF:
        return False
    used = np.count_nonzero(weight.reshape(-1, OF), axis=1)
    return bool((used <= MOST).all())
