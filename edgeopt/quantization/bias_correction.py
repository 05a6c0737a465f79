"""Bias correction: the mean that quantization moves in each channel is taken back by the bias.

Rounding weights moves the mean of what an operator makes, and the layers behind it see another distribution than they
were trained on; networks with depthwise convolutions and squeeze-and-excitation lose tens of points by it. *Full*
correction compares the mean of each layer with that of the float network while all layers before it are quantized and
corrected already. Both networks run side by side in one graph, which takes the error of the means so far off each
result on the spot, so that one run over the samples corrects all layers in their order. *Fast* correction looks at each
layer alone, with exact inputs: the mean of what its weights' rounding errors make. (Nagel et al., Data-Free
Quantization Through Weight Equalization and Bias Correction, ICCV 2019, section 4.2, with samples in place of their
closed form.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.onnx_graph import add_reduction, make_session
from edgeopt.quantization.calibration import Arrays, count_of, run_batch
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import Weighted
from edgeopt.quantization.scheme import Scheme
from edgeopt.quantization.wiring import Wiring, attribute, fresh_name, is_plain_gemm, names_of

#: operators whose result has the channels on its second axis, and that take a bias
CORRECTED = ("Conv", "ConvTranspose", "Gemm")

#: what tensors and nodes are called in the graphs that errors are found with
_EXACT, _RAW, _MEAN, _ERROR, _BEFORE, _SHARE = (
    f"edgeopt_{each}_" for each in ("exact", "raw", "mean", "error", "before", "share")
)

Errors = Mapping[str, NDArray[Any]]


def add_biases(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A new graph in which every convolution and plain Gemm with a constant weight has a bias of its own.

    It is zero where there was none, and a copy where others read the same.
    """
    biased = onnx.ModelProto()
    biased.CopyFrom(graph)
    arrays, taken = {tensor.name: tensor for tensor in biased.graph.initializer}, names_of(biased.graph)
    readers = Counter(name for node in biased.graph.node for name in node.input)
    for node in biased.graph.node:
        weight = arrays.get(node.input[1]) if len(node.input) > 1 and node.op_type in CORRECTED else None
        if weight is None or weight.data_type != onnx.TensorProto.FLOAT:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        if not bias and (node.op_type != "Gemm" or is_plain_gemm(node)):
            values = np.zeros(_channels(node, weight), np.float32)
        elif bias in arrays and readers[bias] > 1:
            values = numpy_helper.to_array(arrays[bias])
        else:
            continue
        name = fresh_name(f"{node.name}_added_bias", taken)
        biased.graph.initializer.append(numpy_helper.from_array(values, name))
        node.input[:] = [*node.input[:2], name]
    return biased


def correct_biases(
    graph: onnx.ModelProto, scheme: Scheme, batches: Iterable[Arrays], *, full: bool, threads: int = 1,
    on_batch: Callable[[int], None] = lambda count: None,
) -> onnx.ModelProto:  # fmt: skip
    """A new float graph whose biases make up for what the scheme does to the means; the scheme goes on to fit it.

    Args:
        graph: folded, with biases: see `add_biases`.
        batches: of which a hundred images in all do, if they are of all kinds.
        full: layer after layer, or each alone.
        on_batch: told the number of samples of each batch that is done.

    Raises:
        PassError: the graph does not run on a batch.
    """
    nodes, gates = {node.name: node for node in graph.graph.node}, _gates(graph)
    layers = [
        each for each in scheme.placement.weighted
        if each.bias and nodes[each.node].op_type in CORRECTED and each.node not in gates
    ]  # fmt: skip
    find_errors = _errors_in_turn if full else _errors_alone
    errors = find_errors(graph, scheme, layers, batches, threads, on_batch) if layers else {}
    corrected = onnx.ModelProto()
    corrected.CopyFrom(graph)
    tensors = {tensor.name: tensor for tensor in corrected.graph.initializer}
    for each in layers:
        assert each.bias is not None
        bias = numpy_helper.to_array(tensors[each.bias])
        moved = bias.astype(np.float64) - errors[each.node].reshape(bias.shape)
        tensors[each.bias].CopyFrom(numpy_helper.from_array(moved.astype(np.float32), each.bias))
    return corrected


