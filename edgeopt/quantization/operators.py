"""ONNX operators in torch: the table that `twin` runs a graph by.

A function takes the attributes of a node and its inputs, None for those that are left out, and returns its first output
or all of them. Where it cannot do what a node asks for, it raises NotImplementedError with a half sentence. Only opsets
from 13 on are known, in which `fold` leaves every graph. The definitions are those of https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor
from torch.nn import functional

from edgeopt.quantization import moves, windows
from edgeopt.quantization.moves import integers

Attributes = Mapping[str, Any]
Operator = Callable[..., Tensor | Sequence[Tensor]]


def _plain(function: Callable[..., Tensor]) -> Operator:
    """A function that has no attributes."""
    return lambda attributes, *inputs: function(*inputs)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    product = a @ b
    if attributes.get("alpha", 1.0) != 1.0:
        product = product * attributes["alpha"]
    return product if c is None else product + c * attributes.get("beta", 1.0)


def _divide(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _power(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if low is not None:
        x = x.clamp(min=low.item())
    return x if high is None else x.clamp(max=high.item())


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    line: Tensor = x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5)
    return line.clamp(0, 1)


def _normalize_batch(
    attributes: Attributes, x: Tensor, gain: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if attributes.get("training_mode", 0):
        raise NotImplementedError("it is in training mode")
    return functional.batch_norm(x, mean, variance, gain, shift, eps=attributes.get("epsilon", 1e-5))


def _normalize_instance(attributes: Attributes, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=gain, bias=shift, eps=attributes.get("epsilon", 1e-5))


def _normalize_layer(attributes: Attributes, x: Tensor, gain: Tensor, shift: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", -1) % x.dim()
    normal = functional.layer_norm(x, x.shape[axis:], eps=attributes.get("epsilon", 1e-5)) * gain
    return normal if shift is None else normal + shift


def _reduce(function: Callable[..., Tensor]) -> Operator:
    """A reduction over the given axes, or over all of them."""

    def reduced(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = integers(attributes, "axes", axes)
        if not along and attributes.get("noop_with_empty_axes", 0):
            return x
        return function(x, dim=along or list(range(x.dim())), keepdim=bool(attributes.get("keepdims", 1)))

    return reduced


def _global(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, x: function(x, dim=list(range(2, x.dim())), keepdim=True)


def _joined(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator of any number of inputs."""

    def join(attributes: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return join


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(torch_dtype(attributes["to"]))


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = torch.tensor(onnx.numpy_helper.to_array(attributes["value"])) if "value" in attributes else torch.zeros(1)
    return value.reshape(()).expand(shape.tolist())


def torch_dtype(element_type: int) -> torch.dtype:
    """The torch dtype of an ONNX one."""
    name = onnx.helper.tensor_dtype_to_np_dtype(element_type).name
    dtype: torch.dtype = getattr(torch, name)
    return dtype


OPERATORS: dict[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "AveragePool": windows.pool_average,
    "BatchNormalization": _normalize_batch,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda attributes, *inputs: torch.cat(inputs, attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": windows.convolve,
    "ConvTranspose": windows.convolve_transposed,
    "DepthToSpace": moves.depth_to_space,
    "Div": _divide,
    "Dropout": lambda attributes, x, *ratio: x,
    "Elu": lambda attributes, x: functional.elu(x, attributes.get("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": moves.expand,
    "Flatten": moves.flatten,
    "Gather": moves.gather,
    "Gelu": lambda attributes, x: functional.gelu(x, approximate=attributes.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda x: x),
    "InstanceNormalization": _normalize_instance,
    "LayerNormalization": _normalize_layer,
    "LeakyRelu": lambda attributes, x: functional.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "Max": _joined(torch.maximum),
    "MaxPool": windows.pool_maximum,
    "Min": _joined(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "PRelu": _plain(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pad": moves.pad,
    "Pow": _power,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": moves.reshape,
    "Resize": moves.resize,
    "Shape": moves.shape_of,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": moves.cut,
    "Softmax": lambda attributes, x: torch.softmax(x, attributes.get("axis", -1)),
    "Softplus": _plain(functional.softplus),
    "SpaceToDepth": moves.space_to_depth,
    "Split": moves.split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": moves.squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": moves.transpose,
    "Unsqueeze": moves.unsqueeze,
    "Where": _plain(torch.where),
}
