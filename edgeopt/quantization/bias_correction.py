"""Bias correction: the mean that quantization moves in each channel is taken back by the bias.

Rounding weights moves the mean of what an operator makes, and the layers behind it see another distribution than they
were trained on; networks with depthwise convolutions and squeeze-and-excitation lose tens of points by it. *Full*
correction goes through the network from its input to its output: the mean of each layer is compared with that of the
float network while all layers before it are quantized and corrected already; layers of the same depth share a run, and
a run computes no more than leads to them. *Fast* correction looks at each layer alone, in one run, with exact inputs:
the mean of what its weights' rounding errors make. (Nagel et al., Data-Free Quantization Through Weight Equalization
and Bias Correction, ICCV 2019, section 4.2, with samples in place of their closed form.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.errors import PassError
from edgeopt.onnx_graph import add_reduction, make_session
from edgeopt.quantization.calibration import Arrays, Batches
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import Weighted
from edgeopt.quantization.scheme import Scheme
from edgeopt.quantization.wiring import attribute, is_plain_gemm

#: operators whose result has the channels on its second axis, and that take a bias
CORRECTED = ("Conv", "ConvTranspose", "Gemm")

Means = dict[str, NDArray[np.float64]]


def add_biases(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A new graph in which every convolution and plain Gemm with a constant weight has a bias, of zeros where new."""
    biased = onnx.ModelProto()
    biased.CopyFrom(graph)
    arrays = {tensor.name: tensor for tensor in biased.graph.initializer}
    for node in biased.graph.node:
        bare = node.op_type in CORRECTED and (len(node.input) < 3 or not node.input[2])
        plain = node.op_type != "Gemm" or is_plain_gemm(node)
        if bare and plain and node.input[1] in arrays:
            name = f"{node.name}_added_bias"
            zeros = np.zeros(_channels(node, arrays[node.input[1]]), np.float32)
            biased.graph.initializer.append(numpy_helper.from_array(zeros, name))
            node.input[:] = [*node.input[:2], name]
    return biased


def correct_biases(
    graph: onnx.ModelProto, scheme: Scheme, batches: Batches, *, full: bool, threads: int = 1,
    on_run: Callable[[int, int], None] = lambda done, runs: None,
) -> onnx.ModelProto:  # fmt: skip
    """A new float graph whose biases make up for what the scheme does to the means; the scheme goes on to fit it.

    Args:
        graph: folded, with biases: see `add_biases`.
        batches: called once for each run over the samples.
        full: layer after layer, or each alone.
        on_run: told how many runs are done, and of how many.
    """
    nodes = {node.name: node for node in graph.graph.node}
    layers = [each for each in scheme.placement.weighted if each.bias and nodes[each.node].op_type in CORRECTED]
    corrected = onnx.ModelProto()
    corrected.CopyFrom(graph)
    if not full:
        _shift(corrected, layers, _error_means(graph, scheme, layers, batches(), threads))
        on_run(1, 1)
        return corrected
    names = [each.node for each in layers]
    exact = _means(graph, names, batches(), threads)
    levels = _levels(graph, layers)
    for done, level in enumerate(levels, 1):
        found = _means(insert_pairs(corrected, scheme), [each.node for each in level], batches(), threads)
        _shift(corrected, level, {node: found[node] - exact[node] for node in found})
        on_run(done + 1, len(levels) + 1)
    return corrected


def _shift(graph: onnx.ModelProto, layers: Iterable[Weighted], errors: Mapping[str, NDArray[np.float64]]) -> None:
    """Take the errors of the means off the biases, in place."""
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for each in layers:
        assert each.bias is not None
        bias = numpy_helper.to_array(tensors[each.bias])
        moved = bias.astype(np.float64) - errors[each.node].reshape(bias.shape)
        tensors[each.bias].CopyFrom(numpy_helper.from_array(moved.astype(np.float32), each.bias))