def _gates(graph: onnx.ModelProto) -> set[str]:
    """The nodes that make gates, as squeeze-and-excitation does: from pooled tensors, to be multiplied with whole ones.

    A gate has one number for each image and channel. What moves its mean is a few images on which it moves far, and to
    move it on all the others is no cure: on an EfficientNet it cost 4 dB.
    """
    pooled, makers, gates, wiring = set[str](), dict[str, onnx.NodeProto](), set[str](), Wiring(graph)
    for node in wiring.nodes.values():
        read = [name for name in node.input if wiring.is_activation(name)]  # a shape, say, is none
        whole = [name for name in read if name not in pooled]
        if _pools(node, wiring) or (read and not whole):
            pooled.update(node.output)
            makers |= dict.fromkeys(node.output, node)
        elif node.op_type == "Mul":
            waiting = [name for name in read if name in pooled]
            while waiting:
                maker = makers[waiting.pop()]
                if maker.name not in gates and not _pools(maker, wiring):
                    waiting += [name for name in maker.input if name in pooled]
                gates.add(maker.name)
    return gates


def _pools(node: onnx.NodeProto, wiring: Wiring) -> bool:
    """Whether the node leaves one number of each channel."""
    if node.op_type != "ReduceMean":
        return node.op_type == "GlobalAveragePool"
    given = wiring.array(node.input[1]) if len(node.input) > 1 else attribute(node, "axes", None)
    return given is not None and sorted(int(axis) % 4 for axis in given) == [2, 3]


def _errors_in_turn(
    graph: onnx.ModelProto, scheme: Scheme, layers: Iterable[Weighted], batches: Iterable[Arrays], threads: int,
    on_batch: Callable[[int], None],
) -> Errors:  # fmt: skip
    """Node → (channels,) by how much its mean is off, behind layers that are corrected.

    After each batch a layer's error is the average over the batches so far, this one counted: what the first few leave
    in the layers behind them is as good as gone after a dozen.
    """
    arrays = {tensor.name: tensor for tensor in graph.graph.initializer}
    nodes = {node.name: node for node in graph.graph.node}
    ranks = {each.node: len(arrays[each.weight].dims) for each in layers}
    counts = {each.node: _channels(nodes[each.node], arrays[each.weight]) for each in layers}
    errors = {node: np.zeros((1, counts[node], *[1] * (rank - 2)), np.float32) for node, rank in ranks.items()}
    # Integer kernels of this machine may saturate where those of the target do not.
    joined = _side_by_side(graph, insert_pairs(graph, scheme), ranks)
    session = make_session(joined, threads, as_written=True)
    for number, batch in enumerate(batches, 1):
        before = {f"{_BEFORE}{node}": error for node, error in errors.items()}
        before[_SHARE] = np.asarray(1 / number, np.float32)
        found = run_batch(session, [f"{_ERROR}{node}" for node in errors], batch, **before)
        errors = dict(zip(errors, found, strict=True))
        on_batch(count_of(batch))
    return errors


