"""Quantization tried out in float, in torch: values put where the integers of a scheme could hold them.

The places are those where `insert` writes pairs and no others: `sees` says which readers of a tensor get its quantized
values. The arithmetic is that of ONNX QuantizeLinear in float32: divided, rounded half to even, saturated. Gradients
pass through the rounding as if it were not there (the straight-through estimator: Bengio et al., "Estimating or
Propagating Gradients Through Stochastic Neurons for Conditional Computation", 2013) and stop where a value saturates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edgeopt.quantization.arithmetic import Quantizer
from edgeopt.quantization.placement import Placement
from edgeopt.quantization.twin import Replace, Sees


def round_through(steps: Tensor) -> Tensor:
    """Rounded half to even, with the gradient of what is not rounded."""
    return steps + (steps.round() - steps).detach()


def fake_quantize(values: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """The nearest multiples of `scale`, of which the factor is between `low` and `high`."""
    return round_through((values / scale).clamp(low, high)) * scale


def limits(quantizer: Quantizer) -> tuple[float, float]:
    """The lowest and the highest integer, counted from the zero point, which all channels have alike."""
    integers, zero_point = np.iinfo(quantizer.zero_point.dtype), int(quantizer.zero_point.flat[0])
    low, high = integers.min - zero_point, integers.max - zero_point
    if quantizer.reach is None:
        return low, high
    return max(low, -quantizer.reach), min(high, quantizer.reach)


def scale_of(quantizer: Quantizer, rank: int) -> Tensor:
    """The scale in a shape that spreads over a tensor of `rank` axes."""
    shape = [-1 if axis == quantizer.axis else 1 for axis in range(rank)] if quantizer.axis is not None else []
    return torch.tensor(np.asarray(quantizer.scale).reshape(shape))


def quantize_activations(quantizers: Mapping[str, Quantizer]) -> Replace:
    """For `Twin.forward`: each tensor that has a quantizer takes the values that its integers stand for."""
    known = {name: (scale_of(quantizer, 0), *limits(quantizer)) for name, quantizer in quantizers.items()}
    return lambda name, value: fake_quantize(value, *known[name]) if name in known else value


def sees(placement: Placement) -> Sees:
    """For `Twin.forward`: whether a reader gets the quantized values of a tensor, as `insert` wires it.

    Second pairs are left to the pairs behind their readers, which have the same scale, and between the two values only
    move. (A Resize that interpolates them there does so before they are on the steps of that scale, not after.)
    """
    readers = {pair.tensor: {*pair.readers, *placement.integer_moves} for pair in placement.pairs}
    for pair in placement.requantized:
        readers[pair.tensor].update(pair.readers)
    for pair in placement.pairs:
        if pair.leaves:
            readers[pair.tensor].add("")

    def seen(tensor: str, node: str) -> bool:
        return tensor in readers and node in readers[tensor]

    return seen
