"""Operators that slide a window over images, in torch as ONNX defines them: convolutions and pools.

ONNX pads each side of each axis by its own amount, computes `SAME` from the size of the input, and lets a last window
overhang where `ceil_mode` is set; torch has one amount per axis. So what is not the same on both sides is padded first.
The definitions are those of https://onnx.ai/onnx/operators. `operators` puts these functions into its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]

#: (before, after) of each spatial axis
Pads = list[tuple[int, int]]

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
_MAXIMA = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
_MEANS = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def convolve(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv."""
    axes = x.dim() - 2
    strides, dilations = _per_axis(attributes, "strides", axes), _per_axis(attributes, "dilations", axes)
    pads = pads_of(attributes, x.shape[2:], weight.shape[2:], strides, dilations)
    padding: list[int] | int = 0
    if all(before == after >= 0 for before, after in pads):
        padding = [before for before, _ in pads]
    else:
        x = functional.pad(x, for_torch(pads))
    groups = attributes.get("group", 1)
    result: Tensor = _CONVOLUTIONS[axes - 1](x, weight, bias, strides, padding, dilations, groups)
    return result


def convolve_transposed(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """ConvTranspose: the whole result, from which the pads are cut."""
    axes = x.dim() - 2
    strides, dilations = _per_axis(attributes, "strides", axes), _per_axis(attributes, "dilations", axes)
    more = list(attributes.get("output_padding", [0] * axes))
    groups = attributes.get("group", 1)
    whole: Tensor = _TRANSPOSED[axes - 1](x, weight, bias, strides, 0, more, groups, dilations)
    for axis, (before, after) in enumerate(transposed_pads(attributes, x.shape[2:], whole.shape[2:], strides)):
        whole = whole.narrow(axis + 2, before, whole.shape[axis + 2] - before - after)
    return whole


def pool_maximum(attributes: Attributes, x: Tensor) -> Tensor:
    """MaxPool."""
    kernel, strides, dilations, pads, overhang = _window(attributes, x)
    both = [(before, after + extra) for (before, after), extra in zip(pads, overhang, strict=True)]
    if any(map(any, both)):
        x = functional.pad(x, for_torch(both), value=float("-inf"))
    result: Tensor = _MAXIMA[len(kernel) - 1](x, kernel, strides, 0, dilations)
    return result


def pool_average(attributes: Attributes, x: Tensor) -> Tensor:
    """AveragePool: by the number of elements of a window that count, among which pads are only where asked for."""
    kernel, strides, dilations, pads, overhang = _window(attributes, x)
    if any(dilation != 1 for dilation in dilations):
        raise NotImplementedError("it is dilated")
    pool = _MEANS[len(kernel) - 1]
    if not any(map(any, pads)) and not any(overhang):
        result: Tensor = pool(x, kernel, strides)
        return result
    counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    x = functional.pad(x, for_torch(pads))
    counted = functional.pad(counted, for_torch(pads), value=float(attributes.get("count_include_pad", 0)))
    extra = for_torch([(0, each) for each in overhang])
    mean, share = (pool(functional.pad(each, extra), kernel, strides) for each in (x, counted))
    return mean / share


def _window(attributes: Attributes, x: Tensor) -> tuple[list[int], list[int], list[int], Pads, list[int]]:
    """Kernel, strides, dilations and pads of a pool, and by how much its last window overhangs per axis."""
    axes = x.dim() - 2
    kernel = list(attributes["kernel_shape"])
    strides, dilations = _per_axis(attributes, "strides", axes), _per_axis(attributes, "dilations", axes)
    pads = pads_of(attributes, x.shape[2:], kernel, strides, dilations)
    overhang = [0] * axes
    for axis, (before, after) in enumerate(pads if attributes.get("ceil_mode", 0) else []):
        size, reach = x.shape[axis + 2], dilations[axis] * (kernel[axis] - 1) + 1
        steps = -(-(size + before + after - reach) // strides[axis])
        if steps * strides[axis] >= size + before:  # a window that starts behind the input is none
            steps -= 1
        overhang[axis] = max(0, steps * strides[axis] + reach - size - before - after)
    return kernel, strides, dilations, pads, overhang


def _per_axis(attributes: Attributes, name: str, axes: int) -> list[int]:
    return list(attributes.get(name, [1] * axes))


def pads_of(
    attributes: Attributes, sizes: Sequence[int], kernel: Sequence[int], strides: list[int], dilations: list[int]
) -> Pads:
    """The pads of a window of that kernel on an input of those sizes."""
    automatic = _automatic(attributes)
    if automatic == "VALID":
        return [(0, 0)] * len(sizes)
    if automatic == "NOTSET":
        given = list(attributes.get("pads", [0] * 2 * len(sizes)))
        return list(zip(given[: len(sizes)], given[len(sizes) :], strict=True))
    reaches = [dilation * (size - 1) + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    totals = [
        max(0, (-(-size // stride) - 1) * stride + reach - size)
        for size, stride, reach in zip(sizes, strides, reaches, strict=True)
    ]
    return [_share_out(total, automatic == "SAME_UPPER") for total in totals]


def transposed_pads(attributes: Attributes, sizes: Sequence[int], whole: Sequence[int], strides: list[int]) -> Pads:
    """What is cut from the whole result of a transposed convolution."""
    automatic, wanted = _automatic(attributes), attributes.get("output_shape")
    if wanted is None and not automatic.startswith("SAME"):
        return pads_of(attributes, sizes, [1] * len(sizes), strides, strides)
    if wanted is None:
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    totals = [max(0, have - want) for have, want in zip(whole, wanted[-len(sizes) :], strict=True)]
    return [_share_out(total, automatic == "SAME_UPPER") for total in totals]


def _automatic(attributes: Attributes) -> str:
    value: bytes = attributes.get("auto_pad", b"NOTSET")
    return value.decode()


def _share_out(total: int, upper: bool) -> tuple[int, int]:
    """Half of the padding on either side; what is odd goes behind where `upper` is set, else before."""
    less, more = total // 2, total - total // 2
    return (less, more) if upper else (more, less)


def for_torch(pads: Pads) -> list[int]:
    """Pads in the order of `functional.pad`: the last axis first."""
    return [amount for pair in reversed(pads) for amount in pair]
