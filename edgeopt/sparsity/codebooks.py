"""Weights that share few values: a layer then compresses to little more than which value each weight has.

Han et al., "Deep Compression", ICLR 2016: the values are found by k-means, begun at even distances over the range of
the weights, since the few large weights matter and any start by density forgets them. Zero keeps a value of its own
where a layer has zeros, so that what sparsity left stays. What runs is the graph as it was, with other numbers in it.

In a quantized graph the integers share values, and scales and zero points stay: an integer counts by the square of the
scale of its channel, which is what an error in it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.errors import PassError, did_you_mean
from edgeopt.quantization.arithmetic import sqnr_db

Floats = NDArray[np.float64]

#: operators whose second input is a weight
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: assignments settle long before
MOST_STEPS = 200


@dataclass(frozen=True)
class Weight:
    """A constant weight of a graph, as real numbers or as integers.

    Attributes:
        node: the first that reads it.
        tensor: the initializer.
        scale: of the integers, in a shape that goes with them; None where the weight is in float.
        zero_point: the number that stands for zero, in such a shape.
    """

    node: str
    tensor: onnx.TensorProto
    scale: Floats | None = None
    zero_point: NDArray[np.int64] | int = 0


@dataclass(frozen=True)
class Shared:
    """What became of a weight: how many values it has now, and how it compares with what it was."""

    node: str
    values: int
    sqnr_db: float

    def tell(self) -> str:
        return f"{self.values} values, SQNR {self.sqnr_db:.1f} dB"


def find_weights(graph: onnx.ModelProto, ignore: Sequence[str] = ()) -> list[Weight]:
    """The weights of a graph, in float or behind a DequantizeLinear, but those of the nodes in `ignore`; each once.

    Raises:
        PassError: the graph has no node of a name in `ignore`.
    """
    names = [_name(node) for node in graph.graph.node if node.op_type in WEIGHTED]
    unknown = next((name for name in ignore if name not in names), None)
    if unknown is not None:
        raise PassError(f"the graph has no layer `{unknown}` to ignore", did_you_mean(unknown, names))
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    found: dict[str, Weight] = {}
    for node in graph.graph.node:
        if node.op_type in WEIGHTED and _name(node) not in ignore:
            weight = _find_weight(node, constants, producers)
            if weight is not None and len(weight.tensor.dims) > 1:
                found.setdefault(weight.tensor.name, weight)
    return list(found.values())


def share(weight: Weight, bits: int) -> Shared:
    """Let the weights of a layer share 2^bits values, in place.

    Raises:
        PassError: they are integers that have no more values than that anyhow.
    """
    if weight.scale is not None and bits >= 8:
        hint = "set `bits` to 7 or less, or share the weights of the float graph"
        raise PassError(f"`{weight.node}` has integers of 8 bits, which are {2**bits} values as they are", hint)
    given = numpy_helper.to_array(weight.tensor)
    values = given.astype(np.float64) - weight.zero_point
    importance = np.ones_like(values) if weight.scale is None else np.broadcast_to(weight.scale**2, values.shape)
    finish: Callable[[Floats], Floats] = (lambda book: book) if weight.scale is None else np.round
    made = _share(values, importance, 2**bits, finish)
    result = (made + weight.zero_point).astype(given.dtype)
    weight.tensor.CopyFrom(numpy_helper.from_array(result, weight.tensor.name))
    real = [array if weight.scale is None else array * weight.scale for array in (values, made)]
    fidelity = sqnr_db({"weight": real[0]}, {"weight": real[1]})
    return Shared(weight.node, len(np.unique(result)), round(fidelity, 2))


def find_codebook(values: Floats, importance: Floats, count: int) -> Floats:
    """(≤ count,) the rising values that stand for others with a small sum of squares, by k-means in one dimension.

    Args:
        values: (n,) distinct and rising.
        importance: (n,) how much each of them counts.
    """
    if len(values) <= count:
        return values
    edges = np.concatenate([[0.0], np.cumsum(importance)])
    moments = np.concatenate([[0.0], np.cumsum(importance * values)])
    book = np.linspace(values[0], values[-1], count)
    bounds = np.empty(0, np.int64)
    for _ in range(MOST_STEPS):
        inner = np.searchsorted(values, (book[1:] + book[:-1]) / 2, side="right")
        if np.array_equal(inner, bounds):
            break
        bounds = inner
        ends = np.concatenate([[0], bounds, [len(values)]])
        weight, moment = np.diff(edges[ends]), np.diff(moments[ends])
        book = np.where(weight > 0, moment / np.where(weight > 0, weight, 1.0), book)  # one that nobody chose stays
    return book


def _share(values: Floats, importance: Floats, count: int, finish: Callable[[Floats], Floats]) -> Floats:
    """The nearest to each in one codebook, as `finish` leaves that; zeros stay zero."""
    flat, used = values.ravel(), values.ravel() != 0
    distinct, places = np.unique(flat[used], return_inverse=True)
    if not len(distinct):
        return values
    counted = np.bincount(places, importance.ravel()[used]).astype(np.float64)
    book = np.unique(finish(find_codebook(distinct, counted, count - (not used.all()))))
    nearest = np.searchsorted((book[1:] + book[:-1]) / 2, flat)
    result: Floats = np.where(used, book[nearest], 0.0).reshape(values.shape)
    return result


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _find_weight(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], producers: dict[str, onnx.NodeProto]
) -> Weight | None:
    name = node.input[1]
    if name in constants:
        return Weight(_name(node), constants[name])
    pair = producers.get(name)
    if pair is None or pair.op_type != "DequantizeLinear" or any(each not in constants for each in pair.input):
        return None
    integers, *rest = (constants[each] for each in pair.input)
    if integers.data_type not in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
        return None
    axis = next((each.i for each in pair.attribute if each.name == "axis"), 1) % len(integers.dims)
    shape = [-1 if at == axis else 1 for at in range(len(integers.dims))]
    scale, *zero_point = (numpy_helper.to_array(each) for each in rest)
    shaped = [each.reshape(shape) if each.ndim else each for each in (scale, *zero_point)]
    zero = shaped[1].astype(np.int64) if zero_point else 0
    return Weight(_name(node), integers, shaped[0].astype(np.float64), zero)
