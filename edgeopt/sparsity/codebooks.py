"""Weights that share few values: a layer then compresses to little more than which value each weight has.

The idea is that of Han et al., "Deep Compression", ICLR 2016, whose k-means begins at even distances over the range of
the weights and ends where it gets stuck. In one dimension the best values can be had (Wang and Song, "Ckmeans.1d.dp:
Optimal k-means Clustering in One Dimension by Dynamic Programming", The R Journal, 2011), and they are far better at 16
values: benchmarks/README.md. Zero keeps a value of its own where a layer has zeros, so that what sparsity left stays.

In a quantized graph the integers share values, and scales and zero points stay: the error of each channel is then as
large as its scale lets it be. What runs is the graph as it was, with other numbers in it.
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
#: values that are told apart when others are sought for them
BINS = 1024


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
    """The weights of a graph, in float or behind a DequantizeLinear, each once; but none that a node in `ignore` reads.

    Raises:
        PassError: the graph has no node of a name in `ignore`.
    """
    names = [_name(node) for node in graph.graph.node if node.op_type in WEIGHTED]
    unknown = next((name for name in ignore if name not in names), None)
    if unknown is not None:
        raise PassError(f"the graph has no layer `{unknown}` to ignore", did_you_mean(unknown, names))
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    found, kept = dict[str, Weight](), set[str]()
    for node in graph.graph.node:
        weight = _find_weight(node, constants, producers) if node.op_type in WEIGHTED else None
        if weight is not None and len(weight.tensor.dims) > 1:
            found.setdefault(weight.tensor.name, weight)
            kept |= {weight.tensor.name} if weight.node in ignore else set()
    return [weight for name, weight in found.items() if name not in kept]


def share(weight: Weight, bits: int) -> Shared:
    """Let the weights of a layer share 2^bits values, in place.

    Raises:
        PassError: they are integers that have no more values than that anyhow, or of which zero is another one in
            each channel, so that few numbers and zeros that stay cannot both be had.
    """
    if weight.scale is not None and bits >= 8:
        hint = "set `bits` to 7 or less, or share the weights of the float graph"
        raise PassError(f"`{weight.node}` has integers of 8 bits, which are {2**bits} values as they are", hint)
    if len(np.unique(weight.zero_point)) > 1:
        hint = f"add it to `ignore`: [{weight.node}], or quantize weights around zero"
        raise PassError(f"`{weight.node}` has integers with zero points that differ by channel", hint)
    given = numpy_helper.to_array(weight.tensor)
    values = given.astype(np.float64) - weight.zero_point
    finish: Callable[[Floats], Floats] = (lambda book: book) if weight.scale is None else np.round
    made = _share(values, 2**bits, finish)
    result = (made + weight.zero_point).astype(given.dtype)
    weight.tensor.CopyFrom(numpy_helper.from_array(result, weight.tensor.name))
    real = [array if weight.scale is None else array * weight.scale for array in (values, made)]
    fidelity = sqnr_db({"weight": real[0]}, {"weight": real[1]})
    return Shared(weight.node, len(np.unique(result)), round(fidelity, 2))


def find_codebook(values: Floats, counts: Floats, count: int) -> Floats:
    """(≤ count,) the rising values that stand for others with the smallest sum of squares.

    Of more than `BINS` values those that are neighbours are taken together first: half of the cuts between them lie at
    even distances, half have as many values between, so that a few that lie far off do not make all others one.

    Args:
        values: (n,) distinct and rising.
        counts: (n,) how often each of them is there.
    """
    if len(values) <= count:
        return values
    starts = np.arange(len(values))
    if len(values) > BINS:
        even = np.searchsorted(values, np.linspace(values[0], values[-1], BINS // 2))
        starts = np.unique([*even[:-1], *np.linspace(0, len(values), BINS // 2, endpoint=False, dtype=int)])
    powers = [np.add.reduceat(counts * values**power, starts) for power in range(3)]
    sums = [np.concatenate([[0.0], np.cumsum(each)]) for each in powers]
    ends = _split(_costs(*sums), min(count, len(starts)))
    weight, moment = (np.diff(each[ends]) for each in sums[:2])
    book: Floats = moment / weight
    return book


def _costs(weights: Floats, moments: Floats, squares: Floats) -> Floats:
    """(bins + 1, bins + 1) the sum of squares around their mean of the bins from the first index to before the second.

    Args:
        weights, moments, squares: (bins + 1,) running sums of the counts, of values, and of their squares.
    """
    weight, moment, square = (each[None, :] - each[:, None] for each in (weights, moments, squares))
    costs: Floats = np.where(weight > 0, square - moment**2 / np.where(weight > 0, weight, 1.0), np.inf)
    return costs


def _split(costs: Floats, parts: int) -> list[int]:
    """Where so many parts of all bins end, at the least cost; the first number is 0."""
    least, chosen = costs[0], []
    for _ in range(parts - 1):
        totals = least[:, None] + costs
        chosen.append(totals.argmin(0))
        least = totals.min(0)
    ends = [len(costs) - 1]
    for befores in reversed(chosen):
        ends.append(int(befores[ends[-1]]))
    return [0, *reversed(ends)]


def _share(values: Floats, count: int, finish: Callable[[Floats], Floats]) -> Floats:
    """The nearest to each in one codebook, as `finish` leaves that; zeros stay zero."""
    flat, used = values.ravel(), values.ravel() != 0
    distinct, counts = np.unique(flat[used], return_counts=True)
    if not len(distinct):
        return values
    book = np.unique(finish(find_codebook(distinct, counts.astype(np.float64), count - (not used.all()))))
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
