"""The rules of `lint` about operators with a constant weight: its integers, its bias, and whether it is quantized."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeopt.quantization.lint_subject import Finding, Subject, WeightedNode
from edgeopt.quantization.parameters import Parameters
from edgeopt.quantization.wiring import attribute

#: how far the scale of a bias may be from activation scale × weight scale, which is rounded to float32 twice
BIAS_TOLERANCE = 1e-4

#: the smallest scale that `arithmetic` gives a bias
_TINY = float(np.finfo(np.float32).tiny)
_INT32 = np.iinfo(np.int32)


def weight_dtype(subject: Subject) -> Iterator[Finding]:
    """Kernels take one type of weight."""
    wanted = subject.profile.weight_dtype
    for each, weight in _weights(subject):
        if weight.dtype != wanted:
            yield each.node.name, f"its weight is {weight.dtype}; {subject.profile.name} takes {wanted}"


def weight_symmetric(subject: Subject) -> Iterator[Finding]:
    """A zero point beside the middle would cost a sum over each window."""
    for each, weight in _weights(subject):
        if (wrong := weight.off_centre()) is not None:
            yield each.node.name, f"its weight has the zero point {wrong}; {weight.dtype} has to have {weight.middle}"


def weight_axis(subject: Subject) -> Iterator[Finding]:
    """Only the scale of an output can be taken out of its sum."""
    for each, weight in _weights(subject):
        if weight.scale is None or weight.scale.size == 1:
            continue
        axis = weight.axis if each.integers is None else weight.axis % max(each.integers.ndim, 1)
        if weight.scale.ndim > 1:
            yield (
                each.node.name,
                f"its weight has a scale per block; it has to be one per tensor or along axis {each.axis}",
            )
        elif axis != each.axis:
            yield each.node.name, f"its weight has scales along axis {axis}; they have to lie along axis {each.axis}"


def weight_bits(subject: Subject) -> Iterator[Finding]:
    """Products of large weights overflow 16 bits on CPUs that add them in pairs."""
    bits = subject.profile.weight_bits
    limit = 2 ** (bits - 1)
    for each, weight in _weights(subject):
        if each.integers is None or weight.dtype != subject.profile.weight_dtype:
            continue
        reach = np.abs(each.integers.astype(np.int64) - weight.middle)
        beyond = int((reach > limit).sum())
        if beyond:
            found = f"{beyond} of {reach.size} weights lie up to {int(reach.max())} steps from zero"
            yield each.node.name, f"{found}; with {bits} bits it is {limit} at most, or sums saturate"


def bias_float(subject: Subject) -> Iterator[Finding]:
    """A bias in float keeps the operator from being one kernel in integers."""
    for each in subject.weighted:
        has_bias = len(each.node.input) > 2 and bool(each.node.input[2])
        if subject.profile.quantize_bias and each.is_integer and has_bias and each.bias is None:
            yield each.node.name, "its bias is read in float; it has to be int32 behind a DequantizeLinear"


def bias_dtype(subject: Subject) -> Iterator[Finding]:
    """A bias is added to sums, which are int32 around 0."""
    for each, _, _, bias in _biases(subject):
        wrong = None if bias.zero_point is None else bias.off_centre()
        if bias.dtype != "int32":
            yield each.node.name, f"its bias is {bias.dtype}; it has to be int32"
        elif wrong is not None:
            yield each.node.name, f"its bias has the zero point {wrong}; it has to be 0"


def bias_scale(subject: Subject) -> Iterator[Finding]:
    """The sums of products and the bias are added as they are, so that they have to be in the same steps."""
    for each, activation, weight, bias in _biases(subject):
        if activation.scale is None or weight.scale is None or bias.scale is None or activation.scale.size != 1:
            continue
        wanted = np.maximum(activation.scale.item() * _per_channel(each, weight.scale), _TINY)
        found = bias.scale.ravel()
        if found.size != wanted.size and 1 not in (found.size, wanted.size):
            yield each.node.name, f"its bias has {found.size} scales; its weight has {wanted.size}"
            continue
        found, wanted = np.broadcast_arrays(found, wanted)
        off = np.abs(found - wanted) > BIAS_TOLERANCE * wanted
        if off.any():
            first = int(off.argmax())
            product = f"activation scale × weight scale is {wanted[first]:.6g}"
            yield each.node.name, f"its bias has the scale {found[first]:.6g}; {product}"


def bias_overflow(subject: Subject) -> Iterator[Finding]:
    """A value at the end of int32 was cut off there, or overflows with the first product."""
    for each, *_ in _biases(subject):
        _, integers = subject.graph.constant(each.node.input[2])
        if integers is None or integers.dtype != np.int32:
            continue
        count = int(((integers == _INT32.min) | (integers == _INT32.max)).sum())
        if count:
            yield each.node.name, f"{count} of {integers.size} values of its bias are cut off at the ends of int32"


def bias_pair(subject: Subject) -> Iterator[Finding]:
    """Where it is added in float, an int32 input is refused."""
    for each in subject.weighted:
        if not subject.profile.quantize_bias and each.bias is not None:
            yield each.node.name, f"its bias is {each.bias.dtype}; {subject.profile.name} takes it in float"


def few_channels(subject: Subject) -> Iterator[Finding]:
    """Convolutions that have no kernel in integers worth its conversions."""
    least, multiple = subject.profile.least_channels, subject.profile.channel_multiple
    for each in subject.weighted:
        if each.is_integer and each.few and each.integers is not None:
            limit = f"below {least} channels, or off multiples of {multiple}, float is faster"
            yield each.node.name, f"its weight is of shape {list(each.integers.shape)}; {limit}"


def float_input(subject: Subject) -> Iterator[Finding]:
    """Operators with a weight that would compute in integers, but read floats."""
    for each in subject.weighted:
        if each.fits and each.activation is None:
            yield each.node.name, f"it reads `{each.node.input[0]}` in float, so it computes in float"


def float_weight(subject: Subject) -> Iterator[Finding]:
    """Operators that read integers, but their weight in float."""
    for each in subject.weighted:
        if each.fits and each.activation is not None and each.weight is None:
            yield each.node.name, f"it reads its weight `{each.node.input[1]}` in float, so it computes in float"


def float_output(subject: Subject) -> Iterator[Finding]:
    """Operators that would write integers, if nobody read them in float."""
    profile = subject.profile
    for each in subject.weighted:
        wanted = profile.quantize_outputs and each.node.op_type not in profile.float_output_ops
        result = subject.result(each.node)
        if each.is_integer and wanted and not subject.graph.is_quantized(result):
            yield each.node.name, f"somebody reads its result `{result}` in float, so it computes in float"


def _weights(subject: Subject) -> Iterator[tuple[WeightedNode, Parameters]]:
    for each in subject.weighted:
        if each.weight is not None:
            yield each, each.weight


def _biases(subject: Subject) -> Iterator[tuple[WeightedNode, Parameters, Parameters, Parameters]]:
    """Where biases are quantized: the node, then activation, weight and bias."""
    for each in subject.weighted if subject.profile.quantize_bias else ():
        if each.activation is not None and each.weight is not None and each.bias is not None:
            yield each, each.activation, each.weight, each.bias


def _per_channel(each: WeightedNode, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scales of a weight for each output: the groups of a ConvTranspose share theirs."""
    repeats = attribute(each.node, "group", 1) if each.node.op_type == "ConvTranspose" and scale.size > 1 else 1
    return np.tile(scale.ravel(), repeats)
