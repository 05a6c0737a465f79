"""Who makes and who reads each tensor of a graph, and which of them are float32 activations."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, shape_inference


class Wiring:
    """An index over a graph whose nodes have unique names (see `fold`); made anew after each change.

    Attributes:
        nodes: by name, in the order of the graph.
        producers: tensor → the node that makes it.
        readers: tensor → the nodes that read it, each once.
        constants: initializers by name.
        outputs: names that must keep their meaning: outputs of the graph, and what subgraphs of control flow read.
    """

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in graph.graph.node}
        self.constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.inputs = tuple(value.name for value in graph.graph.input if value.name not in self.constants)
        self.outputs = {value.name for value in graph.graph.output}
        self.producers: dict[str, onnx.NodeProto] = {}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.graph.node:
            for name in dict.fromkeys(filter(None, node.input)):
                self.readers[name].append(node)
            for name in filter(None, node.output):
                self.producers[name] = node
            self.outputs |= captured_names(node)
        self._graph = graph

    @functools.cached_property
    def _types(self) -> dict[str, int]:
        return _element_types(self._graph)

    def element_type(self, tensor: str) -> int:
        """The ONNX number of the tensor's type; 0 where it is not known."""
        return self._types.get(tensor, 0)

    def is_float(self, tensor: str) -> bool:
        """Whether the tensor is known to be float32."""
        return self.element_type(tensor) == onnx.TensorProto.FLOAT

    def is_activation(self, tensor: str) -> bool:
        """Whether the tensor is float32 and depends on the input."""
        return self.is_float(tensor) and tensor not in self.constants

    def array(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer, or None where `tensor` is none."""
        constant = self.constants.get(tensor)
        return None if constant is None else numpy_helper.to_array(constant)

    def sole_reader(self, tensor: str) -> onnx.NodeProto | None:
        """The one node that reads the tensor, or None where there are several or it leaves the graph."""
        readers = self.readers[tensor]
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None

    def activation_of(self, tensor: str, operators: Collection[str]) -> tuple[onnx.NodeProto, ...]:
        """The activation that alone reads the tensor, if it is one of `operators`; `Swish` may be two nodes."""
        reader = self.sole_reader(tensor)
        if reader is not None and reader.op_type in operators:
            return (reader,)
        return self.swish(self.readers[tensor]) if "Swish" in operators and tensor not in self.outputs else ()

    def swish(self, readers: Sequence[onnx.NodeProto]) -> tuple[onnx.NodeProto, ...]:
        """Sigmoid and Mul, if these readers of one tensor are what x · sigmoid(x) is written with; else nothing."""
        found = {node.op_type: node for node in readers}
        if len(readers) != 2 or found.keys() != {"Sigmoid", "Mul"}:
            return ()
        gate, product = found["Sigmoid"], found["Mul"]
        return (gate, product) if self.sole_reader(gate.output[0]) is product else ()


def names_of(graph: onnx.GraphProto) -> set[str]:
    """All names of tensors and nodes."""
    inner = (name for node in graph.node for name in (node.name, *node.input, *node.output))
    return {*(tensor.name for tensor in graph.initializer), *(value.name for value in graph.input), *inner}


def fresh_name(name: str, taken: set[str]) -> str:
    """`name`, or the first of `name_2`, `name_3` … that is not taken; it is from now on."""
    count, free = 1, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


def is_plain_gemm(node: onnx.NodeProto) -> bool:
    """Whether a Gemm is x @ weight + bias with nothing else to it; the weight may be transposed."""
    return attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0 and not attribute(node, "transA", 0)


def captured_names(node: onnx.NodeProto) -> set[str]:
    """Names that the subgraphs of a control-flow node read, at any depth; those of their own tensors do no harm."""
    graphs = [inner for each in node.attribute for inner in ([each.g] if each.HasField("g") else each.graphs)]
    inside = [each for graph in graphs for each in graph.node]
    return {name for each in inside for name in each.input} | {
        *(value.name for graph in graphs for value in graph.output),
        *(name for each in inside for name in captured_names(each)),
    }


def _element_types(graph: onnx.ModelProto) -> dict[str, int]:
    inferred = shape_inference.infer_shapes(graph).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