def _side_by_side(exact: onnx.ModelProto, quantized: onnx.ModelProto, ranks: Mapping[str, int]) -> onnx.ModelProto:
    """One graph of both, in which each layer of `quantized` gives its result less its error, which is an output.

    The error is what it was before, an input, moved by the given share towards that of this batch.
    """
    joined = onnx.ModelProto()
    joined.CopyFrom(quantized)
    body, inputs = joined.graph, {value.name for value in exact.graph.input}
    del body.node[:], body.output[:]
    body.input.append(onnx.helper.make_tensor_value_info(_SHARE, onnx.TensorProto.FLOAT, []))
    for tensor in exact.graph.initializer:
        body.initializer.add().CopyFrom(tensor)
        body.initializer[-1].name = f"{_EXACT}{tensor.name}"
    for node in exact.graph.node:
        twin = body.node.add()
        twin.CopyFrom(node)
        twin.name = f"{_EXACT}{node.name}"
        twin.input[:] = [name if name in inputs or not name else f"{_EXACT}{name}" for name in node.input]
        twin.output[:] = [f"{_EXACT}{name}" if name else "" for name in node.output]
        if node.name in ranks:
            axes = [0, *range(2, ranks[node.name])]
            add_reduction(joined, "ReduceMean", twin.output[0], f"{_MEAN}{twin.name}", axes, keep=True)
    for node in quantized.graph.node:
        body.node.add().CopyFrom(node)
        if node.name in ranks:
            raw = body.node[-1].output[0] = f"{_RAW}{node.name}"
            axes = [0, *range(2, ranks[node.name])]
            add_reduction(joined, "ReduceMean", raw, f"{_MEAN}{node.name}", axes, keep=True)
            body.node.extend(_take_off(node.name, raw, node.output[0]))
            body.input.append(onnx.helper.make_tensor_value_info(f"{_BEFORE}{node.name}", onnx.TensorProto.FLOAT, None))
    del body.output[:]
    kinds = (onnx.helper.make_tensor_value_info(f"{_ERROR}{node}", onnx.TensorProto.FLOAT, None) for node in ranks)
    body.output.extend(kinds)
    return joined


def _take_off(node: str, raw: str, result: str) -> list[onnx.NodeProto]:
    """`error = before + share · (mean − exact mean − before)`, and `result = raw − error`."""
    error = f"{_ERROR}{node}"
    steps = (
        ("Sub", (f"{_MEAN}{node}", f"{_MEAN}{_EXACT}{node}"), f"{error}_now"),
        ("Sub", (f"{error}_now", f"{_BEFORE}{node}"), f"{error}_moved"),
        ("Mul", (f"{error}_moved", _SHARE), f"{error}_step"),
        ("Add", (f"{_BEFORE}{node}", f"{error}_step"), error),
        ("Sub", (raw, error), result),
    )
    return [onnx.helper.make_node(operator, inputs, [made], name=f"{made}_{_RAW}") for operator, inputs, made in steps]


def _errors_alone(
    graph: onnx.ModelProto, scheme: Scheme, layers: Iterable[Weighted], batches: Iterable[Arrays], threads: int,
    on_batch: Callable[[int], None],
) -> Errors:  # fmt: skip
    """Node → (channels,) the mean of what the rounding errors of its weight make of its exact input."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    del opened.graph.output[:]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes = {node.name: node for node in graph.graph.node}
    for each in layers:
        quantizer, weight = scheme.weights[each.node], arrays[each.weight]
        integers = scheme.integers.get(each.node)
        rounded = quantizer.dequantize(quantizer.quantize(weight) if integers is None else integers)
        opened.graph.initializer.append(numpy_helper.from_array(rounded - weight, f"{_RAW}{each.node}"))
        twin = opened.graph.node.add()
        twin.CopyFrom(nodes[each.node])
        twin.name = twin.output[0] = f"{_EXACT}{each.node}"
        twin.input[:] = [each.activation, f"{_RAW}{each.node}"]
        axes = [0, *range(2, weight.ndim)]
        add_reduction(opened, "ReduceMean", twin.output[0], f"{_ERROR}{each.node}", axes)
    session = make_session(opened, threads)
    names, samples = [each.node for each in layers], 0
    totals: list[Any] = [0.0] * len(names)
    for batch in batches:
        found = run_batch(session, [f"{_ERROR}{name}" for name in names], batch)
        totals = [total + count_of(batch) * mean.astype(np.float64) for total, mean in zip(totals, found, strict=True)]
        samples += count_of(batch)
        on_batch(count_of(batch))
    return {name: total / samples for name, total in zip(names, totals, strict=True)}


def _channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """How many channels the node makes."""
    if node.op_type == "Gemm":
        return int(weight.dims[0 if attribute(node, "transB", 0) else 1])
    return int(weight.dims[1] * attribute(node, "group", 1) if node.op_type == "ConvTranspose" else weight.dims[0])
