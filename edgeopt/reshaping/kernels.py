"""What is linear in an image, as a kernel: composed along a branch, moved into one frame, and added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kernel:
    """A linear map of images: what a convolution computes.

    Attributes:
        weight: (outputs, inputs, height, width), all groups in it, with zeros between them; float64.
        bias: (outputs,).
        macs: of one position of the result, in the layers that it comes from.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    groups: int
    macs: float

    @property
    def size(self) -> tuple[int, int]:
        return self.weight.shape[2], self.weight.shape[3]

    def own_weight(self) -> Tensor:
        """(outputs, inputs of one group, height, width), as a convolution has it."""
        outputs, inputs = (side // self.groups for side in self.weight.shape[:2])
        return torch.cat([
            self.weight[at * outputs : (at + 1) * outputs, at * inputs : (at + 1) * inputs]
            for at in range(self.groups)
        ])  # fmt: skip

    def own_macs(self) -> float:
        """Of one position of the result, as one convolution."""
        return self.weight.numel() / self.groups


def of_conv(conv: nn.Conv2d) -> Kernel | None:
    """The kernel of a convolution; None where it does not pad alike with zeros on both sides."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice  # as torch itself pads, whatever `padding` says
    if conv.padding_mode != "zeros" or left != right or top != bottom:
        return None
    given = conv.weight.detach().double()
    outputs, inputs = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    size = [dilation * (side - 1) + 1 for side, dilation in zip(conv.kernel_size, conv.dilation, strict=True)]
    weight = given.new_zeros(conv.out_channels, conv.in_channels, *size)
    for group in range(conv.groups):
        rows, cells = slice(group * outputs, (group + 1) * outputs), slice(group * inputs, (group + 1) * inputs)
        weight[rows, cells, :: conv.dilation[0], :: conv.dilation[1]] = given[rows]
    bias = given.new_zeros(len(given)) if conv.bias is None else conv.bias.detach().double()
    return Kernel(weight, bias, _two(conv.stride), (top, left), conv.groups, given.numel())


def of_norm(norm: nn.BatchNorm2d) -> Kernel | None:
    """The kernel of a normalization that stands still; None where it goes by the batch."""
    if norm.running_var is None or norm.running_mean is None:
        return None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    shift = shift if norm.bias is None else shift + norm.bias.detach().double()
    return Kernel(torch.diag(scale)[:, :, None, None], shift, (1, 1), (0, 0), len(scale), len(scale))


def of_nothing(channels: int) -> Kernel:
    """The kernel that gives what it is given."""
    weight = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
    return Kernel(weight, torch.zeros(channels, dtype=torch.float64), (1, 1), (0, 0), channels, 0)


def compose(first: Kernel, second: Kernel) -> Kernel | None:
    """One behind the other; None where that is no kernel: zeros put around what has a bias are no zeros before it."""
    pointwise = first.size == first.stride == (1, 1) and first.padding == (0, 0) and not first.bias.any()
    if second.padding != (0, 0) and not pointwise:
        return None
    (height, width), (down, across) = second.size, first.stride
    size = first.size[0] + down * (height - 1), first.size[1] + across * (width - 1)
    weight = first.weight.new_zeros(len(second.weight), first.weight.shape[1], *size)
    for row in range(height):
        for cell in range(width):
            taps = torch.einsum("om,mihw->oihw", second.weight[:, :, row, cell], first.weight)
            rows, cells = (
                slice(down * row, down * row + first.size[0]),
                slice(across * cell, across * cell + first.size[1]),
            )
            weight[:, :, rows, cells] += taps
    bias = second.bias + second.weight.sum((2, 3)) @ first.bias
    stride, padding = _two(s * t for s, t in zip(first.stride, second.stride, strict=True)), first.padding
    if second.padding != (0, 0):
        padding = second.padding
    macs = second.macs + first.macs * prod(second.stride)
    return Kernel(weight, bias, stride, padding, gcd(first.groups, second.groups), macs)


def add(kernels: Sequence[Kernel]) -> Kernel | None:
    """Side by side, summed; None where their strides or channels differ."""
    if len({(kernel.stride, kernel.weight.shape[:2]) for kernel in kernels}) > 1:
        return None
    padding = _two(max(kernel.padding[axis] for kernel in kernels) for axis in (0, 1))
    ends = [max(kernel.size[axis] - kernel.padding[axis] for kernel in kernels) for axis in (0, 1)]
    first = kernels[0].weight
    weight = first.new_zeros(*first.shape[:2], padding[0] + ends[0], padding[1] + ends[1])
    for kernel in kernels:
        top, left = padding[0] - kernel.padding[0], padding[1] - kernel.padding[1]
        weight[:, :, top : top + kernel.size[0], left : left + kernel.size[1]] += kernel.weight
    bias, macs = sum((kernel.bias for kernel in kernels), torch.zeros(())), sum(kernel.macs for kernel in kernels)
    return Kernel(weight, bias, kernels[0].stride, padding, gcd(*(kernel.groups for kernel in kernels)), macs)


def _two(values: Iterable[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
