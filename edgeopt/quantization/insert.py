"""A float graph written again with QDQ pairs, integer weights and integer biases, where a placement wants them.

A tensor `t` becomes `t_quantized` and `t_dequantized`, a weight `w` becomes the initializer `w_quantized` read through
a DequantizeLinear. Names follow from the graph alone, so equal graphs and ranges give equal bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.quantization.arithmetic import Quantizer, bias_quantizer
from edgeopt.quantization.fold import remove_unused_initializers
from edgeopt.quantization.placement import Weighted
from edgeopt.quantization.scheme import Scheme
from edgeopt.quantization.wiring import attribute


def insert_pairs(graph: onnx.ModelProto, scheme: Scheme) -> onnx.ModelProto:
    """A new graph with the pairs of the scheme; the given one, folded, is left as it was."""
    quantized = onnx.ModelProto()
    quantized.CopyFrom(graph)
    _Inserter(quantized.graph, scheme).insert()
    remove_unused_initializers(quantized.graph)
    return quantized


class _Inserter:
    """Rewrites one graph in place."""

    def __init__(self, graph: onnx.GraphProto, scheme: Scheme) -> None:
        self.graph, self.scheme, placement = graph, scheme, scheme.placement
        self.arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.taken = {*self.arrays, *(name for node in graph.node for name in (node.name, *node.input, *node.output))}
        self.pairs = {pair.tensor: pair for pair in placement.pairs}
        self.weighted = {weighted.node: weighted for weighted in placement.weighted}
        self.integer_moves = frozenset(placement.integer_moves)
        self.integers = {pair.tensor: self._fresh(f"{pair.tensor}_quantized") for pair in placement.pairs}
        self.results = {
            pair.tensor: pair.tensor if pair.leaves else self._fresh(f"{pair.tensor}_dequantized")
            for pair in placement.pairs
        }
        self.parameters: dict[str, tuple[str, str]] = {}

    def insert(self) -> None:
        nodes = [each for value in self.graph.input for each in self._pair(value.name, value.name)]
        for node in self.graph.node:
            nodes += self._rewrite(node)
        del self.graph.node[:]
        self.graph.node.extend(nodes)

    def _rewrite(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The node reading what it should read, between the nodes that come before and after it."""
        new = onnx.NodeProto()
        new.CopyFrom(node)
        if node.name in self.integer_moves:
            return self._move_integers(new)
        for index, name in enumerate(node.input):
            if name in self.pairs and node.name in self.pairs[name].readers:
                new.input[index] = self.results[name]
        before = self._read_integers(new, self.weighted[node.name]) if node.name in self.weighted else []
        after = []
        for index, name in enumerate(node.output):
            if name in self.pairs and self.pairs[name].leaves:
                new.output[index] = self._fresh(f"{name}_float")
            after += self._pair(name, new.output[index])
        return [*before, new, *after]

    def _pair(self, tensor: str, source: str) -> list[onnx.NodeProto]:
        """The two nodes that quantize `source`, which holds the float values of `tensor`; none where it has no pair."""
        if tensor not in self.pairs:
            return []
        root = self.pairs[tensor].root
        if root not in self.parameters:
            self.parameters[root] = self._add_parameters(root, self.scheme.activations[tensor])
        inputs = [source, *self.parameters[root]]
        return [self._make_node("QuantizeLinear", tensor, inputs, self.integers[tensor]), *self._dequantize(tensor)]

    def _dequantize(self, tensor: str) -> list[onnx.NodeProto]:
        pair = self.pairs[tensor]
        if not pair.readers and not pair.leaves:
            return []
        inputs = [self.integers[tensor], *self.parameters[pair.root]]
        return [self._make_node("DequantizeLinear", tensor, inputs, self.results[tensor])]

    def _move_integers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Let `node` move integers, of which zero is the zero point."""
        given = node.input[0]
        if node.op_type == "Pad" and attribute(node, "mode", b"constant") == b"constant":
            zero_point = self.parameters[self.pairs[given].root][1]
            pads, rest = node.input[1], node.input[3:]
            del node.input[1:]
            node.input.extend([pads, zero_point, *rest])
        node.input[0] = self.integers[given]
        made = [name for name in node.output if name in self.pairs]
        for index, name in enumerate(node.output):
            node.output[index] = self.integers.get(name, name)
        return [node, *(each for name in made for each in self._dequantize(name))]

    def _read_integers(self, node: onnx.NodeProto, weighted: Weighted) -> list[onnx.NodeProto]:
        """Turn weight and bias of `node` into integers; returns the nodes that dequantize them for it."""
        quantizer = self.scheme.weights[weighted.node]
        chosen = self.scheme.integers.get(weighted.node)
        integers = quantizer.quantize(self.arrays[weighted.weight]) if chosen is None else chosen
        nodes = [self._constant(node, 1, integers, quantizer)]
        if weighted.bias is not None and self.scheme.profile.quantize_bias:
            bias = self.arrays[weighted.bias].reshape(-1)
            scale = float(self.scheme.activations[weighted.activation].scale)
            steps = bias_quantizer(quantizer, scale, len(bias))
            nodes.append(self._constant(node, 2, steps.quantize(bias), steps))
        return nodes

    def _constant(self, node: onnx.NodeProto, index: int, values: NDArray[Any], quantizer: Quantizer) -> onnx.NodeProto:
        """Let `node` read the integers `values` through a DequantizeLinear, which is returned.

        The names come from the node: a weight that several nodes share is quantized for each of them.
        """
        name = f"{node.name}_{('activation', 'weight', 'bias')[index]}"
        integers, result = self._fresh(f"{name}_quantized"), self._fresh(f"{name}_dequantized")
        self._add(integers, values)
        node.input[index] = result
        inputs = [integers, *self._add_parameters(name, quantizer)]
        return self._make_node("DequantizeLinear", name, inputs, result, quantizer.axis)

    def _add_parameters(self, name: str, quantizer: Quantizer) -> tuple[str, str]:
        scale, zero_point = self._fresh(f"{name}_scale"), self._fresh(f"{name}_zero_point")
        self._add(scale, quantizer.scale)
        self._add(zero_point, quantizer.zero_point)
        return scale, zero_point

    def _make_node(
        self, operator: str, about: str, inputs: list[str], output: str, axis: int | None = None
    ) -> onnx.NodeProto:
        node = onnx.helper.make_node(operator, inputs, [output], name=self._fresh(f"{about}_{operator}"))
        if axis is not None:
            node.attribute.append(onnx.helper.make_attribute("axis", axis))
        return node

    def _add(self, name: str, array: NDArray[Any]) -> None:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(array, order="C"), name))

    def _fresh(self, name: str) -> str:
        """`name`, or the first of `name_2`, `name_3` … that the graph does not have."""
        count, free = 1, name
        while free in self.taken:
            count += 1
            free = f"{name}_{count}"
        self.taken.add(free)
        return free
