"""A graph in float16 read as the float32 graph that it stands for, so that what is known of one holds for both."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from edgeopt.quantization.wiring import Wiring, attribute

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def widen(graph: onnx.ModelProto) -> None:
    """Make float32 of float16 in place, and an Identity of each cast between the two; nodes have names of their own.

    Raises:
        onnx.shape_inference.InferenceError: the types of the graph contradict each other.
    """
    found = [_widen_constants(graph.graph), _widen_ends(graph.graph), *map(_widen_node, graph.graph.node)]
    if not any(found):
        return
    wiring = Wiring(graph)
    for node in graph.graph.node:
        if node.op_type == "Cast" and attribute(node, "to", 0) == FLOAT and wiring.is_float(node.input[0]):
            node.op_type = "Identity"
            del node.attribute[:]


def _widen_constants(graph: onnx.GraphProto) -> bool:
    halves = [tensor for tensor in graph.initializer if tensor.data_type == HALF]
    for tensor in halves:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    return bool(halves)


def _widen_ends(graph: onnx.GraphProto) -> bool:
    """Inputs and outputs; those between are forgotten, for they are inferred anew."""
    del graph.value_info[:]
    halves = [value for value in (*graph.input, *graph.output) if value.type.tensor_type.elem_type == HALF]
    for value in halves:
        value.type.tensor_type.elem_type = FLOAT
    return bool(halves)


def _widen_node(node: onnx.NodeProto) -> bool:
    """What says of its output that it is float16."""
    halves = [each for each in node.attribute if each.name in ("to", "dtype", "output_dtype") and each.i == HALF]
    for each in halves:
        each.i = FLOAT
    value = attribute(node, "value", None) if node.op_type == "ConstantOfShape" else None
    if value is None or value.data_type != HALF:
        return bool(halves)
    del node.attribute[:]
    wide = numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float32), "value")
    node.attribute.append(onnx.helper.make_attribute("value", wide))
    return True