def _levels(graph: onnx.ModelProto, layers: Iterable[Weighted]) -> list[list[Weighted]]:
    """The layers by how many weighted ones lead to them: those of one level do not depend on each other."""
    known, depths, made = {each.node: each for each in layers}, dict[str, int](), dict[int, list[Weighted]]()
    for node in graph.graph.node:
        depth = max((depths.get(name, 0) for name in node.input), default=0)
        if node.name in known:
            made.setdefault(depth, []).append(known[node.name])
            depth += 1
        depths |= dict.fromkeys(node.output, depth)
    return [made[depth] for depth in sorted(made)]


def _means(graph: onnx.ModelProto, nodes: Iterable[str], batches: Iterable[Arrays], threads: int) -> Means:
    """Node → (channels,) the mean of what it makes, over samples and positions."""
    makers = {node.name: node for node in graph.graph.node}
    return _run_means(graph, {name: makers[name].output[0] for name in nodes}, batches, threads)


def _error_means(
    graph: onnx.ModelProto, scheme: Scheme, layers: Iterable[Weighted], batches: Iterable[Arrays], threads: int
) -> Means:
    """Node → (channels,) the mean of what the rounding errors of its weight make of its exact input."""
    opened = onnx.ModelProto()
    opened.CopyFrom(graph)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    nodes = {node.name: node for node in graph.graph.node}
    results = {}
    for each in layers:
        quantizer, weight = scheme.weights[each.node], arrays[each.weight]
        integers = scheme.integers.get(each.node)
        rounded = quantizer.dequantize(quantizer.quantize(weight) if integers is None else integers)
        twin, error = onnx.NodeProto(), f"{each.node}_weight_error"
        twin.CopyFrom(nodes[each.node])
        twin.name = results[each.node] = f"{each.node}_error"
        twin.input[:] = [each.activation, error]
        twin.output[:] = [twin.name]
        opened.graph.initializer.append(numpy_helper.from_array(rounded - weight, error))
        opened.graph.node.append(twin)
    return _run_means(opened, results, batches, threads)


def _run_means(graph: onnx.ModelProto, results: Mapping[str, str], batches: Iterable[Arrays], threads: int) -> Means:
    session = make_session(_only_means(graph, results), threads)
    outputs, samples = list(results), 0
    totals: list[Any] = [0.0] * len(outputs)
    for batch in batches:
        count = len(next(iter(batch.values())))
        try:
            found = session.run([f"{name}_mean" for name in outputs], batch)
        except Exception as error:  # the runtime's own exceptions have no base but Exception
            raise PassError(f"the network does not run on {count} calibration samples: {error}") from error
        totals = [total + count * mean.astype(np.float64) for total, mean in zip(totals, found, strict=True)]
        samples += count
    return {name: total / samples for name, total in zip(outputs, totals, strict=True)}


def _only_means(graph: onnx.ModelProto, results: Mapping[str, str]) -> onnx.ModelProto:
    """What leads to these results, with their means over all but the channels as the only outputs."""
    reduced = onnx.ModelProto()
    reduced.CopyFrom(graph)
    needed, kept = set(results.values()), []
    for node in reversed(graph.graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    del reduced.graph.node[:], reduced.graph.output[:]
    reduced.graph.node.extend(reversed(kept))
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    makers = {name: node for node in kept for name in node.output}
    for name, result in results.items():
        rank = ranks.get(makers[result].input[1], 0) or _rank_behind(makers, makers[result].input[1], ranks)
        add_reduction(reduced, "ReduceMean", result, f"{name}_mean", [0, *range(2, rank)])
    return reduced


def _rank_behind(makers: Mapping[str, onnx.NodeProto], tensor: str, ranks: Mapping[str, int]) -> int:
    """The rank of a weight that is read through a DequantizeLinear."""
    return ranks[makers[tensor].input[0]]


def _channels(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """How many channels the node makes."""
    if node.op_type == "Gemm":
        return int(weight.dims[0 if attribute(node, "transB", 0) else 1])
    return int(weight.dims[1] * attribute(node, "group", 1) if node.op_type == "ConvTranspose" else weight.dims[0])
