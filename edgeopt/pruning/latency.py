"""A table of how long each layer takes on the target at the channel counts that matter.

Each layer is timed alone, as a graph of its own at the precision that will ship, between integers where it will stand
between integers. What that says of a whole network is `timing`'s to find out. A table is kept for the machine: another
recipe that has such a layer does not time it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeopt.clock import Clock, strip_ends
from edgeopt.context import Memo
from edgeopt.model import canonical_json
from edgeopt.pruning.layers import OPERATORS, Layer, Widths

#: shares of a layer's channels that it is timed at, between which times are taken to lie in a line
SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)

#: graphs that are timed in turns, in one process
TOGETHER = 40

#: of a time, what at least is the layer's own once what any run takes is taken off
LEAST_SHARE = 0.05

OPSET = 17


@dataclass(frozen=True)
class Grid:
    """The times of one layer: (inputs, outputs) milliseconds; of a depthwise one (outputs,) in a column."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: NDArray[np.float64]

    def at(self, inputs: int, outputs: int) -> float:
        """Milliseconds with so many channels, in a line between those that were timed."""
        along = [np.interp(outputs, self.outputs, row) for row in self.ms]
        return float(np.interp(inputs, self.inputs, along))


@dataclass(frozen=True)
class LatencyTable:
    """What layers take alone at any channel counts, and what the whole network takes that they are of."""

    grids: dict[str, Grid]
    whole_ms: float

    def layer_ms(self, layer: Layer, inputs: int, outputs: int) -> float:
        """Milliseconds of all runs of a layer in one forward pass."""
        return layer.uses * self.grids[layer.name].at(1 if layer.depthwise else inputs, outputs)


def make_table(
    widths: Widths, whole: onnx.ModelProto, clock: Clock, memo: Memo | None, round_to: int,
    tell: Callable[[float], None],
) -> LatencyTable:  # fmt: skip
    """Time the layers of a network at the counts that matter, but for those that are known, and the whole.

    Args:
        whole: the network's float graph.
        round_to: counts are multiples of it.
        tell: how far it is, from 0 to 1.

    Raises:
        BuildError: a layer cannot be built or run on the target.
    """
    counts = {layer.name: _counts(layer, widths, round_to) for layer in widths.layers}
    alike = {layer.signature: layer for layer in widths.layers}
    known = {signature: _recall(memo, clock, layer) for signature, layer in alike.items()}
    wanted = dict.fromkeys(
        (layer.signature, point) for layer in widths.layers for point in product(*counts[layer.name])
    )
    missing = [(signature, point) for signature, point in wanted if point not in known[signature]]
    finished = clock.finished(whole)
    references, done = list[float](), 0
    for chunk in _chunks(missing):
        graphs = [_layer_graph(alike[signature], point, clock) for signature, point in chunk]
        reference, idle, *times = clock.time([finished, _idle_graph(), *graphs])
        references.append(reference)
        for (signature, point), ms in zip(chunk, times, strict=True):
            # a machine that is slower for a while is so for the whole network, too
            known[signature][point] = max(ms - idle, LEAST_SHARE * ms) / reference
        done += len(chunk)
        tell(done / len(missing))
    whole_ms = float(np.median(references)) if references else clock.time([finished])[0]
    for signature, point in missing:
        known[signature][point] *= whole_ms
    for signature in dict.fromkeys(signature for signature, _ in missing):
        _remember(memo, clock, alike[signature], known[signature])
    grids = {layer.name: _grid(counts[layer.name], known[layer.signature]) for layer in widths.layers}
    return LatencyTable(grids, whole_ms)


def _chunks(points: Sequence[Any]) -> Iterator[Sequence[Any]]:
    yield from (points[at : at + TOGETHER] for at in range(0, len(points), TOGETHER))


def _counts(layer: Layer, widths: Widths, round_to: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The counts that a layer is timed at: one where no group touches them; of a depthwise one the outputs alone."""
    outputs = _steps(layer.outputs, round_to * layer.groups if layer.groups > 1 and not layer.depthwise else round_to)
    inputs = _steps(layer.inputs, round_to * layer.groups if layer.groups > 1 and not layer.depthwise else round_to)
    full = [group.size for group in widths.groups]
    least = [group.blocks for group in widths.groups]
    whole, small = widths.counts(layer, full), widths.counts(layer, least)
    if whole[1] == small[1]:
        outputs = (layer.outputs,)
    if layer.depthwise:
        return (1,), outputs
    return ((layer.inputs,) if whole[0] == small[0] else inputs), outputs


def _steps(channels: int, unit: int) -> tuple[int, ...]:
    rounded = {min(channels, max(unit, round(share * channels / unit) * unit)) for share in SHARES}
    return tuple(sorted(rounded | {channels}))


def _grid(counts: tuple[tuple[int, ...], tuple[int, ...]], known: dict[tuple[int, int], float]) -> Grid:
    inputs, outputs = counts
    return Grid(inputs, outputs, np.array([[known[one, other] for other in outputs] for one in inputs]))


def _recall(memo: Memo | None, clock: Clock, layer: Layer) -> dict[tuple[int, int], float]:
    stored = None if memo is None else memo.get(_parts(clock, layer))
    points = [] if stored is None else json.loads(stored)
    return {(inputs, outputs): ms for inputs, outputs, ms in points}


def _remember(memo: Memo | None, clock: Clock, layer: Layer, known: dict[tuple[int, int], float]) -> None:
    if memo is not None:
        points = [[inputs, outputs, ms] for (inputs, outputs), ms in sorted(known.items())]
        memo.put(_parts(clock, layer), canonical_json(points))


def _parts(clock: Clock, layer: Layer) -> list[Any]:
    return ["latency of a layer", json.loads(json.dumps(layer.signature)), clock.describe()]


def _layer_graph(layer: Layer, point: tuple[int, int], clock: Clock) -> onnx.ModelProto:
    """One layer and the activation behind it, with weights that mean nothing, between integers where it can be."""
    random, batch = np.random.default_rng(0), clock.timer.batch
    inputs, outputs = (point[1], point[1]) if layer.depthwise else point
    groups = inputs if layer.depthwise else layer.groups
    options: dict[str, Any] = {"transB": 1}
    shape, weighted = [batch * layer.positions, inputs], (outputs, inputs // groups)
    if layer.kind != "linear":
        pads, shape = [*layer.padding, *layer.padding], [batch, inputs, *layer.size]
        options = {"strides": layer.stride, "pads": pads, "dilations": layer.dilation, "group": groups}
    if layer.kind == "transposed":
        weighted = (inputs, outputs // groups)
    node = helper.make_node(OPERATORS[layer.kind], ["x", "w", "b"], ["y"], name="layer", **options)
    weight = random.standard_normal((*weighted, *layer.kernel))
    scaled = (weight / np.sqrt(weight[0].size)).astype(np.float32)
    constants = [numpy_helper.from_array(scaled, "w"), numpy_helper.from_array(np.zeros(outputs, np.float32), "b")]
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["y"], ["z"], name="activation")], "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], constants,
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return strip_ends(clock.finished(onnx.shape_inference.infer_shapes(made)))


def _idle_graph() -> onnx.ModelProto:
    """A graph that does nothing to speak of: what a run takes that has nothing to do with layers."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="nothing")], "idle", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
