"""Two of each four weights along the inputs of a layer: what sparse tensor cores compute in half the time.

Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021: of each four weights that are neighbours along the
input channels, at one output channel and one place of the kernel, the two largest stay.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

#: of so many neighbours, so many stay
OF, KEPT = 4, 2


def misfit(layer: _ConvNd | nn.Linear, min_channels: int) -> str:
    """Why a layer stays dense; empty where it need not.

    Args:
        min_channels: with fewer, in or out, no sparse kernel gains anything.
    """
    if isinstance(layer, _ConvTransposeNd):
        return "transposed"
    outputs, inputs = layer.weight.shape[:2]
    if inputs % OF:
        return f"{inputs} input channels are no multiple of {OF}"
    if min(inputs, outputs) < min_channels:
        return f"{inputs} to {outputs} channels, fewer than {min_channels}"
    return ""


def keep_two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """A mask of the shape of a weight, (outputs, inputs, …), with two of each four inputs; of equal ones the first."""
    fours = weight.detach().abs().reshape(weight.shape[0], -1, OF, *weight.shape[2:])
    order = fours.argsort(dim=2, descending=True, stable=True)
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(2, order[:, :, :KEPT], value=True)
    return mask.reshape(weight.shape)


def kept_magnitude(columns: torch.Tensor) -> torch.Tensor:
    """(…,) the sum over rows of the two largest of four magnitudes (…, 4, rows)."""
    first, second, third, fourth = columns.unbind(-2)
    high, low = torch.maximum(first, second), torch.minimum(first, second)
    other_high, other_low = torch.maximum(third, fourth), torch.minimum(third, fourth)
    largest = torch.maximum(high, other_high)
    next_one = torch.maximum(torch.minimum(high, other_high), torch.maximum(low, other_low))
    return (largest + next_one).sum(-1)
