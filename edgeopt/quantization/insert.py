"""A float graph written again with QDQ pairs, integer weights and integer biases, where a placement wants them.

A tensor `t` becomes `t_quantized` and `t_dequantized`, and where it is requantized both again with `_2`; a weight `w`
becomes the initializer `w_quantized` read through a DequantizeLinear. Names follow from the graph alone, so equal
graphs and ranges give equal bytes.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.quantization.arithmetic import Quantizer, bias_quantizer
from edgeopt.quantization.fold import remove_unused_initializers
from edgeopt.quantization.placement import Pair, Weighted
from edgeopt.quantization.scheme import Scheme
from edgeopt.quantization.wiring import attribute, fresh_name, names_of


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
        self.taken = names_of(graph)
        pairs = (*placement.pairs, *placement.requantized)
        self.pairs: defaultdict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            self.pairs[pair.tensor].append(pair)
        self.weighted = {weighted.node: weighted for weighted in placement.weighted}
        self.integer_moves = frozenset(placement.integer_moves)
        self.integers = {pair: self._fresh(f"{pair.tensor}_quantized") for pair in pairs}
        self.results = {
            pair: pair.tensor if pair.leaves else self._fresh(f"{pair.tensor}_dequantized") for pair in pairs
        }
        self.parameters: dict[str, tuple[str, str]] = {}

    def insert(self) -> None:
        nodes = [each for value in self.graph.input for each in self._quantize(value.name, value.name)]
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
            for pair in self.pairs[name]:
                if node.name in pair.readers:
                    new.input[index] = self.results[pair]
        before = self._read_integers(new, self.weighted[node.name]) if node.name in self.weighted else []
        after = []
        for index, name in enumerate(node.output):
            if any(pair.leaves for pair in self.pairs[name]):
                new.output[index] = self._fresh(f"{name}_float")
            after += self._quantize(name, new.output[index])
        return [*before, new, *after]

    def _quantize(self, tensor: str, source: str) -> list[onnx.NodeProto]:
        """The pairs of `tensor`, each behind the one before; `source` holds the float values for the first."""
        nodes = []
        for pair in self.pairs[tensor]:
            if pair.root not in self.parameters:
                self.parameters[pair.root] = self._add_parameters(pair.root, self.scheme.activations[pair.root])
            inputs = [source, *self.parameters[pair.root]]
            nodes += [self._make_node("QuantizeLinear", tensor, inputs, self.integers[pair]), *self._dequantize(pair)]
            source = self.results[pair]
        return nodes

    def _dequantize(self, pair: Pair) -> list[onnx.NodeProto]:
        if not pair.readers and not pair.leaves and pair is self.pairs[pair.tensor][-1]:
            return []
        inputs = [self.integers[pair], *self.parameters[pair.root]]
        return [self._make_node("DequantizeLinear", pair.tensor, inputs, self.results[pair])]

    def _move_integers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Let `node` move integers, of which zero is the zero point."""
        given = self.pairs[node.input[0]][-1]
        if node.op_type == "Pad" and attribute(node, "mode", b"constant") == b"constant":
            zero_point = self.parameters[given.root][1]
            pads, rest = node.input[1], node.input[3:]
            del node.input[1:]
            node.input.extend([pads, zero_point, *rest])
        node.input[0] = self.integers[given]
        made = [pair for name in node.output for pair in self.pairs[name]]
        node.output[:] = [self.integers[self.pairs[name][0]] if self.pairs[name] else name for name in node.output]
        return [node, *(each for pair in made for each in self._dequantize(pair))]

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
        return fresh_name(name, self.taken)
