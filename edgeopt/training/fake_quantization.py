"""A network trained as it will be quantized: its floats are rounded to the steps of a scheme wherever `insert` rounds.

The twin of the folded graph is run with the values of each pair and each weight put on their steps, and gradients pass
through the rounding (see `edgeopt.quantization.simulation`). `loop` trains it like any network. What comes out is the
graph with the trained weights and the scheme with the trained scales, which `insert` writes like any other: that the
two compute the same is a test, not a hope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import numpy_helper
from torch import Tensor, nn

from edgeopt.edits.hold_zeros import mark
from edgeopt.model import QuantizationProfile
from edgeopt.quantization.arithmetic import Quantizer, Range
from edgeopt.quantization.placement import Placement
from edgeopt.quantization.scheme import Scheme, make_scheme
from edgeopt.quantization.simulation import fake_quantize, limits, round_through, sees
from edgeopt.quantization.twin import Tensors, Twin
from edgeopt.training.scales import TINY, AveragedScales, LearnedScales, Ranges, Scales


class FloatNetwork(nn.Module):
    """The twin of a graph that takes its inputs in order, as the loop gives them: the teacher."""

    def __init__(self, graph: onnx.ModelProto, inputs: Sequence[str]) -> None:
        super().__init__()
        self.twin, self.inputs = Twin(graph), tuple(inputs)
        self.requires_grad_(False)

    def forward(self, *values: Tensor) -> Tensors:
        return self.twin(dict(zip(self.inputs, values, strict=True)))  # type: ignore[no-any-return]


class FakeQuantized(nn.Module):
    """A folded graph with quantization simulated; it takes its inputs in order."""

    def __init__(self, graph: onnx.ModelProto, scales: Scales, inputs: Sequence[str]) -> None:
        super().__init__()
        self.twin, self.scales, self.inputs = Twin(graph), scales, tuple(inputs)
        self._graph, self._scheme = graph, scales.scheme
        self._weighted = {each.node: each for each in self._scheme.placement.weighted}
        self._sees = sees(self._scheme.placement)
        names = {id(part): name for name, part in self.twin.named_parameters()}
        # no weight is zero by chance: sparsity has left it, and is to find it so
        mark(self.twin, (names[id(self.twin.tensor(each.weight))] for each in self._weighted.values()))

    def forward(self, *values: Tensor) -> Tensors:
        found: Tensors = self.twin(
            dict(zip(self.inputs, values, strict=True)),
            on_activation=self._quantize,
            on_weight=self._quantize_weight,
            on_bias=self._quantize_bias,
            sees=self._sees,
        )
        return found

    def trained_graph(self) -> onnx.ModelProto:
        """The float graph with the weights as they are now."""
        trained = onnx.ModelProto()
        trained.CopyFrom(self._graph)
        for tensor in trained.graph.initializer:
            value = self.twin.tensor(tensor.name)
            if isinstance(value, nn.Parameter):
                tensor.CopyFrom(numpy_helper.from_array(value.detach().numpy(), tensor.name))
        return trained

    def trained_scheme(self) -> Scheme:
        """The scheme with the scales as they are now."""
        activations = {tensor: self.scales.quantizer(tensor) for tensor in self._scheme.activations}
        weights = {node: self._weight_quantizer(node) for node in self._scheme.weights}
        return replace(self._scheme, activations=activations, weights=weights)

    def _quantize(self, name: str, value: Tensor) -> Tensor:
        if name not in self._scheme.activations:
            return value
        if self.training:
            self.scales.observe(name, value)
        return fake_quantize(value, self.scales.activation(name), *limits(self.scales.quantizer(name)))

    def _quantize_weight(self, node: str, value: Tensor) -> Tensor:
        if node not in self._weighted:
            return value
        axis, scale = self._scheme.weights[node].axis, self._weight_scale(node)
        if axis is not None:
            scale = scale.reshape([-1 if each == axis else 1 for each in range(value.dim())])
        return fake_quantize(value, scale, *limits(self._scheme.weights[node]))

    def _quantize_bias(self, node: str, value: Tensor) -> Tensor:
        """In steps of the products, which are too many to saturate."""
        weighted = self._weighted.get(node)
        if weighted is None or weighted.bias is None or not self._scheme.profile.quantize_bias:
            return value
        step = (self._weight_scale(node) * self.scales.activation(weighted.activation)).detach().clamp(min=TINY)
        if step.dim():  # of a transposed convolution in groups, one scale serves a channel of each
            step = step.repeat(value.numel() // step.numel()).reshape(value.shape)
        return round_through(value / step) * step

    def _weight_scale(self, node: str) -> Tensor:
        weighted = self._weighted[node]
        bias = None if weighted.bias is None else self.twin.tensor(weighted.bias)
        return self.scales.weight_with_room(weighted, self.twin.tensor(weighted.weight), bias)

    def _weight_quantizer(self, node: str) -> Quantizer:
        return replace(self._scheme.weights[node], scale=self._weight_scale(node).detach().numpy().copy())


def make_fake_quantized(
    graph: onnx.ModelProto,
    placement: Placement,
    observed: dict[str, Range],
    profile: QuantizationProfile,
    kind: Ranges,
    inputs: Sequence[str],
) -> FakeQuantized:
    """The network that starts as a calibrated one: `observed` is the range of each tensor with a pair.

    Learned scales of weights start where their error is smallest, as a few steps do not take them far.
    """
    scheme = make_scheme(graph, placement, observed, profile, "mse" if kind == "learned" else "minmax")
    wider = {tensor: Range(2 * each.low, 2 * each.high) for tensor, each in observed.items()}
    other = make_scheme(graph, placement, wider, profile)
    # what does not follow the ranges is prescribed
    fixed = {
        pair.root for pair in placement.pairs
        if scheme.activations[pair.tensor].scale == other.activations[pair.tensor].scale
    }  # fmt: skip
    scales = LearnedScales(scheme, fixed) if kind == "learned" else AveragedScales(scheme, fixed, observed)
    return FakeQuantized(graph, scales, inputs)
