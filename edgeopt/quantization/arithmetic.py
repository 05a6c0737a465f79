"""The arithmetic of affine quantization: ranges to scales and zero points, floats to integers and back.

An integer q stands for `(q - zero_point) * scale`. Every range is widened to contain 0, so that zero (padding, ReLU) is
exact. Definitions and rounding are those of ONNX QuantizeLinear: half to even, saturating. Background: Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

IntegerType = Literal["uint8", "int8"]
WeightMethod = Literal["minmax", "mse"]

Floats = NDArray[np.floating[Any]]

#: a bias is kept below half of int32, so that a sum of products of 8-bit integers still fits beside it
BIAS_LIMIT = 2**30

#: how far the scale of a channel may lie below the largest of its tensor: float32 has 24 bits
SCALE_SPREAD = 2.0**-24

#: SQNR of equal arrays, which would be infinite
SQNR_LIMIT_DB = 200.0

#: of the largest weight that `mse` tries, the whole first: of equals the first is taken
WEIGHT_SHARES = tuple(np.linspace(1.0, 0.4, 61))

_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value that a tensor takes."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True)
class Quantizer:
    """How one tensor becomes integers.

    Attributes:
        scale: float32, positive; shape () for the whole tensor, or (channels,) along `axis`.
        zero_point: of the shape of `scale`; its dtype is that of the integers.
        axis: the axis that has a scale of its own, or None.
        reach: how far the integers may be from the zero point; as far as their type goes where it is None.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    axis: int | None = None
    reach: int | None = None

    def quantize(self, values: Floats) -> NDArray[Any]:
        """`values` as integers: rounded half to even, saturating."""
        limits = np.iinfo(self.zero_point.dtype)
        steps = np.rint(values.astype(np.float64) / self._along(self.scale, values.ndim))
        if self.reach is not None:
            steps = np.clip(steps, -self.reach, self.reach)
        moved = steps + self._along(self.zero_point, values.ndim).astype(np.float64)
        integers: NDArray[Any] = np.clip(moved, limits.min, limits.max).astype(self.zero_point.dtype)
        return integers

    def dequantize(self, integers: NDArray[Any]) -> NDArray[np.float32]:
        """The float32 values that `integers` stand for."""
        steps = integers.astype(np.float64) - self._along(self.zero_point, integers.ndim).astype(np.float64)
        values: NDArray[np.float32] = (steps * self._along(self.scale, integers.ndim)).astype(np.float32)
        return values

    def _along(self, parameter: NDArray[Any], rank: int) -> NDArray[Any]:
        if self.axis is None:
            return parameter
        return parameter.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


def activation_quantizer(values: Range, dtype: IntegerType, symmetric: bool) -> Quantizer:
    """One scale over a tensor with that range; a range of no width (all zeros) gets scale 1."""
    limits = np.iinfo(dtype)
    low, high = min(values.low, 0.0), max(values.high, 0.0)
    middle = 0 if dtype == "int8" else 128
    width = max(-low, high) / (limits.max - middle) if symmetric else (high - low) / (limits.max - limits.min)
    scale = width if width > _TINY else 1.0
    zero_point = middle if symmetric else int(np.clip(np.rint(limits.min - low / scale), limits.min, limits.max))
    return Quantizer(np.asarray(scale, np.float32), np.asarray(zero_point, dtype))


def weight_quantizer(
    weight: Floats, dtype: IntegerType, bits: int, axis: int | None, method: WeightMethod = "minmax"
) -> Quantizer:
    """Symmetric scales, one per channel along `axis`, or one for all where it is None.

    They hold the largest weight, or by `mse` cut off as much as makes the squared error of all weights smallest.

    With 7 bits the integers stay within ±64, so that the sum of two products with uint8 fits into int16. A channel of
    zeros, or nearly, gets a scale within `SCALE_SPREAD` of the largest.
    """
    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis)
    largest = np.abs(weight).max(axis=others, initial=0.0).astype(np.float64)
    limit = min(127, 2 ** (bits - 1))
    scale = (largest if method == "minmax" else largest * _best_shares(weight, largest, limit, others)) / limit
    floor = max(float(scale.max(initial=0.0)) * SCALE_SPREAD, _TINY)
    scale = np.where(largest.max(initial=0.0) > _TINY, np.maximum(scale, floor), 1.0).astype(np.float32)
    return Quantizer(scale, np.full(scale.shape, 0 if dtype == "int8" else 128, dtype), axis, limit)


def _best_shares(
    weight: Floats, largest: NDArray[np.float64], limit: int, others: tuple[int, ...] | None
) -> NDArray[np.float64]:
    """Of each channel, or of the whole, the share of its largest weight that makes the squared error smallest."""
    exact = weight.astype(np.float64)
    full = np.maximum(np.abs(exact).max(axis=others, keepdims=True, initial=0.0), _TINY) / limit
    best, least = np.ones_like(full), np.full_like(full, np.inf)
    for share in WEIGHT_SHARES:
        scale = full * share
        error = np.square(np.clip(np.rint(exact / scale), -limit, limit) * scale - exact).sum(
            axis=others, keepdims=True
        )
        best, least = np.where(error < least, share, best), np.minimum(error, least)
    shares: NDArray[np.float64] = best.reshape(largest.shape)
    return shares


def make_room_for_bias(weights: Quantizer, bias: Floats, activation_scale: float) -> Quantizer:
    """`weights` with scales raised where `bias` (channels,) would not fit into int32 in steps of their product.

    Of a transposed convolution in groups each scale serves one channel of every group.
    """
    needed = np.abs(bias).astype(np.float64) / (activation_scale * BIAS_LIMIT)
    needed = needed.reshape(-1, weights.scale.size).max(axis=0) if weights.axis is not None else needed.max(initial=0.0)
    scale = np.maximum(weights.scale, needed * (1 + 1e-6)).astype(np.float32)
    return replace(weights, scale=scale)


def bias_quantizer(weights: Quantizer, activation_scale: float, channels: int) -> Quantizer:
    """How a bias (channels,) becomes int32: in steps of activation scale × weight scale, those of the products."""
    scale = np.resize(weights.scale * np.float32(activation_scale), (channels,)).astype(np.float32)
    return Quantizer(np.maximum(scale, np.float32(_TINY)), np.zeros(channels, np.int32), axis=0)


def sqnr_db(reference: Mapping[str, Floats], quantized: Mapping[str, Floats]) -> float:
    """Signal to quantization noise in dB, of the worst of several tensors; `SQNR_LIMIT_DB` where they are equal."""
    return min((_sqnr_db(array, quantized[name]) for name, array in reference.items()), default=SQNR_LIMIT_DB)


def _sqnr_db(reference: Floats, quantized: Floats) -> float:
    exact = reference.astype(np.float64)
    signal, noise = float(np.square(exact).sum()), float(np.square(exact - quantized).sum())
    if noise == 0.0:
        return SQNR_LIMIT_DB
    return min(SQNR_LIMIT_DB, 10 * math.log10(signal / noise)) if signal else -SQNR_LIMIT_DB
