"""The scales of a quantized network in training: learned like weights, or following what the tensors hold.

`fake_quantization` asks for the scale of each tensor and weight at each step, and at the end for the quantizers, which
are those that the last step used. What a profile prescribes (`fixed_ranges`) never moves.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgeopt.quantization.arithmetic import BIAS_LIMIT, SCALE_SPREAD, Quantizer, Range, activation_quantizer
from edgeopt.quantization.placement import Weighted
from edgeopt.quantization.scheme import Scheme
from edgeopt.quantization.simulation import scale_of

Ranges = Literal["learned", "averaged"]

#: how much of a moving average stays at each step
KEPT = 0.95

TINY = float(np.finfo(np.float32).tiny)


class Scales(nn.Module):
    """The scale of each pair, by the root of its tensor, and of each weight, by its node.

    `epoch_steps`, the steps of an epoch, is set before the training begins.
    """

    epoch_steps = 0

    def __init__(self, scheme: Scheme, fixed: Iterable[str]) -> None:
        super().__init__()
        self.scheme, self.fixed = scheme, frozenset(fixed)
        self.roots = {pair.tensor: pair.root for pair in scheme.placement.pairs}
        self.starts = {root: scheme.activations[tensor] for tensor, root in self.roots.items()}

    def observe(self, tensor: str, value: Tensor) -> None:
        """Look at what a tensor holds in a step of the training."""

    @abstractmethod
    def activation(self, tensor: str) -> Tensor:
        """The scale of a tensor, shape ()."""

    @abstractmethod
    def weight(self, weighted: Weighted, value: Tensor) -> Tensor:
        """The scale of a weight, shape () or (channels,)."""

    @abstractmethod
    def quantizer(self, tensor: str) -> Quantizer:
        """How a tensor is quantized now."""

    def weight_with_room(self, weighted: Weighted, value: Tensor, bias: Tensor | None) -> Tensor:
        """The scale of a weight, raised where its bias would not fit into int32 (see `make_room_for_bias`)."""
        scale = self.weight(weighted, value)
        if bias is None or not self.scheme.profile.quantize_bias:
            return scale
        needed = bias.detach().reshape(-1).abs() / (self.activation(weighted.activation).detach() * BIAS_LIMIT)
        needed = needed.reshape(-1, scale.numel()).amax(0) if scale.dim() else needed.max()
        return torch.maximum(scale, needed * (1 + 1e-6))


class LearnedScales(Scales):
    """Each scale is a parameter, and the zero points stay.

    The gradient is that of Esser et al., "Learned Step Size Quantization", 2020, which falls out of the arithmetic. It
    is the logarithm that is learned, as in Jain et al., "Trained Quantization Thresholds for Accurate and Efficient
    Fixed-Point Inference of Deep Neural Networks", 2020: steps are then alike for scales of any size, none becomes
    negative, and the factor that the former put on the gradient is of no use with an optimizer that evens it out.
    """

    def __init__(self, scheme: Scheme, fixed: Iterable[str]) -> None:
        super().__init__(scheme, fixed)
        names = [*self.starts, *(("", node) for node in scheme.weights)]
        self._index = {name: index for index, name in enumerate(names)}
        quantizers = [*self.starts.values(), *scheme.weights.values()]
        self._bases = [torch.tensor(np.asarray(quantizer.scale)) for quantizer in quantizers]
        self.logarithms = nn.ParameterList(torch.zeros(base.shape) for base in self._bases)

    def activation(self, tensor: str) -> Tensor:
        root = self.roots[tensor]
        return self._bases[self._index[root]] if root in self.fixed else self._scale(self._index[root])

    def weight(self, weighted: Weighted, value: Tensor) -> Tensor:
        return self._scale(self._index["", weighted.node])

    def quantizer(self, tensor: str) -> Quantizer:
        scale = self.activation(tensor).detach().numpy().copy()
        return replace(self.starts[self.roots[tensor]], scale=scale)

    def _scale(self, index: int) -> Tensor:
        scale: Tensor = self._bases[index] * self.logarithms[index].exp()
        return scale


class AveragedScales(Scales):
    """Ranges of activations are moving averages over the first epoch and stay then; weights follow their largest.

    After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    2018; the averages begin with what calibration found.
    """

    extremes: Tensor
    steps: Tensor

    def __init__(self, scheme: Scheme, fixed: Iterable[str], ranges: dict[str, Range]) -> None:
        super().__init__(scheme, fixed)
        self._index = {tensor: index for index, tensor in enumerate(self.roots)}
        found = [[ranges[tensor].low, ranges[tensor].high] for tensor in self._index]
        self.register_buffer("extremes", torch.tensor(found, dtype=torch.float64).reshape(-1, 2))
        self.register_buffer("steps", torch.zeros(len(found), dtype=torch.int64))

    def observe(self, tensor: str, value: Tensor) -> None:
        index = self._index[tensor]
        if self.roots[tensor] in self.fixed or int(self.steps[index]) >= self.epoch_steps:
            return
        now = torch.stack(value.detach().aminmax()).double()
        self.extremes[index] = KEPT * self.extremes[index] + (1 - KEPT) * now
        self.steps[index] += 1

    def activation(self, tensor: str) -> Tensor:
        return scale_of(self.quantizer(tensor), 0)

    def weight(self, weighted: Weighted, value: Tensor) -> Tensor:
        """That of the largest weight, as `weight_quantizer` makes it."""
        quantizer = self.scheme.weights[weighted.node]
        assert quantizer.reach is not None
        value = value.detach().abs()
        others = [axis for axis in range(value.dim()) if axis != quantizer.axis]
        scale = (value.amax(others) if quantizer.axis is not None else value.max()) / quantizer.reach
        return scale.clamp(min=max(float(scale.max()) * SCALE_SPREAD, TINY))

    def quantizer(self, tensor: str) -> Quantizer:
        root = self.roots[tensor]
        if root in self.fixed:
            return self.starts[root]
        alike = [index for name, index in self._index.items() if self.roots[name] == root]
        low, high = float(self.extremes[alike, 0].min()), float(self.extremes[alike, 1].max())
        profile = self.scheme.profile
        return activation_quantizer(Range(low, high), profile.activation_dtype, profile.activation_symmetric)
