"""Cross-layer equalization: channels whose weights differ much in size are brought to one, with nothing else changed.

Between a weighted operator and the next one, a channel may be made smaller before and larger after by one factor: a
Relu lets positive factors through. Where one scale serves all channels, small ones gain the bits that large ones held.
(Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.quantization.wiring import Wiring, attribute, is_plain_gemm

#: between two weighted operators, what a positive factor of a channel passes through
HOMOGENEOUS = ("Relu", "LeakyRelu", "PRelu", "Identity", "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten")

#: each round equalizes every pair once; chains take several
ROUNDS = 20
SETTLED = 1e-3

#: a channel that is nearly dead would get any factor; none is moved further than this
MOST = 1e3


@dataclass(frozen=True)
class _Half:
    """One weight of a pair: its initializer, and the axis that counts the channels between the two.

    `bias` is moved with it; `grouped`: a depthwise weight, whose outputs are its inputs.
    """

    weight: str
    axis: int
    bias: str = ""
    grouped: bool = False


def equalize(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A new graph that computes the same with equalized weights, and how many pairs of operators were equalized."""
    pairs = list(_find_pairs(Wiring(graph)))
    arrays = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.graph.initializer}
    for _ in range(ROUNDS):
        moved = max((_equalize_pair(arrays, *pair) for pair in pairs), default=0.0)
        if moved < SETTLED:
            break
    changed = {name for pair in pairs for half in pair for name in (half.weight, half.bias) if name}
    equalized = onnx.ModelProto()
    equalized.CopyFrom(graph)
    for tensor in equalized.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return equalized, len(pairs)


def _equalize_pair(arrays: dict[str, NDArray[np.float64]], first: _Half, second: _Half) -> float:
    """Bring the channels between two weights to one size, in place; returns the largest logarithm of a factor."""
    before, after = (_sizes(arrays[half.weight], half.axis) for half in (first, second))
    live = (before > 0) & (after > 0)
    factors = np.where(live, np.sqrt(np.where(live, before, 1.0) / np.where(live, after, 1.0)), 1.0)
    factors = np.clip(factors, 1 / MOST, MOST)
    arrays[first.weight] = arrays[first.weight] / _along(factors, first.axis, arrays[first.weight].ndim)
    if first.bias:
        arrays[first.bias] = arrays[first.bias] / factors
    arrays[second.weight] = arrays[second.weight] * _along(factors, second.axis, arrays[second.weight].ndim)
    return float(np.abs(np.log(factors)).max(initial=0.0))


def _sizes(weight: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    sizes: NDArray[np.float64] = np.abs(weight).max(axis=tuple(at for at in range(weight.ndim) if at != axis))
    return sizes


def _along(factors: NDArray[np.float64], axis: int, rank: int) -> NDArray[np.float64]:
    return factors.reshape([-1 if at == axis else 1 for at in range(rank)])


def _find_pairs(wiring: Wiring) -> Iterator[tuple[_Half, _Half]]:
    for node in wiring.nodes.values():
        first, second = _producing(node, wiring), _next_weighted(node, wiring)
        half = None if first is None or second is None else _consuming(second, wiring)
        if first is None or half is None or second is None or first.weight == half.weight:
            continue
        weights = [wiring.array(each.weight) for each in (first, half)]
        same = all(array is not None for array in weights) and (
            weights[0].shape[first.axis] == weights[1].shape[half.axis]  # type: ignore[union-attr]
        )
        # A weight that another node reads too would change there as well.
        names = [name for name in (first.weight, first.bias, half.weight) if name]
        if same and all(len(wiring.readers[name]) == 1 for name in names):
            yield first, half


def _producing(node: onnx.NodeProto, wiring: Wiring) -> _Half | None:
    """The weight whose outputs are the channels, of a convolution or Gemm."""
    if node.op_type == "Conv":
        axis = 0
    elif node.op_type == "Gemm" and is_plain_gemm(node):
        axis = 0 if attribute(node, "transB", 0) else 1
    else:
        return None
    bias = node.input[2] if len(node.input) > 2 else ""
    array, shift = wiring.array(node.input[1]), wiring.array(bias)
    if array is None or (bias and (shift is None or shift.shape != (array.shape[axis],))):
        return None
    return _Half(node.input[1], axis, bias)


def _consuming(node: onnx.NodeProto, wiring: Wiring) -> _Half | None:
    """The weight whose inputs are the channels: of a plain or depthwise convolution, or a Gemm."""
    array = wiring.array(node.input[1])
    if array is None:
        return None
    if node.op_type == "Gemm":
        return _Half(node.input[1], 1 if attribute(node, "transB", 0) else 0) if is_plain_gemm(node) else None
    groups = attribute(node, "group", 1)
    if groups == 1:
        return _Half(node.input[1], 1)
    return _Half(node.input[1], 0, grouped=True) if array.shape[:2] == (groups, 1) else None


def _next_weighted(node: onnx.NodeProto, wiring: Wiring) -> onnx.NodeProto | None:
    """The convolution or Gemm that alone reads what the node makes, behind nothing but what lets factors through."""
    reader = wiring.sole_reader(node.output[0]) if node.output else None
    while reader is not None and reader.op_type in HOMOGENEOUS and reader.input[0] in wiring.producers:
        reader = wiring.sole_reader(reader.output[0])
    weighted = reader is not None and reader.op_type in ("Conv", "Gemm") and len(reader.input) > 1
    return reader if weighted else None
