"""The target's clock for passes that choose by time: milliseconds of float graphs as the target will have them.

What is timed here is for choosing and never for judging: `validation` holds the only clock whose times are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from edgeopt import files, onnx_graph
from edgeopt.context import Context, Timer
from edgeopt.model import Model, OnnxValue, QuantizationProfile
from edgeopt.quantization.arithmetic import Range
from edgeopt.quantization.fold import fold
from edgeopt.quantization.half import choose
from edgeopt.quantization.half_cast import cast_graph, opset_of, prepare
from edgeopt.quantization.insert import insert_pairs
from edgeopt.quantization.placement import make_placement
from edgeopt.quantization.scheme import make_scheme
from edgeopt.quantization.wiring import Wiring

#: of activations in a graph that is only timed: what it computes does not matter, but that a Relu, and what moves its
#: values, has no negative half
SIGNED, UNSIGNED = Range(-4.0, 4.0), Range(0.0, 6.0)

#: looks at two graphs that are compared: at least, at most, and the standard error of their ratio that is small enough
LOOKS, MOST_LOOKS, SURE = 3, 9, 0.01

#: seconds after which nothing is looked at more often than must be: an engine may take minutes to build
PATIENCE_S = 30.0


class Clock:
    """The target's clock: milliseconds of graphs, quantized as the target will have them.

    Args:
        profile: how they are quantized; None: they stay in float.
        half: whether floats are float16.
    """

    def __init__(self, timer: Timer, profile: QuantizationProfile | None, folder: Path, *, half: bool = False) -> None:
        self.timer, self.profile, self.half, self._folder = timer, profile, half, folder

    def time(self, graphs: Sequence[onnx.ModelProto]) -> list[float]:
        """(graphs,) milliseconds of one run of each, in turns.

        Raises:
            BuildError: one of them cannot be built or run.
        """
        with files.scratch(self._folder) as scratch:
            models = [_write(graph, scratch / str(number)) for number, graph in enumerate(graphs)]
            return self.timer.time(models)

    def compare(self, before: onnx.ModelProto, after: onnx.ModelProto) -> float:
        """The time of one float graph, at the precision of the target, as a share of that of another one.

        It is the median of several looks, each in a process of its own: where memory happens to lie makes one process
        faster than the next by several per cent, however long each is timed.

        Raises:
            BuildError: one of them cannot be built or run.
        """
        graphs, shares, end = [self.finished(before), self.finished(after)], list[float](), monotonic() + PATIENCE_S
        while len(shares) < LOOKS or _worth_another(shares, end):
            first, second = self.time(graphs)
            shares.append(second / first)
        return float(np.median(shares))

    def finished(self, graph: onnx.ModelProto) -> onnx.ModelProto:
        """A float graph at the precision of the target; ranges are made up, since nobody looks at its answers."""
        return finish_blindly(graph, self.profile, half=self.half)

    def describe(self) -> list[Any]:
        """What times depend on, beside the graph."""
        profile = None if self.profile is None else self.profile.model_dump(mode="json")
        timer = [self.timer.backend, self.timer.options, self.timer.threads, self.timer.batch]
        machine = [self.timer.machine[name] for name in ("cpu", "isa", "gpus", "power_mode", "libraries")]
        return [timer, profile, self.half, machine]


def _worth_another(shares: Sequence[float], end: float) -> bool:
    """Whether looks at a ratio disagree, and another one is affordable."""
    error = np.std(shares, ddof=1) / np.sqrt(len(shares)) / np.mean(shares)
    return len(shares) < MOST_LOOKS and monotonic() < end and bool(error > SURE)


def make_clock(context: Context) -> Clock:
    """The clock that the context lends: a pass that takes it is `clocked_by` some candidate."""
    assert context.timer is not None
    return Clock(context.timer, context.profile, context.folder, half=context.half)


def finish_blindly(graph: onnx.ModelProto, profile: QuantizationProfile | None, *, half: bool) -> onnx.ModelProto:
    """A float graph at the precision that ships, as far as its time and its size go."""
    made = graph if profile is None else quantize_blindly(graph, profile)
    return cast_blindly(made) if half else made


def quantize_blindly(graph: onnx.ModelProto, profile: QuantizationProfile) -> onnx.ModelProto:
    """A float graph with the pairs that a profile wants, of ranges that were never looked at: fit to be timed."""
    folded = fold(graph)
    placement = make_placement(folded, profile)
    unsigned = {name for node in folded.graph.node if node.op_type in ("Relu", "Clip") for name in node.output}
    ranges = {pair.tensor: UNSIGNED if pair.root in unsigned else SIGNED for pair in placement.pairs}
    return insert_pairs(folded, make_scheme(folded, placement, ranges, profile))


def cast_blindly(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with float16 in place of floats, whether or not the values fit: fit to be timed."""
    prepared = prepare(graph, onnx_graph.input_specs(graph))
    opset = opset_of(prepared)
    return cast_graph(prepared, choose(Wiring(prepared), opset, (), None, 1.0))


def strip_ends(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the steps to integers or float16 at its start and back to floats at its end."""
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    nodes = made.graph.node
    inputs = {value.name: value for value in made.graph.input}
    zero_points = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    for node in list(nodes):
        readers = [other for other in nodes if node.input[0] in other.input]
        if node.input[0] in inputs and len(readers) == 1 and _is_step(node, "QuantizeLinear", TensorProto.FLOAT16):
            value = inputs[node.input[0]]
            value.type.tensor_type.elem_type = _type_of(node, zero_points)
            value.name = node.output[0]
            nodes.remove(node)
    outputs = {value.name: value for value in made.graph.output}
    for node in list(nodes):
        if node.output[0] in outputs and _is_step(node, "DequantizeLinear", TensorProto.FLOAT):
            value = outputs[node.output[0]]
            value.type.tensor_type.elem_type = _type_of(node, zero_points)
            value.name = node.input[0]
            nodes.remove(node)
    return made


def _is_step(node: onnx.NodeProto, kind: str, to: int) -> bool:
    """Whether a node is of that kind, or a cast to that type."""
    return node.op_type == kind or (node.op_type == "Cast" and node.attribute[0].i == to)


def _type_of(node: onnx.NodeProto, zero_points: Mapping[str, int]) -> int:
    """The type on the inner side of a step at an end."""
    return TensorProto.FLOAT16 if node.op_type == "Cast" else zero_points[node.input[2]]


def _write(graph: onnx.ModelProto, folder: Path) -> Model:
    value = OnnxValue()
    onnx_graph.save_graph(graph, folder / value.file)
    return Model(
        value=value, inputs=onnx_graph.input_specs(graph), outputs=onnx_graph.output_specs(graph), folder=folder
    )
