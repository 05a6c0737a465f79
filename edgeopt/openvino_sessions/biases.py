"""A bias for quantized convolutions that have none, without which OpenVINO's CPU plugin computes something else.

What a convolution in integers gives is multiplied by a scale. OpenVINO moves that product behind what reads it; where
several do, each gets a product of its own. Then its CPU plugin takes the first product behind a convolution for the
convolution's own scale, without a look at who else reads it: that reader gets the scale twice. So it was found in
OpenVINO 2026.4.1, where it took a DenseNet from 85 to 45 % of its images. It wants

- a convolution of any rank between pairs, grouped or not, with a zero point or without, padded or not,
- no bias behind it, or one of zeros, which OpenVINO drops; Mul with a constant may stand there,
- two readers of what it gives in float: a product can be moved past one of them (Relu, Clip, PRelu, MaxPool, averages,
  Slice, Transpose, Flatten …) or it is a product with a constant, and the other is of another kind or an output,
- and a product that is left to that plugin: in graphs with any symbolic axis, and on a CPU without AVX2 in all graphs.
  Elsewhere OpenVINO's own compiler of products takes it first, which is why a fixed shape seemed to help.

ConvTranspose, Gemm and MatMul are right. With any bias the product stands behind the sum, and all is right. So each
such convolution that several read is given one so small that it changes no bit of a sum, which takes no time (1.00 on
that DenseNet). To compile a network for each shape that comes would take hundreds of milliseconds each time, and would
be wrong without AVX2 as before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CONVOLUTIONS = ("Convolution", "GroupConvolution")

#: keep a product a product, wherever it stands between a convolution and those who read it
PRODUCTS = ("Multiply", "Divide", "BatchNormInference")
SUMS = ("Add", "Subtract")

#: below the last bit of any sum, and far above what is flushed to zero
TINY = 1e-30


def give_biases(network: Any) -> int:
    """Add a bias to quantized convolutions of OpenVINO's `network` that have none and several readers.

    Returns:
        To how many.
    """
    chosen = [node for node in network.get_ordered_ops() if _is_quantized(node) and _is_shared(node.output(0))]
    for node in chosen:
        _add_tiny(node.output(0))
    return len(chosen)


def _is_quantized(node: Any) -> bool:
    """Whether it is a convolution whose weights are not floats, which are a constant."""
    return node.get_type_name() in CONVOLUTIONS and node.input_value(1).get_node().get_type_name() != "Constant"


def _is_shared(output: Any) -> bool:
    """Whether several read it, as it is or behind products alone."""
    nodes = [port.get_node() for port in output.get_target_inputs()]
    readers = [node for node in nodes if node.get_type_name() != "ShapeOf"]  # as a bias has, where axes are symbolic
    if len(readers) != 1:
        return len(readers) > 1
    (reader,) = readers
    kind = reader.get_type_name()
    return (kind in PRODUCTS or (kind in SUMS and _adds_nothing(reader))) and _is_shared(reader.output(0))


def _adds_nothing(node: Any) -> bool:
    """Whether one of two operands is a constant of zeros, perhaps behind the Reshape that a bias has."""
    for port in range(node.get_input_size()):
        source = node.input_value(port).get_node()
        if source.get_type_name() == "Reshape":
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Constant":
            return not np.any(source.data)
    return False


def _add_tiny(output: Any) -> None:
    from openvino import opset13

    readers = list(output.get_target_inputs())
    shape = output.get_partial_shape()
    kind = output.get_element_type()
    tiny = max(TINY, float(np.finfo(kind.to_dtype()).smallest_subnormal))
    bias = np.full([1, shape[1].get_length(), *[1] * (len(shape) - 2)], tiny, kind.to_dtype())
    added = opset13.add(output, opset13.constant(bias))
    for reader in readers:
        reader.replace_source_output(added.output(0))
