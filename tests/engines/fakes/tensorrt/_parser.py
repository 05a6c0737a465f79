"""The ONNX parser: refuses what TensorRT refuses of a convolutional network, and what the test asks it to refuse."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from fake_gpu import fake_gpu
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from tensorrt._base import Strict
from tensorrt._enums import ErrorCode, OnnxParserFlag, Severity
from tensorrt._graph import Graph, named
from tensorrt._network import INetworkDefinition

#: operators on integers, for which no release has an importer
NO_IMPORTER = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
ASYMMETRIC = OnnxParserFlag.ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA


@dataclass(frozen=True)
class _Fault:
    node: int
    name: str
    operator: str
    code: Any
    text: str


class ParserError(Strict):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("tensorrt.ParserError: No constructor defined!")

    @classmethod
    def _of(cls, fault: _Fault) -> ParserError:
        made = cls.__new__(cls)
        made._fault = fault
        return made

    def code(self) -> Any:
        return self._fault.code

    def desc(self) -> str:
        return self._fault.text

    def file(self) -> str:
        return "ModelImporter.cpp"

    def line(self) -> int:
        return 1

    def func(self) -> str:
        return "parseNode"

    def node(self) -> int:
        return self._fault.node

    def node_name(self) -> str:
        return self._fault.name

    def node_operator(self) -> str:
        return self._fault.operator

    def __repr__(self) -> str:
        where = f"In node {self._fault.node} with name: {self._fault.name} and operator: {self._fault.operator}"
        return f"{where} ({self.func()}): {self._fault.code.name}: {self._fault.text}"


class OnnxParser(Strict):
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._faults: list[_Fault] = []
        self._flags = 1 << int(OnnxParserFlag.NATIVE_INSTANCENORM)

    def parse(self, model: Any, path: str | None = None) -> bool:
        try:
            read = onnx.load_from_string(bytes(model))
            if path:
                onnx.load_external_data_for_model(read, os.path.dirname(path))
        except (DecodeError, ValueError, OSError) as error:
            return self._fail(_Fault(-1, "", "", ErrorCode.MODEL_DESERIALIZE_FAILED, f"Failed to parse ONNX: {error}"))
        return self._take(read)

    def parse_from_file(self, model: str) -> bool:
        if not isinstance(model, str):
            raise TypeError("parse_from_file(): incompatible function arguments")
        if not Path(model).is_file():
            self._logger.log(Severity.ERROR, f"Could not open file {model}")
            return False
        return self.parse(Path(model).read_bytes(), model)

    def _fail(self, *faults: _Fault) -> bool:
        self._faults += faults
        for fault in faults:
            self._logger.log(Severity.ERROR, repr(ParserError._of(fault)))
        return not faults

    def _take(self, model: Any) -> bool:
        named(model.graph.node)
        if not self._fail(*self._refused(model)):
            return False
        self._network._fill(Graph(model))
        return True

    def _refused(self, model: Any) -> Iterator[_Fault]:
        weights = {one.name: one for one in model.graph.initializer}
        for index, node in enumerate(model.graph.node):
            if node.domain not in ("", "ai.onnx") or node.op_type in NO_IMPORTER | set(fake_gpu().refuses):
                text = "Plugin not found, are the plugin name, version, and namespace correct?"
                yield _Fault(index, node.name, node.op_type, ErrorCode.UNSUPPORTED_NODE, text)
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and not self.get_flag(ASYMMETRIC):
                text = _asymmetric(node, weights)
                if text:
                    yield _Fault(index, node.name, node.op_type, ErrorCode.UNSUPPORTED_NODE, text)

    @property
    def num_errors(self) -> int:
        return len(self._faults)

    def get_error(self, index: int) -> ParserError:
        return ParserError._of(self._faults[index])

    def clear_errors(self) -> None:
        self._faults.clear()

    @property
    def flags(self) -> int:
        return self._flags

    @flags.setter
    def flags(self, value: int) -> None:
        self._flags = int(value)

    def set_flag(self, flag: OnnxParserFlag) -> None:
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: OnnxParserFlag) -> None:
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: OnnxParserFlag) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def supports_operator(self, op_name: str) -> bool:
        return op_name not in NO_IMPORTER | set(fake_gpu().refuses)

    def supports_model_v2(self, model: Any, path: str | None = None) -> bool:
        read = onnx.load_from_string(bytes(model))
        named(read.graph.node)
        return not list(self._refused(read))

    def get_used_vc_plugin_libraries(self) -> list[str]:
        return []

    def set_builder_config(self, builder_config: Any) -> bool:
        return True


def _asymmetric(node: Any, weights: dict[str, Any]) -> str:
    """What is wrong with the zero point of a pair, if anything: TensorRT quantizes around zero, to signed numbers."""
    point = weights.get(node.input[2]) if len(node.input) > 2 else None
    if point is None:
        return "The zero point must be a build-time constant." if len(node.input) > 2 else ""
    if point.data_type == TensorProto.UINT8:
        return "TensorRT does not support UINT8 types for intermediate tensors in quantization."
    if numpy_helper.to_array(point).astype(float).any():
        return "TensorRT only supports symmetric quantization: the zero point must be all zeros."
    return ""
