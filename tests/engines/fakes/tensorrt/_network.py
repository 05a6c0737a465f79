"""The network that the parser fills: tensors and layers, one layer a node."""

from __future__ import annotations

from typing import Any

from tensorrt._base import Dims, Setting, Strict, only
from tensorrt._enums import DataType, LayerType, NetworkDefinitionCreationFlag, TensorLocation
from tensorrt._graph import Graph, Tensor

LAYER_TYPES = {
    "Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "Gemm": "MATRIX_MULTIPLY", "MatMul": "MATRIX_MULTIPLY",
    "Relu": "ACTIVATION", "Clip": "ACTIVATION", "Sigmoid": "ACTIVATION", "LeakyRelu": "ACTIVATION", "Cast": "CAST",
    "MaxPool": "POOLING", "AveragePool": "POOLING", "GlobalAveragePool": "REDUCE", "ReduceMean": "REDUCE",
    "Softmax": "SOFTMAX", "Concat": "CONCATENATION", "Reshape": "SHUFFLE", "Flatten": "SHUFFLE",
    "Transpose": "SHUFFLE", "Gather": "GATHER", "Shape": "SHAPE", "Slice": "SLICE", "Resize": "RESIZE",
    "Identity": "IDENTITY", "QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE",
    "InstanceNormalization": "NORMALIZATION", "Exp": "UNARY", "Sqrt": "UNARY",
}  # fmt: skip


class ITensor(Strict):
    name = Setting("")
    location = Setting(TensorLocation.DEVICE)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.ITensor: No constructor defined!")

    @classmethod
    def _of(cls, tensor: Tensor, *, is_input: bool, is_output: bool) -> ITensor:
        made = cls.__new__(cls)
        made.name, made._tensor = tensor.name, tensor
        made._is_input, made._is_output = is_input, is_output
        return made

    @property
    def dtype(self) -> Any:
        return self._tensor.dtype or DataType.FLOAT

    @property
    def shape(self) -> Dims:
        return Dims(self._tensor.shape)

    @property
    def is_network_input(self) -> bool:
        return self._is_input

    @property
    def is_network_output(self) -> bool:
        return self._is_output

    @property
    def is_shape_tensor(self) -> bool:
        return False

    @property
    def is_execution_tensor(self) -> bool:
        return True


class ILayer(Strict):
    name = Setting("")
    metadata = Setting("")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.ILayer: No constructor defined!")

    @classmethod
    def _of(cls, node: Any, network: INetworkDefinition) -> ILayer:
        made = cls.__new__(cls)
        made.name, made.metadata = node.name, f"[ONNX Layer: {node.name}]"
        made._node, made._network = node, network
        return made

    @property
    def type(self) -> Any:
        return LayerType[LAYER_TYPES.get(self._node.op_type, "ELEMENTWISE")]

    @property
    def num_inputs(self) -> int:
        return len(self._node.input)

    @property
    def num_outputs(self) -> int:
        return len(self._node.output)

    def get_input(self, index: int) -> ITensor | None:
        name = self._node.input[index]
        return self._network._tensor(name) if name else None

    def get_output(self, index: int) -> ITensor:
        return self._network._tensor(self._node.output[index])

    def get_output_type(self, index: int) -> Any:
        return self.get_output(index).dtype

    @only(10)
    @property
    def precision(self) -> Any:
        return DataType.FLOAT

    @only(10)
    @property
    def precision_is_set(self) -> bool:
        return False


class INetworkDefinition(Strict):
    name = Setting("Unnamed Network 0")
    error_recorder = Setting()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.INetworkDefinition: No constructor defined!")

    @classmethod
    def _of(cls, builder: Any, flags: int) -> INetworkDefinition:
        made = cls.__new__(cls)
        made._builder, made._flags, made._graph = builder, int(flags), None
        return made

    def _fill(self, graph: Graph) -> None:
        self._graph = graph
        self.name = graph.model.graph.name or self.name

    def _tensor(self, name: str) -> ITensor:
        ins, outs = ({one.name for one in side} for side in (self._graph.inputs, self._graph.outputs))
        return ITensor._of(self._graph.tensor(name), is_input=name in ins, is_output=name in outs)

    @property
    def builder(self) -> Any:
        return self._builder

    @property
    def flags(self) -> int:
        return self._flags

    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:
        return bool(self._flags >> int(flag) & 1)

    @property
    def num_inputs(self) -> int:
        return len(self._graph.inputs) if self._graph else 0

    @property
    def num_outputs(self) -> int:
        return len(self._graph.outputs) if self._graph else 0

    @property
    def num_layers(self) -> int:
        return len(self._graph.nodes) if self._graph else 0

    def get_input(self, index: int) -> ITensor:
        return self._tensor(self._graph.inputs[index].name)

    def get_output(self, index: int) -> ITensor:
        return self._tensor(self._graph.outputs[index].name)

    def get_layer(self, index: int) -> ILayer:
        return ILayer._of(self._graph.nodes[index], self)

    def __len__(self) -> int:
        return self.num_layers

    def __getitem__(self, arg0: int, /) -> ILayer:
        return self.get_layer(arg0)
