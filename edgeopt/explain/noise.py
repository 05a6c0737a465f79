"""The float and the quantized graph side by side: the noise that each layer adds, and that of the outputs.

Noise adds up along a network, so that the last layers look worst whoever is to blame. Here each stretch between two
pairs runs on exact inputs: one graph holds the float network, and beside it each stretch of the quantized one, fed with
the float tensors, quantized. What a stretch makes is read as the integers that leave its last QuantizeLinear, which
leaves the runtime free to fuse it as it does when the artifact runs: its kernels, and what they saturate, are those of
the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeopt.backends import Arrays, backend_errors
from edgeopt.backends.onnxruntime_cpu import open_runtime
from edgeopt.explain import LayerNoise
from edgeopt.onnx_graph import run_session
from edgeopt.quantization.arithmetic import SQNR_LIMIT_DB
from edgeopt.quantization.wiring import Wiring

ALONE, EXACT = "alone/", "exact/"

#: folded into the operator before it, whose name tells more
_ACTIVATIONS = ("Relu", "Clip")


@dataclass(frozen=True)
class Stretch:
    """What one layer makes of exact inputs.

    Attributes:
        exact: the tensor of the float graph; made: the same in the quantized one, as integers where it has a scale.
    """

    layer: str
    operator: str
    exact: str
    made: str
    scale: float | None = None
    zero_point: int = 0

    def values(self, made: NDArray[Any]) -> NDArray[np.float64]:
        """What the integers stand for."""
        steps = made.astype(np.float64)
        return steps if self.scale is None else (steps - self.zero_point) * self.scale


def measure_layers(
    exact: onnx.ModelProto, quantized: onnx.ModelProto, batches: Sequence[Arrays], threads: int
) -> tuple[LayerNoise, ...]:
    """The noise of each layer of `quantized` alone, the noisiest first.

    Args:
        exact: the folded float graph that `quantized` was made from: tensors have the same names in both.

    Raises:
        BackendError: ONNX Runtime cannot run the two.
    """
    stretches = list(find_stretches(exact, quantized))
    graph = put_beside(exact, quantized, stretches)
    session = open_runtime(graph.SerializeToString(), threads)
    sums = [np.zeros(2) for _ in stretches]
    for batch in batches:
        with backend_errors("onnxruntime_cpu", "run"):
            found = batch | run_session(session, batch)
        for stretch, energies in zip(stretches, sums, strict=True):
            reference = found[stretch.exact].astype(np.float64)
            energies += _energies(reference, stretch.values(found[f"{ALONE}{stretch.made}"]))
    layers = [
        LayerNoise(layer=stretch.layer, operator=stretch.operator, sqnr_db=_decibels(*energies))
        for stretch, energies in zip(stretches, sums, strict=True)
    ]
    return tuple(sorted(layers, key=lambda layer: layer.sqnr_db))


def measure_outputs(
    exact: onnx.ModelProto, quantized: onnx.ModelProto, batches: Sequence[Arrays], threads: int
) -> float:
    """The signal to noise of the worst output in dB, with everything quantized as it is.

    Raises:
        BackendError: ONNX Runtime cannot run one of the two.
    """
    sessions = [open_runtime(graph.SerializeToString(), threads) for graph in (exact, quantized)]
    sums = {value.name: np.zeros(2) for value in exact.graph.output}
    for batch in batches:
        with backend_errors("onnxruntime_cpu", "run"):
            reference, coarse = (run_session(session, batch) for session in sessions)
        for name in sums:
            sums[name] += _energies(reference[name].astype(np.float64), coarse[name].astype(np.float64))
    return min((_decibels(*each) for each in sums.values()), default=SQNR_LIMIT_DB)


def with_float(exact: onnx.ModelProto, quantized: onnx.ModelProto, layers: Collection[str]) -> onnx.ModelProto:
    """`quantized` with the float weights of the named layers, as `quantize_int8: {keep_float: …}` would leave them."""
    changed = onnx.ModelProto()
    changed.CopyFrom(quantized)
    given = {node.name: node for node in exact.graph.node}
    wanted = set()
    for node in changed.graph.node:
        if node.name in layers:
            del node.input[1:]
            node.input.extend(given[node.name].input[1:])
            wanted.update(node.input[1:])
    there = {tensor.name for tensor in changed.graph.initializer}
    changed.graph.initializer.extend(
        tensor for tensor in exact.graph.initializer if tensor.name in wanted and tensor.name not in there
    )
    return changed


def find_stretches(exact: onnx.ModelProto, quantized: onnx.ModelProto) -> Iterator[Stretch]:
    """One for each QuantizeLinear of a tensor that both graphs know, and for each output that is not quantized."""
    wiring, known = Wiring(quantized), _tensors(exact)
    for node in quantized.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        # where the dequantized tensor leaves the graph, it is that one that has the name of the float tensor
        names = [node.input[0], *(reader.output[0] for reader in wiring.readers[node.output[0]])]
        tensor = next((name for name in names if name in known), None)
        scale, zero_point = (wiring.array(name) for name in node.input[1:3])
        if tensor is not None and scale is not None and zero_point is not None and scale.size == 1:
            layer, operator = _layer(node.input[0], wiring)
            yield Stretch(layer, operator, tensor, node.output[0], float(scale.item()), int(zero_point.item()))
    for value in quantized.graph.output:
        maker = wiring.producers.get(value.name)
        if maker is not None and maker.op_type != "DequantizeLinear" and value.name in known:
            yield Stretch(*_layer(value.name, wiring), value.name, value.name)


def put_beside(exact: onnx.ModelProto, quantized: onnx.ModelProto, stretches: Sequence[Stretch]) -> onnx.ModelProto:
    """One graph that holds `exact`, and beside it `quantized` cut at its pairs: each stretch begins with exact inputs.

    Its outputs are `exact` and `alone/made` of each stretch.
    """
    both, inputs = onnx.ModelProto(), {value.name for value in exact.graph.input}
    both.CopyFrom(exact)
    starts = {stretch.made: stretch.exact for stretch in stretches if stretch.scale is not None}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in starts:
            parameters = [f"{ALONE}{name}" for name in node.input[1:]]
            start = [starts[node.output[0]], *parameters], [f"{EXACT}{node.output[0]}"]
            both.graph.node.append(onnx.helper.make_node("QuantizeLinear", *start, name=f"{EXACT}{node.name}"))
        copy = both.graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"{ALONE}{node.name}"
        copy.input[:] = [_renamed(name, starts, inputs) for name in node.input]
        copy.output[:] = [name and f"{ALONE}{name}" for name in node.output]
    for tensor in quantized.graph.initializer:
        copied = both.graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = f"{ALONE}{tensor.name}"
    del both.graph.output[:]
    wanted = {stretch.exact for stretch in stretches} - inputs
    both.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    both.graph.output.extend(onnx.ValueInfoProto(name=f"{ALONE}{stretch.made}") for stretch in stretches)
    return both


def _renamed(name: str, starts: Collection[str], inputs: Collection[str]) -> str:
    if not name or name in inputs:
        return name
    return f"{EXACT if name in starts else ALONE}{name}"


def _layer(tensor: str, wiring: Wiring) -> tuple[str, str]:
    """The name and the operator of what makes a tensor, but for an activation behind it."""
    node = wiring.producers.get(tensor)
    while node is not None and node.op_type in _ACTIVATIONS:
        before = wiring.producers.get(node.input[0])
        if before is None or before.op_type == "DequantizeLinear":
            break
        node = before
    return (tensor, "input") if node is None else (node.name, node.op_type)


def _tensors(graph: onnx.ModelProto) -> set[str]:
    return {name for node in graph.graph.node for name in node.output} | {value.name for value in graph.graph.input}


def _energies(reference: NDArray[np.float64], made: NDArray[np.float64]) -> NDArray[np.float64]:
    """The energy of the signal, and that of the noise."""
    return np.array([np.square(reference).sum(), np.square(reference - made).sum()])


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return SQNR_LIMIT_DB
    return float(np.clip(10 * math.log10(signal / noise), -SQNR_LIMIT_DB, SQNR_LIMIT_DB)) if signal else -SQNR_LIMIT_DB
