"""The inspector's report, in the JSON of each major version: 10 joins format and type, 11 tells them apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tensorrt._base import MAJOR, Setting, Strict
from tensorrt._enums import DataType, LayerInformationFormat, TensorIOMode
from tensorrt._graph import Fused, Tensor

#: between the names of the nodes that a layer was made of
SEPARATOR = "\x1e"

NAMES = {
    DataType.FLOAT: "Float", DataType.HALF: "Half", DataType.INT8: "Int8", DataType.INT32: "Int32",
    DataType.INT64: "Int64", DataType.BOOL: "Bool", DataType.UINT8: "UInt8",
}  # fmt: skip
FORMATS = {
    DataType.FLOAT: "Row major linear FP32", DataType.HALF: "Row major linear FP16 format",
    DataType.INT8: "Four wide channel vectorized row major Int8 format",
}  # fmt: skip
KINDS = {
    "Conv": ("CaskConvolution", "Convolution"), "ConvTranspose": ("CaskDeconvolutionV2", "Deconvolution"),
    "Gemm": ("CaskGemmMatrixMultiply", "MatrixMultiply"), "MatMul": ("CaskGemmMatrixMultiply", "MatrixMultiply"),
    "MaxPool": ("CaskPooling", "Pooling"), "AveragePool": ("CaskPooling", "Pooling"),
    "GlobalAveragePool": ("Reduce", "Reduce"), "QuantizeLinear": ("Reformat", "Reformat"),
    "Reshape": ("NoOp", "Shuffle"), "Flatten": ("NoOp", "Shuffle"),
}  # fmt: skip


class EngineInspector(Strict):
    error_recorder = Setting()
    execution_context = Setting()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.EngineInspector: No constructor defined!")

    @classmethod
    def _of(cls, engine: Any) -> EngineInspector:
        made = cls.__new__(cls)
        made._engine = engine
        return made

    def get_layer_information(self, layer_index: int, format: LayerInformationFormat) -> str:
        layer = self._layer(self._engine._graph.fused()[layer_index])
        return json.dumps(layer) if format is LayerInformationFormat.JSON else _name(layer)

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        layers = [self._layer(kernel) for kernel in self._engine._graph.fused()]
        if self._engine._plan.verbosity == "NONE":
            layers = []
        if format is not LayerInformationFormat.JSON:
            return "\n".join(map(_name, layers))
        named = {"Bindings": list(self._engine._tensors)} if MAJOR == 10 else {"I/O Tensors": self._io()}
        return json.dumps({"Layers": layers} | named)

    def _layer(self, kernel: Fused) -> Any:
        if self._engine._plan.verbosity != "DETAILED":
            return kernel.name
        kind, parameters = KINDS.get(kernel.nodes[0].op_type, ("kgen", kernel.nodes[0].op_type))
        graph = self._engine._graph
        is_float = any(node.name in self._engine._plan.float_layers for node in kernel.nodes)
        found = {
            "Name": kernel.name,
            "LayerType": kind,
            "Inputs": [self._tensor(name, is_float) for name in kernel.inputs],
            "Outputs": [self._tensor(kernel.output, is_float)],
            "ParameterType": parameters,
        }
        if kernel.weight:
            weight = graph.tensor(kernel.weight)
            dtype = DataType.FLOAT if is_float else weight.dtype
            found["Weights"] = {"Type": NAMES[dtype], "Count": int(np.prod(weight.shape))}
        metadata = SEPARATOR.join(f"[ONNX Layer: {node.name}]" for node in kernel.nodes)
        ends = {"TacticName": f"fake_{kind.lower()}", "TacticValue": "0x0000000000000000", "StreamId": 0}
        return found | ends | {"Metadata": metadata}

    def _tensor(self, name: str, is_float: bool) -> dict[str, Any]:
        """Of a dynamic shape, the format is told only with a context that knows the shapes."""
        tensor = self._tensors().get(name) or self._engine._graph.tensor(name)
        dtype = DataType.FLOAT if is_float else tensor.dtype or DataType.FLOAT
        is_known = -1 not in tensor.shape
        layout = (
            FORMATS.get(dtype, f"Row major linear {NAMES[dtype]} format") if is_known else "N/A due to dynamic shapes"
        )
        found = {"Name": name, "Location": "Device", "Dimensions": list(tensor.shape)}
        if MAJOR == 10:
            return found | {"Format/Datatype": layout}
        return found | {"Datatype": NAMES[dtype], "Format": layout}

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors, in the shapes that the context has, if there is one and has all."""
        graph, context = self._engine._graph, self.execution_context
        return graph.tensors if context is None or context.infer_shapes() else graph.at(context._given)

    def _io(self) -> list[dict[str, Any]]:
        engine = self._engine
        return [
            {
                "Name": name,
                "IOMode": "Input" if engine.get_tensor_mode(name) is TensorIOMode.INPUT else "Output",
                "DataType": NAMES[tensor.dtype],
                "Dimensions": list(tensor.shape),
                "Location": "Device",
                "IsShapeInferenceIO": False,
                "ProfileInfo": [self._profile(name, index) for index in range(engine.num_optimization_profiles)],
            }
            for name, tensor in engine._tensors.items()
        ]

    def _profile(self, name: str, index: int) -> dict[str, Any]:
        least, best, greatest = (list(dims) for dims in self._engine.get_tensor_profile_shape(name, index))
        layout = self._engine.get_tensor_format_desc(name)
        return {"MinShape": least, "OptShape": best, "MaxShape": greatest, "Format": layout}


def _name(layer: Any) -> str:
    return layer if isinstance(layer, str) else layer["Name"]
