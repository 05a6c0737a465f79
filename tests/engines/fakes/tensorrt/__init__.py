"""A fake `tensorrt`: as much of the module as a builder and a session need, and nothing that the real one lacks.

An engine here is the ONNX graph that it was built from; ONNX Runtime runs it, on the memory of the fake
`cuda.bindings.runtime` beside it. `fake_gpu` says which version this is and what goes wrong; what a class or an enum
has in one major version only it has here in that one only. `tests/engines/test_api_contract.py` holds all of it against
the real module.
"""

# ruff: noqa: F401, N811

from __future__ import annotations

from typing import Any as _Any

from tensorrt._base import MAJOR as _MAJOR
from tensorrt._base import VERSION as __version__
from tensorrt._base import Dims
from tensorrt._builder import Builder
from tensorrt._config import IBuilderConfig, IOptimizationProfile
from tensorrt._context import NUMPY as _NUMPY
from tensorrt._context import IExecutionContext
from tensorrt._enums import (
    BuilderFlag,
    DataType,
    DeviceType,
    EngineCapability,
    ErrorCode,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    LayerInformationFormat,
    LayerType,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParserFlag,
    PreviewFeature,
    ProfilingVerbosity,
    RuntimePlatform,
    TacticSource,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    TilingOptimizationLevel,
)
from tensorrt._inspect import EngineInspector
from tensorrt._interfaces import ILogger, IProfiler, IProgressMonitor, Logger
from tensorrt._network import ILayer, INetworkDefinition, ITensor
from tensorrt._parser import OnnxParser, ParserError
from tensorrt._plan import IHostMemory, ITimingCache
from tensorrt._refit import OnnxParserRefitter, Refitter
from tensorrt._runtime import ICudaEngine, Runtime

if _MAJOR == 10:
    from tensorrt._enums import QuantizationFlag

float32, float16, bfloat16, fp8 = DataType.FLOAT, DataType.HALF, DataType.BF16, DataType.FP8
int4, int8, int32, int64, uint8 = DataType.INT4, DataType.INT8, DataType.INT32, DataType.INT64, DataType.UINT8
bool = DataType.BOOL


def init_libnvinfer_plugins(logger: _Any, namespace: str) -> int:
    return True


def volume(iterable: _Any) -> int:
    size = 1
    for length in iterable:
        size *= length
    return size


def nptype(trt_type: DataType) -> type:
    if trt_type not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return _NUMPY[trt_type]
