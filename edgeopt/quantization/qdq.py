"""A QDQ graph, ours or a foreign one, indexed for those who judge it (see `lint`).

Exporters differ in what they name, in how they store constants, and in what they leave to a default; weights are floats
behind a pair or integers behind a DequantizeLinear; floats may be float16. Here each node has a name, floats are
float32, and each QuantizeLinear and DequantizeLinear says all that it means. What stands inside control flow is not
looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from edgeopt.errors import SourceError
from edgeopt.onnx_graph import SUBGRAPHS, inline_identities
from edgeopt.quantization.parameters import Parameters
from edgeopt.quantization.widen import widen
from edgeopt.quantization.wiring import Wiring, attribute

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
DOMAINS = ("", "ai.onnx", "com.microsoft")


class QdqGraph:
    """An index over a copy of a QDQ graph.

    Attributes:
        parameters: QuantizeLinear or DequantizeLinear → what it says.
        varying: the tensors that depend on the input of the graph; all others are constant.

    Raises:
        SourceError: a node reads what is made behind it, or lacks an input.
    """

    def __init__(self, given: onnx.ModelProto) -> None:
        graph = onnx.ModelProto()
        graph.CopyFrom(given)
        del graph.graph.value_info[:]
        _constants_to_initializers(graph.graph)
        _name_nodes(graph.graph)
        _require_order(graph.graph)
        with _sound_types():
            widen(graph)
            inline_identities(graph)
            self.wiring = Wiring(graph)
            self.wiring.is_float("")  # infers types, once
        self.types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.input}
        self.varying = _varying(self.wiring)
        self.parameters: dict[str, Parameters] = {}
        for node in self.wiring.nodes.values():
            if node.op_type in (QUANTIZE, DEQUANTIZE) and node.domain in DOMAINS and all((*node.input, "")[:2]):
                self.parameters[node.name] = self._read_parameters(node)

    def is_float(self, tensor: str) -> bool:
        return self.dequantizer(tensor) is not None or self.wiring.is_float(tensor)

    def is_activation(self, tensor: str) -> bool:
        return tensor in self.varying and self.is_float(tensor)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """The float tensors among what the node reads that depend on the input of the graph."""
        return [name for name in node.input if self.is_activation(name)]

    def dequantizer(self, tensor: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes the tensor."""
        return self._of(self.wiring.producers.get(tensor), DEQUANTIZE)

    def read(self, tensor: str) -> Parameters | None:
        """How the tensor was dequantized; None for one that was not."""
        node = self.dequantizer(tensor)
        return None if node is None else self.parameters[node.name]

    def quantizers(self, tensor: str) -> list[onnx.NodeProto]:
        """Each QuantizeLinear that reads the tensor."""
        return [node for node in self.wiring.readers[tensor] if self._of(node, QUANTIZE) is not None]

    def dequantizers(self, integers: str) -> list[onnx.NodeProto]:
        """Each DequantizeLinear that reads the integers."""
        return [node for node in self.wiring.readers[integers] if self._of(node, DEQUANTIZE) is not None]

    def is_quantized(self, tensor: str) -> bool:
        """Whether nobody but QuantizeLinear reads the tensor, so that what makes it may write integers."""
        readers = self.wiring.readers[tensor]
        return bool(readers) and len(self.quantizers(tensor)) == len(readers) and tensor not in self.wiring.outputs

    def origin(self, integers: str) -> onnx.NodeProto | None:
        """The QuantizeLinear that the integers come from, behind nodes that only move them."""
        node = self.wiring.producers.get(integers)
        while node is not None and self._moves_integers(node):
            node = self.wiring.producers.get(node.input[0])
        return self._of(node, QUANTIZE)

    def distinct(self) -> list[onnx.NodeProto]:
        """Each QuantizeLinear, and each DequantizeLinear that does not repeat what its QuantizeLinear says."""
        found = []
        for name, parameters in self.parameters.items():
            node = self.wiring.nodes[name]
            origin = None if node.op_type == QUANTIZE else self.origin(node.input[0])
            if origin is None or not parameters.same(self.parameters[origin.name]):
                found.append(node)
        return found

    def array(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer, or of one that is quantized, dequantized or transposed; None where not known."""
        node = self.wiring.producers.get(tensor)
        if node is None:
            return self.wiring.array(tensor)
        parameters = self.parameters.get(node.name)
        given = self.array(node.input[0]) if parameters is not None or node.op_type == "Transpose" else None
        if given is None:
            return None
        if parameters is None:
            return given.transpose(permutation(node, given.ndim))
        quantizer = parameters.quantizer()
        if quantizer is None or not np.isfinite(given.astype(np.float64)).all():
            return None
        if quantizer.axis is not None and given.shape[quantizer.axis : quantizer.axis + 1] != quantizer.scale.shape:
            return None
        return quantizer.quantize(given) if node.op_type == QUANTIZE else quantizer.dequantize(given)

    def constant(self, tensor: str) -> tuple[Parameters | None, NDArray[Any] | None]:
        """How a constant was dequantized, and its integers, both as they lie behind a Transpose."""
        node = self.wiring.producers.get(tensor)
        if node is not None and node.op_type == "Transpose":
            parameters, integers = self.constant(node.input[0])
            if parameters is None or integers is None:
                return None, None
            order = permutation(node, integers.ndim)
            return replace(parameters, axis=order.index(parameters.axis % max(integers.ndim, 1))), integers.transpose(
                order
            )
        found = self.dequantizer(tensor)
        return (None, None) if found is None else (self.parameters[found.name], self.array(found.input[0]))

    def quantizing(self) -> list[onnx.NodeProto]:
        """Each QuantizeLinear of an activation."""
        nodes = [self.wiring.nodes[name] for name in self.parameters]
        return [node for node in nodes if node.op_type == QUANTIZE and node.input[0] in self.varying]

    def readers_behind(self, quantizer: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The nodes that read what the QuantizeLinear wrote, dequantized."""
        dequantized = [node.output[0] for node in self.dequantizers(quantizer.output[0])]
        return [reader for name in dequantized for reader in self.wiring.readers[name]]

    def readers_behind_pairs(self, tensor: str) -> list[onnx.NodeProto]:
        return [reader for quantizer in self.quantizers(tensor) for reader in self.readers_behind(quantizer)]

    def _of(self, node: onnx.NodeProto | None, operator: str) -> onnx.NodeProto | None:
        known = node is not None and node.op_type == operator and node.name in self.parameters
        return node if known else None

    def _moves_integers(self, node: onnx.NodeProto) -> bool:
        return node.name not in self.parameters and bool(node.input) and not self.is_float(node.output[0])

    def _read_parameters(self, node: onnx.NodeProto) -> Parameters:
        sources = tuple(name for name in node.input[1:3] if name)
        scale = self.wiring.array(sources[0])
        zero_point = self.wiring.array(sources[1]) if len(sources) > 1 else np.zeros((), np.int64)
        dtype = self._dtype(node) if zero_point is None or len(sources) == 1 else zero_point.dtype.name
        return Parameters(
            dtype=dtype,
            scale=None if scale is None else scale.astype(np.float64),
            zero_point=None if zero_point is None else zero_point.astype(np.int64),
            axis=self._axis(node),
            sources=sources,
            varies=not self.varying.isdisjoint(sources),
        )

    def _axis(self, node: onnx.NodeProto) -> int:
        axis = int(attribute(node, "axis", 1))
        given = self.array(node.input[0]) if axis < 0 else None
        return axis if given is None else axis + given.ndim

    def _dtype(self, node: onnx.NodeProto) -> str:
        """The type of the integers of a node without a zero point of known value."""
        if node.op_type == QUANTIZE:
            return _dtype_name(attribute(node, "output_dtype", 0) or onnx.TensorProto.UINT8)
        held, origin = self.wiring.array(node.input[0]), self.origin(node.input[0])
        if held is not None:
            return str(held.dtype.name)
        if origin is not None:
            return self.parameters[origin.name].dtype
        return _dtype_name(self.types.get(node.input[0], 0) or onnx.TensorProto.UINT8)


def permutation(transpose: onnx.NodeProto, rank: int) -> list[int]:
    return list(attribute(transpose, "perm", range(rank)[::-1]))


def _dtype_name(element_type: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(element_type).name)


def _varying(wiring: Wiring) -> set[str]:
    varying = set(wiring.inputs)
    for node in wiring.nodes.values():
        opaque = not node.input or any(each.type in SUBGRAPHS for each in node.attribute)
        if opaque or not varying.isdisjoint(node.input):
            varying.update(filter(None, node.output))
    return varying


def _require_order(graph: onnx.GraphProto) -> None:
    coming = {name: node.name for node in graph.node for name in filter(None, node.output)}
    for node in graph.node:
        early = next((name for name in node.input if name in coming), None)
        if early is not None:
            raise SourceError(
                f"the graph is out of order: `{node.name}` reads `{early}`, which `{coming[early]}` makes behind it",
                "export the network again",
            )
        for name in node.output:
            coming.pop(name, None)


@contextlib.contextmanager
def _sound_types() -> Iterator[None]:
    try:
        yield
    except shape_inference.InferenceError as error:
        raise SourceError(f"this is no sound ONNX graph: {error}", "export the network again") from error


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node without a name of its own the name of what it makes."""
    taken: set[str] = {node.name for node in graph.node}
    seen = {""}
    for node in graph.node:
        if node.name in seen:
            name = next(filter(None, node.output), node.op_type)
            while name in taken:
                name += "_"
            taken.add(name)
            node.name = name
        seen.add(node.name)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute]:
        given = node.attribute[0]
        if given.name == "value":
            array = numpy_helper.to_array(given.t)
        elif given.name in ("value_float", "value_floats", "value_int", "value_ints"):
            dtype = np.float32 if "float" in given.name else np.int64
            array = np.asarray(helper.get_attribute_value(given), dtype)
        else:
            continue
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)
