"""What the rules of `lint` look at: the graph, the profile, and which nodes compute in integers by both of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from edgeopt.model import QuantizationProfile
from edgeopt.quantization.parameters import Parameters
from edgeopt.quantization.qdq import QdqGraph
from edgeopt.quantization.wiring import attribute, is_plain_gemm

#: a rule yields the name of the node that it is about, and a sentence
Finding = tuple[str, str]


@dataclass(frozen=True)
class WeightedNode:
    """A node with a constant weight, as it reads its inputs; each is None where it is read in float.

    Attributes:
        integers: the weight as it is stored or comes out of its pair; None where it is float or not known.
        axis: the one along which the profile wants scales per channel.
        fits: whether the target has a kernel in integers for a node of this form.
        few: whether it has none only because the channels are too few.
    """

    node: onnx.NodeProto
    activation: Parameters | None
    weight: Parameters | None
    bias: Parameters | None
    integers: NDArray[Any] | None
    axis: int
    fits: bool
    few: bool

    @property
    def is_integer(self) -> bool:
        return self.activation is not None and self.weight is not None


class Subject:
    """What the rules are applied to.

    Attributes:
        weighted: the nodes with a constant weight of which the profile says that they compute in integers.
        integer: by name, the nodes that do compute in integers, or move them.
    """

    def __init__(self, graph: QdqGraph, profile: QuantizationProfile) -> None:
        self.graph, self.profile = graph, profile
        self.weighted = tuple(map(self._weighted_node, filter(self._has_constant_weight, graph.wiring.nodes.values())))
        self.integer = {each.node.name: each.node for each in self.weighted if each.is_integer}
        others = graph.wiring.nodes.keys() - {each.node.name for each in self.weighted}
        self.integer |= {
            name: node for name, node in graph.wiring.nodes.items() if name in others and self._joins_integers(node)
        }

    def result(self, node: onnx.NodeProto) -> str:
        """The tensor that gets the pair of the node's output: behind the activation, if one is folded into it."""
        found = self.graph.wiring.activation_of(node.output[0], self.profile.fused_activations)
        return str((node, *(found if self._is_folded(found) else ()))[-1].output[0])

    def folds(self, readers: Sequence[onnx.NodeProto]) -> tuple[onnx.NodeProto, ...]:
        """The activation that these readers of a node's result are, if the target would fold it into that node."""
        operators = self.profile.fused_activations
        found = tuple(readers) if [node.op_type in operators for node in readers] == [True] else ()
        if "Swish" in operators and not found:
            found = self.graph.wiring.swish(readers)
        return found if self._is_folded(found) else ()

    def _is_folded(self, activation: Sequence[onnx.NodeProto]) -> bool:
        """Whether it has constant bounds, or none."""
        return self.graph.varying.isdisjoint(name for node in activation[:1] for name in node.input[1:])

    def _has_constant_weight(self, node: onnx.NodeProto) -> bool:
        known = node.op_type in self.profile.weight_axes and node.op_type in self.profile.quantized_ops
        if not known or node.domain not in ("", "ai.onnx") or len(node.input) < 2:
            return False
        return node.input[0] in self.graph.varying and node.input[1] not in self.graph.varying

    def _weighted_node(self, node: onnx.NodeProto) -> WeightedNode:
        activation, weight, bias = (*node.input, "")[:3]
        axis = self.profile.weight_axes[node.op_type]
        if node.op_type == "Gemm" and attribute(node, "transB", 0):
            axis = 1 - axis
        parameters, integers = self.graph.constant(weight)
        array = self.graph.array(weight) if integers is None else integers
        shape = () if array is None else array.shape
        takes = len(shape) > axis and self._is_taken(node, shape, axis)
        few = takes and not self._is_worth_it(node, shape, axis)
        read, held = self.graph.read(activation), self.graph.read(bias)
        return WeightedNode(node, read, parameters, held, integers, axis, fits=takes and not few, few=few)

    def _is_taken(self, node: onnx.NodeProto, shape: tuple[int, ...], axis: int) -> bool:
        """Whether integers mean the same: all is float32, nothing but x @ weight + bias, one bias per channel."""
        activation, weight, bias = (*node.input, "")[:3]
        if not self.graph.is_float(activation) or not self.graph.is_float(weight):
            return False
        if (node.op_type == "Gemm" and not is_plain_gemm(node)) or (node.op_type == "MatMul" and len(shape) != 2):
            return False
        held, channels = self.graph.array(bias), _channels(node, shape, axis)
        return not bias or (held is not None and held.shape in ((channels,), (1, channels)))

    def _is_worth_it(self, node: onnx.NodeProto, shape: tuple[int, ...], axis: int) -> bool:
        """Whether there are as many channels as the profile asks for; groups have few, and there kernels count."""
        least, multiple = self.profile.least_channels, self.profile.channel_multiple
        if attribute(node, "group", 1) > 1:
            return not least or (_channels(node, shape, axis) % multiple == 0 and min(shape[2:], default=1) >= 3)
        return min(shape[:2]) >= least or all(size % multiple == 0 for size in shape[:2])

    def _joins_integers(self, node: onnx.NodeProto) -> bool:
        """Whether a node without a weight reads integers, and writes them where the target wants that."""
        if node.op_type not in (*self.profile.quantized_ops, *self.profile.passthrough_ops):
            return False
        read = [self.graph.read(name) is not None for name in self.graph.activations(node)]
        if not self.profile.quantize_outputs:
            return any(read)
        reads = all(read) if self.profile.quantize_residual else any(read)
        return bool(read) and reads and any(map(self.graph.is_quantized, (self.result(node), *node.output)))


def _channels(node: onnx.NodeProto, shape: tuple[int, ...], axis: int) -> int:
    groups = int(attribute(node, "group", 1)) if node.op_type == "ConvTranspose" else 1
    return shape[axis] * groups
