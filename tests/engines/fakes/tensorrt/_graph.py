"""An ONNX graph as the fake sees it: its tensors with types and shapes, and the layers that an engine fuses it into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto

from tensorrt._enums import DataType

TYPES = {
    TensorProto.FLOAT: DataType.FLOAT, TensorProto.FLOAT16: DataType.HALF, TensorProto.BFLOAT16: DataType.BF16,
    TensorProto.INT8: DataType.INT8, TensorProto.UINT8: DataType.UINT8, TensorProto.INT32: DataType.INT32,
    TensorProto.INT64: DataType.INT64, TensorProto.BOOL: DataType.BOOL,
}  # fmt: skip

#: what a kernel does on the way out of the layer before it
EPILOGUES = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Add", "Mul", "BatchNormalization"}
FUSING = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add"}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: Any = None
    shape: Shape = ()


@dataclass
class Fused:
    """Nodes that run as one kernel."""

    nodes: list[Any] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    output: str = ""
    weight: str = ""

    @property
    def name(self) -> str:
        return " + ".join(node.name for node in self.nodes)


class Graph:
    """What can be read off a model without running it."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.weights = {one.name: one for one in model.graph.initializer}
        self.nodes = [node for node in model.graph.node if node.op_type != "Constant"]
        self.tensors = tensors(model)
        self.inputs = [self.tensors[one.name] for one in model.graph.input if one.name not in self.weights]
        self.outputs = [self.tensors[one.name] for one in model.graph.output]
        self.consumers = Counter(name for node in self.nodes for name in node.input)
        self.consumers.update(one.name for one in self.outputs)

    def tensor(self, name: str) -> Tensor:
        return self.tensors.get(name, Tensor(name))

    def at(self, given: Mapping[str, Shape]) -> dict[str, Tensor]:
        """All tensors once the shapes of the inputs are known."""
        fixed = onnx.ModelProto()
        fixed.CopyFrom(self.model)
        for one in fixed.graph.input:
            for dimension, length in zip(one.type.tensor_type.shape.dim, given.get(one.name, ()), strict=False):
                dimension.Clear()
                dimension.dim_value = length
        for one in fixed.graph.output:
            one.type.tensor_type.ClearField("shape")
        del fixed.graph.value_info[:]
        return tensors(fixed)

    def fused(self) -> list[Fused]:
        """The kernels in order: a quantization at the end, and what dequantizes an input, are parts of them."""
        sources: dict[str, str] = {}
        made: dict[str, Fused] = {}
        kernels: list[Fused] = []
        for node in self.nodes:
            if node.op_type == "DequantizeLinear":
                sources[node.output[0]] = node.input[0]
                continue
            kernel = self._joined(node, made)
            if kernel is None:
                kernel = Fused()
                kernels.append(kernel)
            activations = [name for name in node.input if sources.get(name, name) not in self.weights]
            if kernel.output:
                activations = [name for name in activations if name != kernel.output]
            kernel.nodes.append(node)
            kernel.inputs += [sources.get(name, name) for name in activations[: 1 if "Quantize" in node.op_type else 9]]
            weights = [sources.get(name, name) for name in node.input if sources.get(name, name) in self.weights]
            kernel.weight = kernel.weight or next(iter(weights), "")
            kernel.output = node.output[0]
            made[node.output[0]] = kernel
        return kernels

    def _joined(self, node: Any, made: dict[str, Fused]) -> Fused | None:
        """The kernel that a node is the end of, if there is one."""
        if node.op_type not in EPILOGUES | {"QuantizeLinear"}:
            return None
        for name in node.input:
            kernel = made.get(name)
            is_last = kernel is not None and kernel.output == name and self.consumers[name] == 1
            if is_last and (node.op_type == "QuantizeLinear" or kernel.nodes[0].op_type in FUSING):
                return kernel
        return None


def tensors(model: Any) -> dict[str, Tensor]:
    """All tensors whose types are known or can be inferred; −1 stands for a length that is not known."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {one.name: Tensor(one.name, TYPES.get(one.data_type), tuple(one.dims)) for one in inferred.initializer}
    for one in [*inferred.input, *inferred.value_info, *inferred.output]:
        kind = one.type.tensor_type
        lengths = [each.dim_value if each.HasField("dim_value") else -1 for each in kind.shape.dim]
        found[one.name] = Tensor(one.name, TYPES.get(kind.elem_type), tuple(lengths))
    return found


def named(nodes: Sequence[Any]) -> None:
    """Give nodes without a name one, as the parser does."""
    for index, node in enumerate(nodes):
        node.name = node.name or f"node_of_{node.output[0] if node.output else index}"
