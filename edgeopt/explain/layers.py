"""The graph that was built: its layers, and which of its nodes a node of the running session came from.

ONNX Runtime rewrites a graph as it opens it. What it makes of a node keeps the node's name with something behind it
(`conv_token_3`), or is named by the tensor that it makes (`relu_output_nchwc`), which may be that of an activation or a
sum that was folded in. Where neither leads back to a node, the origin is not known, and nothing is said of its layer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from edgeopt.quantization.wiring import Wiring, attribute

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")

#: what the runtime may fold into the node before it; of those with two inputs, either may be that node
_FOLDED = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "BatchNormalization", "Add", "Sum")

#: what it writes behind the name of a node that it rewrites, one or several
_SUFFIX = re.compile(r"(_token_\d+|/duplicated)+$")
_BLOCKED = "_nchwc"


@dataclass(frozen=True)
class Layer:
    """A convolution.

    Attributes:
        channels_in, channels_out: as given, without what a runtime pads.
        from_input: whether it reads an input of the graph, whose channels nobody chose.
        macs: products of one sample, or None where a size is not known.
    """

    name: str
    kernel: tuple[int, ...]
    groups: int
    channels_in: int
    channels_out: int
    from_input: bool
    macs: int | None


class Source:
    """An index over the graph of an artifact; it gives names to the nodes that have none, so open the same graph."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        _name_nodes(graph)
        self.graph = graph
        self.wiring = Wiring(graph)
        self.nodes = self.wiring.nodes
        self.quantized = any(node.op_type in CONVERSIONS for node in self.nodes.values())
        self.layers = {layer.name: layer for layer in self._find_layers()}

    def origins(self, made: Mapping[str, str]) -> dict[str, str]:
        """The names of the nodes that those of the session came from, empty where that is not known.

        `made` are the session's nodes as they ran: name → operator.
        """
        found: dict[str, str] = {}
        for name, operator in made.items():
            bare, tensor = _SUFFIX.sub("", name), name.removesuffix(_BLOCKED)
            found[name] = bare if bare in self.nodes else ""
            if not found[name] and tensor != name:
                found[name] = self._maker(tensor, operator, found.values())
        return found

    def reads_integers(self, name: str) -> str:
        """The dtype of the integers behind the first input of a node: `uint8`, `int8`, or empty where it is float."""
        node = self.nodes.get(name)
        maker = self.wiring.producers.get(node.input[0]) if node is not None and node.input else None
        return self.integers_of(maker.name) if maker is not None and maker.op_type == "DequantizeLinear" else ""

    def has_weight(self, name: str) -> bool:
        """Whether the second input of a node is a constant, quantized or not."""
        node = self.nodes.get(name)
        return node is not None and len(node.input) > 1 and self._source_of(node.input[1]) in self.wiring.constants

    def has_float_weight(self, name: str) -> bool:
        """Whether it is one that is not quantized."""
        return self.has_weight(name) and self.nodes[name].input[1] in self.wiring.constants

    def integers_of(self, name: str) -> str:
        """The dtype of the integers that a QuantizeLinear makes or a DequantizeLinear reads."""
        node = self.nodes.get(name)
        if node is None or node.op_type not in CONVERSIONS:
            return ""
        zero_point = self.wiring.array(node.input[2]) if len(node.input) > 2 else None
        return "uint8" if zero_point is None else zero_point.dtype.name

    def activation_dtype(self, name: str) -> str:
        """The dtype of the activations that a node is about: those of its readers, where it dequantizes a constant."""
        node = self.nodes.get(name)
        if node is None or node.op_type not in CONVERSIONS:
            return self.reads_integers(name)
        if node.op_type == "DequantizeLinear" and node.input[0] in self.wiring.constants:
            return next((self.reads_integers(reader.name) for reader in self.wiring.readers[node.output[0]]), "")
        return self.integers_of(name)

    def is_border(self, name: str) -> bool:
        """Whether a node converts an input or an output of the graph, which every quantized graph must."""
        node = self.nodes.get(name)
        if node is None:
            return False
        return (node.op_type == "QuantizeLinear" and node.input[0] in self.wiring.inputs) or (
            node.op_type == "DequantizeLinear" and node.output[0] in self.wiring.outputs
        )

    def neighbours(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that a QuantizeLinear takes from or a DequantizeLinear gives to."""
        node = self.nodes.get(name)
        if node is None:
            return []
        if node.op_type == "DequantizeLinear":
            return list(self.wiring.readers[node.output[0]])
        maker = self.wiring.producers.get(node.input[0])
        return [] if maker is None else [maker]

    def _maker(self, tensor: str, operator: str, taken: Collection[str]) -> str:
        """The node of that operator that made `tensor`, but for what was folded in; one that is not taken yet."""
        waiting = [tensor]
        while waiting:
            node = self.wiring.producers.get(waiting.pop(0))
            if node is None:
                continue
            if node.op_type == operator and node.name not in taken:
                return node.name
            if node.op_type in _FOLDED:
                waiting += node.input[:1] if node.op_type not in ("Add", "Sum") else node.input
        return ""

    def _find_layers(self) -> Iterator[Layer]:
        shapes = _shapes(self.graph)
        for node in self.nodes.values():
            weight = self._weight_shape(node) if node.op_type == "Conv" else None
            if weight is None:
                continue
            groups, made = attribute(node, "group", 1), shapes.get(node.output[0], ())
            known = len(made) == len(weight) and all(made[2:])
            yield Layer(
                name=node.name,
                kernel=weight[2:],
                groups=groups,
                channels_in=weight[1] * groups,
                channels_out=weight[0],
                from_input=self._source_of(node.input[0]) in self.wiring.inputs,
                macs=math.prod(weight) * math.prod(made[2:]) if known else None,
            )

    def _weight_shape(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        constant = self.wiring.constants.get(self._source_of(node.input[1]))
        return None if constant is None else tuple(constant.dims)

    def _source_of(self, tensor: str) -> str:
        """The tensor that `tensor` is but for conversions."""
        while (node := self.wiring.producers.get(tensor)) is not None and node.op_type in CONVERSIONS:
            tensor = node.input[0]
        return tensor


def _name_nodes(graph: onnx.ModelProto) -> None:
    """Give a name of its own to each node that has none, or one that another has too."""
    seen: set[str] = {""}
    for index, node in enumerate(graph.graph.node):
        if node.name in seen:
            node.name = f"{node.op_type}_at_{index}"
        seen.add(node.name)


def _shapes(graph: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Tensor → its shape, with 0 for what varies."""
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    values = [*inferred.value_info, *inferred.output]
    return {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values}
