"""Zero shift: what has values on one side of zero only is moved around it, for targets without zero points.

A symmetric range of a Relu's result has 127 steps for what is there and 128 for what is not. The middle of its range,
taken off, makes all 255 of use, and is given back by the biases of those who read it: w · (x - z) + (b + z · sum w).
That holds where all of them are convolutions or Gemm with constant weights and without padding, since zeros that are
padded would have to be -z.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.placement import Placement
from edgeopt.quantization.wiring import Wiring, attribute, fresh_name, names_of

#: a subtraction for each tensor is worth it where steps become finer by this factor
LEAST_GAIN = 1.5


def shift_zeros(
    graph: onnx.ModelProto, placement: Placement, ranges: Mapping[str, Range]
) -> tuple[onnx.ModelProto, int]:
    """A new graph that computes the same with tensors around zero, and how many were shifted.

    Args:
        graph: folded, with biases: see `add_biases`.
        ranges: of each tensor that has a pair.
    """
    shifted, wiring = onnx.ModelProto(), Wiring(graph)
    shifted.CopyFrom(graph)
    nodes, taken = {node.name: node for node in shifted.graph.node}, names_of(shifted.graph)
    weighted = {each.node: each.weight for each in placement.weighted}
    found = [pair.tensor for pair in placement.pairs if _can_shift(wiring, pair.tensor, weighted)]
    chosen = [tensor for tensor in found if _gain(ranges[tensor]) >= LEAST_GAIN]
    made = {}
    for tensor in chosen:
        named = [fresh_name(f"{tensor}_{each}", taken) for each in ("zero", "shifted", "shift")]
        made[tensor] = onnx.helper.make_node("Sub", [tensor, named[0]], [named[1]], name=named[2])
        zero = np.asarray((ranges[tensor].low + ranges[tensor].high) / 2, np.float32)
        shifted.graph.initializer.append(numpy_helper.from_array(zero, named[0]))
        for reader in wiring.readers[tensor]:
            node = nodes[reader.name]
            node.input[0] = named[1]
            bias = _given_back(wiring, reader, float(zero))
            node.input[2] = fresh_name(f"{node.name}_shifted_bias", taken)
            shifted.graph.initializer.append(numpy_helper.from_array(bias, node.input[2]))
    _add_behind(shifted.graph, made, wiring)
    return shifted, len(chosen)


def _add_behind(graph: onnx.GraphProto, made: Mapping[str, onnx.NodeProto], wiring: Wiring) -> None:
    """Add each node right behind what makes its tensor."""
    nodes = [made[name] for name in wiring.inputs if name in made]
    for node in graph.node:
        nodes += [node, *(made[name] for name in node.output if name in made)]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _can_shift(wiring: Wiring, tensor: str, weighted: Mapping[str, str]) -> bool:
    readers = wiring.readers[tensor]
    return tensor not in wiring.outputs and all(
        node.name in weighted
        and node.op_type in ("Conv", "Gemm")
        and list(node.input).count(tensor) == 1
        and len(node.input) > 2
        and not any(attribute(node, "pads", ()))
        and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        for node in readers
    )


def _gain(values: Range) -> float:
    """By which factor the steps of a symmetric range become finer."""
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    return max(-low, high) / ((high - low) / 2) if high > low else 1.0


def _given_back(wiring: Wiring, node: onnx.NodeProto, zero: float) -> NDArray[np.float32]:
    weight, bias = wiring.array(node.input[1]), wiring.array(node.input[2])
    assert weight is not None
    assert bias is not None
    outputs = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
    sums = weight.astype(np.float64).sum(axis=tuple(at for at in range(weight.ndim) if at != outputs))
    return np.asarray(bias + zero * sums.reshape(bias.shape), np.float32)
