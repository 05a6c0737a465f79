"""Every choice behind a quantized graph, made before anything is written: where pairs stand, and each one's numbers.

What calibrates, corrects or trains ends in a scheme, and `insert` writes whatever it says: what was tried out and what
ships cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeopt.model import ActivationRange, QuantizationProfile
from edgeopt.quantization.arithmetic import (
    Quantizer,
    Range,
    WeightMethod,
    activation_quantizer,
    make_room_for_bias,
    weight_quantizer,
)
from edgeopt.quantization.placement import Placement


@dataclass(frozen=True)
class Scheme:
    """How one float graph becomes integers.

    Attributes:
        activations: tensor with a pair → its quantizer; those that share a scale have equal ones.
        weights: node with a weight → the quantizer of that weight, with room for its bias where that is quantized too.
        integers: node → its weight as integers, where that is not what rounding gives.
    """

    placement: Placement
    profile: QuantizationProfile
    activations: dict[str, Quantizer]
    weights: dict[str, Quantizer]
    integers: dict[str, NDArray[Any]] = field(default_factory=dict)

    def activation_ranges(self) -> dict[str, ActivationRange]:
        """The quantizers of activations as plain data that travels with the model."""
        return {tensor: _to_plain(quantizer) for tensor, quantizer in self.activations.items()}


def make_scheme(
    graph: onnx.ModelProto,
    placement: Placement,
    ranges: Mapping[str, Range],
    profile: QuantizationProfile,
    weight_method: WeightMethod = "minmax",
) -> Scheme:
    """The scheme that follows from a folded graph and the range of each tensor that gets a pair."""
    activations = _activation_quantizers(placement, {**ranges, **_fixed_ranges(graph, placement, profile)}, profile)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    weights = {}
    for each in placement.weighted:
        quantizer = weight_quantizer(
            arrays[each.weight], profile.weight_dtype, profile.weight_bits, each.axis, weight_method
        )
        if each.bias is not None and profile.quantize_bias:
            scale = float(activations[each.activation].scale)
            quantizer = make_room_for_bias(quantizer, arrays[each.bias].reshape(-1), scale)
        weights[each.node] = quantizer
    return Scheme(placement, profile, activations, weights)


def _activation_quantizers(
    placement: Placement, ranges: Mapping[str, Range], profile: QuantizationProfile
) -> dict[str, Quantizer]:
    """One quantizer per pair; tensors with the same root share the one that holds the ranges of all of them."""
    joined: dict[str, Range] = {}
    for pair in placement.pairs:
        values = ranges[pair.tensor]
        joined[pair.root] = values.union(joined.get(pair.root, values))
    made = {
        root: activation_quantizer(values, profile.activation_dtype, profile.activation_symmetric)
        for root, values in joined.items()
    }
    return {pair.tensor: made[pair.root] for pair in placement.pairs}


def _fixed_ranges(graph: onnx.ModelProto, placement: Placement, profile: QuantizationProfile) -> dict[str, Range]:
    """The ranges that the profile prescribes for what some operators make, and for what shares a root with that."""
    made = {name: profile.fixed_ranges.get(node.op_type) for node in graph.graph.node for name in node.output}
    fixed = {pair.root: Range(*prescribed) for pair in placement.pairs if (prescribed := made.get(pair.tensor))}
    return {pair.tensor: fixed[pair.root] for pair in placement.pairs if pair.root in fixed}


def _to_plain(quantizer: Quantizer) -> ActivationRange:
    scale, zero_point = np.atleast_1d(quantizer.scale), np.atleast_1d(quantizer.zero_point)
    return ActivationRange(scale=tuple(map(float, scale)), zero_point=tuple(map(int, zero_point)), axis=quantizer.axis)
